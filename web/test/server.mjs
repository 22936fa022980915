// A static server for tests: byte ranges, ETags, CORS, a count of what was asked for, and routes that misbehave.
import { createHash } from 'node:crypto';
import { createReadStream, readFileSync, statSync } from 'node:fs';
import { createServer } from 'node:http';
import { extname, join, normalize } from 'node:path';

const TYPES = { '.html': 'text/html', '.js': 'text/javascript', '.css': 'text/css', '.json': 'application/json', '.wasm': 'application/wasm', '.svg': 'image/svg+xml' };

/**
 * Starts a server. `mounts` maps a prefix of a path to folders, of which the first that has the file serves it. A path
 * may begin with rules, each `/~NAME=VALUE`:
 *
 * - `cut=N`: every answer breaks off after N bytes, a while later where the same bytes are asked for again: a browser
 *   forgets what it had not yet passed on;
 * - `rate=N`: N bytes a second;
 * - `ranges=no`: no byte ranges;
 * - `cors=no`: no other origin may read the answer;
 * - `status=N`: the answer is an error;
 * - `corrupt=N`: byte N is another one.
 *
 * A test may give other `mounts` later, and `hold`, a function of an answer so far, for whose promise the answer waits.
 */
export async function serve(mounts, port = 0) {
  const state = { requests: [], mounts, hub: undefined, hold: undefined };
  const server = createServer((request, response) => {
    answer(state, request, response).catch(() => response.destroy());
  });
  await new Promise((resolve) => server.listen(port, '127.0.0.1', resolve));
  const origin = `http://localhost:${server.address().port}`;
  const close = () => {
    server.closeAllConnections();
    server.close();
  };
  const closeConnections = () => server.closeAllConnections();
  return Object.assign(state, { origin, close, closeConnections, count: (part) => counted(state.requests, part) });
}

/** Requests of paths that hold `part`, and the bytes of their bodies. */
function counted(requests, part) {
  const of = requests.filter(({ path, method }) => path.includes(part) && method !== 'OPTIONS');
  const bodies = of.filter(({ method }) => method === 'GET');
  return { requests: of.length, bodies: bodies.length, bytes: bodies.reduce((sum, { bytes }) => sum + bytes, 0), of };
}

function rulesOf(path) {
  const rules = {};
  for (let match; (match = /^\/~(\w+)=([^/]*)/.exec(path)); path = path.slice(match[0].length)) rules[match[1]] = match[2];
  return { rules, path };
}

function find(mounts, path) {
  for (const [prefix, folders] of Object.entries(mounts)) {
    if (!path.startsWith(prefix)) continue;
    const rest = normalize(path.slice(prefix.length) || 'index.html');
    if (rest.startsWith('..')) continue;
    for (const folder of [folders].flat()) {
      const file = join(folder, rest.endsWith('/') ? `${rest}index.html` : rest);
      const facts = statSync(file, { throwIfNoEntry: false });
      if (facts?.isFile()) return { file, size: facts.size };
    }
  }
  return undefined;
}

const tags = new Map();
function etag(file) {
  if (!tags.has(file)) tags.set(file, createHash('sha256').update(readFileSync(file)).digest('hex'));
  return tags.get(file);
}

async function answer(state, request, response) {
  const { rules, path } = rulesOf(decodeURIComponent(request.url.split('?')[0]));
  const { method, headers: { range, authorization } } = request;
  const again = state.requests.filter((one) => one.method === method && one.path === path && one.range === range).length;
  const seen = { method, path, range, authorization, again, bytes: 0 };
  state.requests.push(seen);
  if (rules.cors !== 'no') {
    response.setHeader('access-control-allow-origin', '*');
    response.setHeader('access-control-allow-headers', 'authorization, range');
    response.setHeader('access-control-expose-headers', 'etag, content-range, accept-ranges');
  }
  if (request.method === 'OPTIONS') return response.end();
  if (rules.status) return response.writeHead(Number(rules.status)).end();
  if (state.hub?.(path, request, response)) return;
  const found = find(state.mounts, path);
  if (!found) return response.writeHead(404).end('not found');
  await send(found, rules, seen, request, response, state);
}

async function send({ file, size }, rules, seen, request, response, state) {
  const headers = { 'content-type': TYPES[extname(file)] ?? 'application/octet-stream', etag: `"${etag(file)}"`, 'cache-control': 'no-store' };
  let [from, to] = [0, size];
  const range = /^bytes=(\d+)-(\d*)$/.exec(request.headers.range ?? '');
  if (rules.ranges !== 'no') headers['accept-ranges'] = 'bytes';
  if (range && rules.ranges !== 'no') {
    [from, to] = [Number(range[1]), range[2] ? Math.min(Number(range[2]) + 1, size) : size];
    if (from >= to) return response.writeHead(416, { 'content-range': `bytes */${size}` }).end();
    headers['content-range'] = `bytes ${from}-${to - 1}/${size}`;
  }
  response.writeHead(headers['content-range'] ? 206 : 200, { ...headers, 'content-length': to - from });
  if (request.method === 'HEAD' || from === to) return response.end();
  await pour(createReadStream(file, { start: from, end: to - 1, highWaterMark: 16 << 10 }), from, rules, seen, response, state);
}

async function pour(stream, at, rules, seen, response, state) {
  for await (let bytes of stream) {
    if (response.destroyed) return;
    const left = rules.cut ? Number(rules.cut) - seen.bytes : Infinity;
    if (bytes.length > left) bytes = bytes.subarray(0, left);
    const wrong = Number(rules.corrupt ?? NaN) - at;
    if (wrong >= 0 && wrong < bytes.length) bytes[wrong] ^= 1;
    at += bytes.length;
    seen.bytes += bytes.length;
    await new Promise((resolve) => response.write(bytes, resolve));
    await state.hold?.(seen);
    if (seen.bytes >= Number(rules.cut ?? Infinity)) {
      if (seen.bytes) await new Promise((resolve) => setTimeout(resolve, 50 * 4 ** seen.again));
      return response.destroy();
    }
    if (rules.rate) await new Promise((resolve) => setTimeout(resolve, (bytes.length * 1000) / Number(rules.rate)));
  }
  response.end();
}

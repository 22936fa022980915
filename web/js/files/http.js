/** Requests, and what their failures mean. */
import { GemmaflowError } from '../errors.js';

const RETRIES = 4;
const FIRST_PAUSE = 250;

/**
 * @typedef {object} RemoteFile
 * @property {string} path Its place in the model's folder.
 * @property {string} url
 * @property {number | undefined} size
 * @property {number | undefined} [about] For progress, where the size is not known.
 * @property {string | undefined} version What changes with its contents: an ETag, a hash or a date.
 * @property {string | undefined} sha256
 * @property {string | undefined} token
 *
 * @typedef {{ method?: string, headers?: Record<string, string>, token?: string | undefined, signal?: AbortSignal }} RequestOptions
 */

/**
 * A response with a status of success.
 *
 * @param {string} url
 * @param {RequestOptions} [options]
 * @returns {Promise<Response>}
 */
export async function request(url, { method = 'GET', headers = {}, token, signal } = {}) {
  if (token) headers = { ...headers, authorization: `Bearer ${token}` };
  let response;
  try {
    response = await fetch(url, { method, headers, signal: signal ?? null });
  } catch (error) {
    signal?.throwIfAborted();
    throw await unreachable(url, error);
  }
  if (!response.ok) {
    response.body?.cancel().catch(() => {});
    throw refused(url, response.status, !!token);
  }
  return response;
}

/**
 * A failed request says nothing of its reason. One whose answer nobody may read tells whether the server is there.
 *
 * @param {string} url
 * @param {unknown} error
 */
async function unreachable(url, error) {
  const host = new URL(url).host;
  if (!navigator.onLine) {
    return new GemmaflowError('Offline', `${url}: this device is offline. Connect it and try again; what is here is kept.`);
  }
  const other = new URL(url).origin !== location.origin;
  const answers = other && (await fetch(url, { method: 'HEAD', mode: 'no-cors' }).then(() => true, () => false));
  if (answers) {
    const advice = `It must send "Access-Control-Allow-Origin: ${location.origin}" (CORS). Change that, or download the file and open it from disk.`;
    return new GemmaflowError('Cors', `${url}: ${host} answers, but does not let pages of ${location.origin} read it. ${advice}`);
  }
  const problem = error instanceof Error ? error.message : String(error);
  return new GemmaflowError('Network', `${url}: no answer from ${host} (${problem}). Check the address and the connection, and try again.`);
}

/**
 * @param {string} url
 * @param {number} status
 * @param {boolean} token
 */
function refused(url, status, token) {
  if (status === 401 || status === 403) {
    const had = token ? 'with the token given' : 'without a token';
    const advice = "If the model is gated, accept its licence on the Hub and pass an access token of the same account (option 'token'); otherwise check the name.";
    return new GemmaflowError('Access', `${url}: the server refused access ${had} (HTTP ${status}). ${advice}`);
  }
  if (status === 404 || status === 410) {
    return new GemmaflowError('Missing', `${url}: the server has no such file (HTTP ${status}). Check the name.`);
  }
  return new GemmaflowError('Http', `${url}: the server answered HTTP ${status}, expected 200 or 206. Try again later.`);
}

/** @param {Response} response */
function versionOf(response) {
  return response.headers.get('etag') ?? response.headers.get('last-modified') ?? undefined;
}

/** @param {string | null} text */
function toSize(text) {
  return text !== null && /^\d+$/.test(text) ? Number(text) : undefined;
}

/**
 * What the server says of a file, or undefined where it has none.
 *
 * @param {string} url
 * @param {RequestOptions} options
 */
export async function probe(url, options) {
  const response = await request(url, { ...options, method: 'HEAD' }).catch((error) => {
    if (error.kind === 'Missing') return undefined;
    throw error;
  });
  if (!response) return undefined;
  const linked = response.headers.get('x-linked-etag')?.replaceAll('"', '');
  const sha256 = linked && /^[0-9a-f]{64}$/.test(linked) ? linked : undefined;
  // Texts may come compressed, of which servers of other origins need not tell: their length is then not the file's.
  const isText = !/\.(gguf|safetensors)$/i.test(new URL(url).pathname);
  const about = toSize(response.headers.get('content-length'));
  const size = toSize(response.headers.get('x-linked-size')) ?? (isText ? undefined : about);
  return { url, size, about, version: versionOf(response), sha256 };
}

/**
 * True where the server answers byte ranges.
 *
 * @param {RemoteFile} file
 * @param {AbortSignal} signal
 */
export async function hasRanges({ url, token }, signal) {
  const response = await request(url, { token, signal, headers: { range: 'bytes=0-0' } });
  response.body?.cancel().catch(() => {});
  return response.status === 206;
}

/**
 * The bytes of a file from `offset` on. An interrupted answer goes on where it ended.
 *
 * @param {RemoteFile} file
 * @param {number} offset
 * @param {AbortSignal} signal
 * @returns {AsyncGenerator<Uint8Array>}
 */
export async function* stream(file, offset, signal) {
  let failures = 0;
  while (file.size === undefined || offset < file.size) {
    const before = offset;
    let problem;
    try {
      for await (const bytes of answer(file, offset, signal)) {
        offset += bytes.length;
        yield bytes;
      }
      if (file.size === undefined || offset === file.size) return;
      if (offset > file.size) throw changed(file, `at least ${offset}`);
      problem = truncated(file, offset);
    } catch (error) {
      signal.throwIfAborted();
      if (!isPassing(error)) throw error;
      problem = error;
    }
    failures = offset > before ? 0 : failures + 1;
    if (failures > RETRIES || file.size === undefined) throw problem;
    await pause(FIRST_PAUSE * 2 ** failures, signal);
  }
}

/**
 * The bytes of one answer.
 *
 * @param {RemoteFile} file
 * @param {number} offset
 * @param {AbortSignal} signal
 * @returns {AsyncGenerator<Uint8Array>}
 */
async function* answer(file, offset, signal) {
  /** @type {Record<string, string>} */
  const headers = offset ? { range: `bytes=${offset}-` } : {};
  const response = await request(file.url, { token: file.token, signal, headers });
  checkUnchanged(file, response);
  // A server without ranges begins at the start.
  let skip = response.status === 206 ? 0 : offset;
  const reader = /** @type {ReadableStream<Uint8Array>} */ (response.body).getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const taken = Math.min(skip, value.length);
      skip -= taken;
      if (value.length > taken) yield value.subarray(taken);
    }
  } catch (error) {
    signal.throwIfAborted();
    throw error instanceof TypeError ? truncated(file, undefined) : error;
  } finally {
    reader.cancel().catch(() => {});
  }
}

/**
 * @param {RemoteFile} file
 * @param {Response} response
 */
function checkUnchanged(file, response) {
  const range = response.headers.get('content-range');
  const whole = response.headers.has('content-encoding') ? null : response.headers.get('content-length');
  const size = range ? toSize(range.split('/')[1]) : response.status === 200 ? toSize(whole) : undefined;
  if (size !== undefined && file.size !== undefined && size !== file.size) throw changed(file, size);
}

/**
 * @param {RemoteFile} file
 * @param {number | string} found
 */
function changed({ url, size }, found) {
  const text = `${url}: the file has ${found} bytes now, expected ${size}. It changed on the server; open it again.`;
  return new GemmaflowError('Changed', text);
}

/**
 * @param {RemoteFile} file
 * @param {number | undefined} found
 */
function truncated({ url, size }, found) {
  const ended = found === undefined ? 'the connection broke' : `the answer ended after ${found} bytes`;
  const text = `${url}: ${ended}, expected ${size ?? 'more'} bytes. What is here is kept; open it again to go on.`;
  return new GemmaflowError('Truncated', text);
}

/** @param {unknown} error */
function isPassing(error) {
  const { kind, message } = /** @type {GemmaflowError} */ (error);
  return kind === 'Network' || kind === 'Truncated' || (kind === 'Http' && /HTTP (408|429|5\d\d)/.test(message));
}

/**
 * @param {number} milliseconds
 * @param {AbortSignal} signal
 */
function pause(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, milliseconds);
    signal.addEventListener('abort', () => {
      clearTimeout(timer);
      reject(signal.reason);
    }, { once: true });
  });
}

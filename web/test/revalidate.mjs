// A newer version of a model that is in the cache: the old one serves until the new one is whole and right.
import assert from 'node:assert/strict';
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const SOURCE = '/own/model.gguf';
const PIECE = 64 << 10;
/** Bytes of an answer after which a test's server waits, and those that are then in the cache at least. */
const [HELD, FAR] = [400_000, 3 * PIECE];

const sumOf = (bytes) => bytes.reduce((sum, byte) => (Math.imul(sum, 31) + byte) >>> 0, 0);

/** Opens a model, and gives its report and the stages of its progress. */
const openModel = ({ source, options }) =>
  caught(
    (async () => {
      const stages = new Set();
      const model = await gemmaflow.Model.open(source, { pieceBytes: 65536, ...options, onProgress: ({ stage }) => stages.add(stage) });
      const report = model.report();
      model.free();
      return { ...report, stages: [...stages] };
    })(),
  );

const tryOpen = (page, options = {}, source = SOURCE) => page.evaluate(openModel, { source, options });

async function opened(page, options, source) {
  const { value, kind, message } = await tryOpen(page, options, source);
  assert.ok(value, `${kind}: ${message}`);
  return value;
}

/** Begins to fetch a newer version, of which the server gives a part. What it returns cancels that. */
async function begin(page, server, file, source = SOURCE) {
  let release;
  const until = new Promise((resolve) => (release = resolve));
  server.hold = ({ path, bytes }) => path.endsWith(file) && bytes >= HELD && until;
  await page.evaluate(async ([source, far]) => {
    const bytes = async () => (await gemmaflow.cache.list())[0].bytes;
    const before = await bytes();
    window.controller = new AbortController();
    window.update = caught(gemmaflow.Model.open(source, { pieceBytes: 65536, revalidate: true, signal: controller.signal }));
    while ((await bytes()) < before + far) await new Promise((resolve) => setTimeout(resolve, 20));
  }, [source, FAR]);
  return async () => {
    const error = await page.evaluate(() => (controller.abort(), update));
    assert.equal(error.name, 'AbortError', error.message);
    server.hold = undefined;
    release();
  };
}

/** The names of all files in the cache. */
const names = (page) =>
  page.evaluate(async () => {
    const root = await (await navigator.storage.getDirectory()).getDirectoryHandle('gemmaflow');
    const names = [];
    for await (const folder of root.values()) for await (const name of folder.keys()) names.push(name);
    return names.sort();
  });

const listed = async (page) => (await page.evaluate(() => gemmaflow.cache.list())).map(({ bytes, total, complete }) => ({ bytes, total, complete }));
const whole = (size) => [{ bytes: size, total: size, complete: true }];

export default function add(test, { root }) {
  const contents = readFileSync(`${root}/tests/data/gguf/gemma1-k-q4_k_m/model.gguf`);
  /** Three versions of a file, of different lengths. */
  const versions = [0, 1, 2].map((count) => Buffer.concat([contents, Buffer.alloc(1000 * count, count)]));
  const [old, newer, newest] = versions.map((bytes) => ({ size: bytes.length, sum: sumOf(bytes) }));

  /** A test whose server has one of several versions at a time in /own/. */
  const versioned = (name, work) =>
    test(name, async (at) => {
      const folder = mkdtempSync(join(tmpdir(), 'versions-'));
      const { mounts } = at.server;
      const publish = (version) => (at.server.mounts = { '/own/': join(folder, String(version)), ...mounts });
      try {
        versions.forEach((bytes, version) => {
          mkdirSync(join(folder, String(version)));
          writeFileSync(join(folder, String(version), 'model.gguf'), bytes);
        });
        publish(0);
        await work({ ...at, folder, publish });
      } finally {
        rmSync(folder, { recursive: true });
      }
    });

  versioned('revalidate: while a newer version comes, and after that was cancelled, the old one serves', async ({ page, open, server, publish }) => {
    await page.evaluate(async (source) => void (window.model = await gemmaflow.Model.open(source, { pieceBytes: 65536 })), SOURCE);
    publish(1);
    const cancel = await begin(page, server, 'model.gguf');
    server.requests.length = 0;
    const { sum, stages } = await opened(await open());
    assert.deepEqual([sum, stages], [old.sum, ['load']], 'another tab');
    const again = () => page.evaluate(async () => (await model.recover(), model.report().sum));
    assert.equal(await again(), old.sum, 'a model that is open');
    await cancel();
    assert.equal((await opened(page)).sum, old.sum);
    assert.equal(await again(), old.sum);
    assert.equal(server.count(SOURCE).requests, 0);
    const [{ bytes, total, complete }] = await listed(page);
    assert.ok(bytes >= old.size + FAR && total === old.size && complete, 'what came of the newer one is kept, and counts');

    assert.equal((await opened(page, { revalidate: true })).sum, newer.sum);
    const [{ range }] = server.count(SOURCE).of.filter(({ method }) => method === 'GET');
    assert.ok(Number(/^bytes=(\d+)-$/.exec(range)[1]) >= FAR, range);
    assert.deepEqual(await listed(page), whole(newer.size));
    server.requests.length = 0;
    assert.equal((await opened(page)).sum, newer.sum);
    assert.equal(server.count(SOURCE).requests, 0);
  });

  versioned('revalidate: a newer version with a wrong checksum leaves nothing but the old one', async ({ page, publish }) => {
    await opened(page);
    const before = await names(page);
    publish(1);
    const error = await tryOpen(page, { revalidate: true, sha256: 'ab'.repeat(32) });
    assert.equal(error.kind, 'Checksum', error.message);
    assert.equal((await opened(page)).sum, old.sum);
    assert.deepEqual([await names(page), await listed(page)], [before, whole(old.size)]);
  });

  versioned('revalidate: without room for both versions, an error says what to do', async ({ page, publish }) => {
    await opened(page);
    const before = await names(page);
    publish(1);
    const client = await page.context().newCDPSession(page);
    await client.send('Storage.overrideQuotaForOrigin', { origin: new URL(page.url()).origin, quotaSize: 1_000_000 });
    const error = await tryOpen(page, { revalidate: true });
    assert.equal(error.kind, 'Quota', error.message);
    for (const text of [`${newer.size} bytes`, 'beside the old one', 'cache.remove']) assert.ok(error.message.includes(text), error.message);
    assert.equal((await opened(page)).sum, old.sum);
    assert.deepEqual([await names(page), await listed(page)], [before, whole(old.size)]);
    await page.evaluate((source) => gemmaflow.cache.remove(source), SOURCE);
    assert.equal((await opened(page)).sum, newer.sum);
    assert.deepEqual(await listed(page), whole(newer.size));
  });

  versioned('revalidate: what came of a version that another one followed is removed', async ({ page, server, publish }) => {
    await opened(page);
    publish(1);
    await (await begin(page, server, 'model.gguf'))();
    publish(2);
    assert.equal((await opened(page, { revalidate: true })).sum, newest.sum);
    assert.deepEqual(await listed(page), whole(newest.size));
    assert.equal((await names(page)).length, 3);
  });

  versioned('revalidate: the files of a folder take the old ones\' places together, and those that did not change stay', async ({ page, server, folder, publish }) => {
    const source = '/own/demo/';
    const change = (version, path) => writeFileSync(join(folder, `${version}`, 'demo', path), readFileSync(`${root}/assets/demo/${path}`) + ' '.repeat(version));
    [0, 1, 2].forEach((version) => cpSync(`${root}/assets/demo`, join(folder, `${version}`, 'demo'), { recursive: true }));
    change(1, 'config.json');
    change(2, 'config.json');
    writeFileSync(join(folder, '2/demo/model.safetensors'), Buffer.concat([readFileSync(`${root}/assets/demo/model.safetensors`), Buffer.alloc(8)]));
    const { size } = statSync(`${root}/assets/demo/config.json`);
    const { sizes } = await opened(page, {}, source);
    const config = async (options) => (await opened(page, options, source)).sizes['config.json'] - size;

    publish(2);
    await (await begin(page, server, 'model.safetensors', source))();
    assert.deepEqual((await opened(page, {}, source)).sizes, sizes);
    publish(1);
    server.requests.length = 0;
    await page.evaluate(async (source) => void (window.model = await gemmaflow.Model.open(source)), source);
    assert.deepEqual([await config({ revalidate: true }), await config({})], [1, 1]);
    assert.deepEqual(server.count('/own/').of.filter(({ method }) => method === 'GET').map(({ path }) => path), [`${source}config.json`]);
    await page.evaluate(() => model.recover());
  });

  versioned('revalidate: a record that was being written when the browser stopped does not count', async ({ page, server, publish }) => {
    await opened(page);
    await page.evaluate(async () => {
      const root = await (await navigator.storage.getDirectory()).getDirectoryHandle('gemmaflow');
      for await (const folder of root.values()) {
        const handle = await folder.getFileHandle('source.json');
        const writer = await handle.createWritable({ keepExistingData: true });
        await writer.write({ type: 'write', position: (await handle.getFile()).size, data: '{"source":"' });
        await writer.close();
      }
    });
    server.requests.length = 0;
    assert.equal((await opened(page)).sum, old.sum);
    assert.equal(server.count(SOURCE).requests, 0);
    publish(1);
    for (const options of [{ revalidate: true }, {}]) assert.equal((await opened(page, options)).sum, newer.sum);
  });
}

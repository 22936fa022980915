// Downloads, the cache and readers.
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { readFileSync, statSync } from 'node:fs';

const GGUF = 'tests/data/gguf/gemma1-k-q4_k_m/model.gguf';
const PIECE = 64 << 10;

/** Opens a model, and gives its report and the stages of its progress. */
const openModel = ({ source, options }) =>
  caught(
    (async () => {
      const progress = [];
      const model = await gemmaflow.Model.open(source, { ...options, onProgress: (at) => progress.push(at) });
      const report = model.report();
      model.free();
      return { report, progress };
    })(),
  );

async function opened(page, source, options = {}) {
  const { value, ...error } = await page.evaluate(openModel, { source, options: { pieceBytes: PIECE, ...options } });
  assert.ok(value, `${error.kind}: ${error.message}`);
  return value;
}

export default function add(test, { root }) {
  const contents = readFileSync(`${root}/${GGUF}`);
  const size = contents.length;
  const sum = contents.reduce((sum, byte) => (Math.imul(sum, 31) + byte) >>> 0, 0);

  test('a GGUF file is downloaded once, with progress in bytes', async ({ page, server }) => {
    const { report, progress } = await opened(page, `/${GGUF}`);
    assert.equal(report.sum, sum);
    assert.equal(report.weightBytes, size);
    assert.equal(server.count(GGUF).bytes, size);
    const downloads = progress.filter(({ stage }) => stage === 'download');
    assert.deepEqual([downloads.at(-1).done, downloads.at(-1).total, downloads.at(-1).file], [size, size, 'model.gguf']);
    assert.ok(progress.some(({ stage, phase }) => stage === 'load' && phase === 'moving'));
  });

  test('a reload serves from the cache without a request', async ({ page, server }) => {
    await opened(page, `/${GGUF}`);
    await page.reload();
    await page.waitForFunction('window.gemmaflow');
    server.requests.length = 0;
    const { report } = await opened(page, `/${GGUF}`);
    assert.equal(report.sum, sum);
    assert.equal(server.count(GGUF).requests, 0);
    await opened(page, `/${GGUF}`, { revalidate: true });
    assert.deepEqual([server.count(GGUF).bodies, server.count(GGUF).bytes], [0, 0]);
  });

  test('a folder: configuration, tokenizer and weights', async ({ page, server }) => {
    const { report } = await opened(page, '/assets/demo/');
    assert.equal(report.weightBytes, statSync(`${root}/assets/demo/model.safetensors`).size);
    const [{ files, complete, bytes, total }] = await page.evaluate(() => gemmaflow.cache.list());
    assert.deepEqual(files.sort(), ['config.json', 'generation_config.json', 'model.safetensors', 'tokenizer.json', 'tokenizer_config.json']);
    assert.ok(complete && bytes === total && server.count('expected.json').requests === 0);
  });

  test('answers that break off go on where they ended', async ({ page, server }) => {
    const { report } = await opened(page, `/~cut=200000/${GGUF}`);
    assert.equal(report.sum, sum);
    const from = server.count(GGUF).of.filter(({ method }) => method === 'GET').map(({ range = 'bytes=0-' }) => parseInt(range.slice(6)));
    assert.ok(from.length >= 4 && from.every((at, i) => i === 0 || at >= from[i - 1]), from.join());
    assert.ok(from.at(-1) >= size - 200_000, from.join());
  });

  test('a download that a reload interrupts goes on after its last piece', async ({ page, server }) => {
    const source = `/~rate=400000/${GGUF}`;
    await page.evaluate((source) => {
      window.far = new Promise((resolve) => {
        const onProgress = ({ done }) => done > 200_000 && resolve();
        gemmaflow.Model.open(source, { pieceBytes: 65536, onProgress });
      });
    }, source);
    await page.evaluate(() => window.far);
    await page.reload();
    await page.waitForFunction('window.gemmaflow');
    const [{ complete, bytes }] = await page.evaluate(() => gemmaflow.cache.list());
    assert.ok(!complete && bytes >= PIECE && bytes < size);
    server.requests.length = 0;
    const { report } = await opened(page, source);
    assert.equal(report.sum, sum);
    const [{ range }] = server.count(GGUF).of.filter(({ method }) => method === 'GET');
    const from = Number(/^bytes=(\d+)-$/.exec(range)[1]);
    assert.ok(from >= 2 * PIECE && from % PIECE === 0, range);
  });

  test('a piece that was damaged on disk is fetched again', async ({ page, server }) => {
    await opened(page, `/${GGUF}`);
    await page.evaluate(damage, PIECE * 3 + 5);
    server.requests.length = 0;
    assert.notEqual((await opened(page, `/${GGUF}`)).report.sum, sum, 'without verify nobody looks');
    const { report } = await opened(page, `/${GGUF}`, { verify: true });
    assert.equal(report.sum, sum);
    assert.equal(server.count(GGUF).bytes, size - 3 * PIECE);
  });

  test('a checksum that comes later is compared without a download', async ({ page, server }) => {
    await opened(page, `/${GGUF}`);
    server.requests.length = 0;
    const sha256 = createHash('sha256').update(contents).digest('hex');
    for (let time = 0; time < 2; time++) assert.equal((await opened(page, `/${GGUF}`, { sha256 })).report.sum, sum);
    assert.equal(server.count(GGUF).bodies, 0);
    const error = await page.evaluate(openModel, { source: `/${GGUF}`, options: { pieceBytes: PIECE, sha256: 'ab'.repeat(32) } });
    assert.equal(error.kind, 'Checksum');
    assert.equal((await opened(page, `/${GGUF}`, { sha256 })).report.sum, sum, 'what was whole stays');
    assert.equal(server.count(GGUF).bodies, 0);
  });

  test('a worker that ends in a download leaves its file to the next', async ({ page, server }) => {
    const source = `/~rate=400000/${GGUF}`;
    await page.evaluate(async (source) => {
      const RealWorker = Worker;
      let worker;
      window.Worker = function (...args) {
        return (worker = new RealWorker(...args));
      };
      await new Promise((resolve) => gemmaflow.Model.open(source, { pieceBytes: 65536, onProgress: ({ done }) => done > 200_000 && resolve() }));
      worker.terminate();
      window.Worker = RealWorker;
    }, source);
    assert.equal((await opened(page, source)).report.sum, sum);
    assert.ok(server.count(GGUF).bytes < 2 * size);
  });

  test('a server without ranges: one answer', async ({ page, server }) => {
    const { report } = await opened(page, `/~ranges=no/${GGUF}`);
    assert.equal(report.sum, sum);
    assert.equal((await opened(page, `/~ranges=no/${GGUF}`, { cache: false })).report.sum, sum);
    assert.equal(server.count(GGUF).bodies, 3);
  });

  test('without the cache, ranges alone are read', async ({ page, server }) => {
    const { report } = await opened(page, `/${GGUF}`, { cache: false });
    assert.equal(report.sum, sum);
    const { of, bytes } = server.count(GGUF);
    assert.ok(bytes <= 3 * size, `${bytes} bytes of ${size}`);
    assert.ok(of.filter(({ method }) => method === 'GET').every(({ range }) => range));
    assert.deepEqual(await page.evaluate(() => gemmaflow.cache.list()), []);
  });

  test('where storage is missing or small, ranges serve', async ({ page }) => {
    const client = await page.context().newCDPSession(page);
    const origin = new URL(page.url()).origin;
    await client.send('Storage.overrideQuotaForOrigin', { origin, quotaSize: 100_000 });
    assert.equal((await opened(page, `/${GGUF}`)).report.sum, sum);
    assert.deepEqual(await page.evaluate(() => gemmaflow.cache.list()), []);
  });

  test('a plan of memory reads headers', async ({ page, server }) => {
    const plan = await page.evaluate((source) => gemmaflow.memoryPlan(source, { context: 512, pieceBytes: 65536 }), `/${GGUF}`);
    assert.deepEqual([plan.weights, plan.cache], [size, 512 * 1024]);
    assert.deepEqual(await page.evaluate(() => gemmaflow.cache.list()), []);
    assert.ok(server.count(GGUF).requests > 0);
  });

  test('a File, and the Files of a folder', async ({ page, server }) => {
    const found = await page.evaluate(async (path) => {
      const blob = await (await fetch(path)).blob();
      const other = new File(['nothing'], 'mmproj-f16.gguf');
      const one = await gemmaflow.Model.open(blob);
      const two = await gemmaflow.Model.open([other, new File([blob], 'weights.gguf')]);
      const sums = [one.report().sum, two.report().sum];
      one.free();
      two.free();
      return sums;
    }, `/${GGUF}`);
    assert.deepEqual(found, [sum, sum]);
    assert.equal(server.count(GGUF).bodies, 1);
  });

  test('two tabs download a model once', async ({ page, open, server }) => {
    const second = await open();
    const source = `/~rate=100000/${GGUF}`;
    const one = opened(page, source);
    while (!server.count(GGUF).bodies) await page.waitForTimeout(20);
    const [{ report }, late] = await Promise.all([one, opened(second, source)]);
    assert.deepEqual([report.sum, late.report.sum], [sum, sum]);
    assert.equal(late.progress[0].stage, 'waiting');
    assert.equal(server.count(GGUF).bytes, size);
  });

  test('two tabs load a model at once, and a removal takes no bytes from them', async ({ page, open }) => {
    await opened(page, `/${GGUF}`);
    const second = await open();
    await page.evaluate(() => new Promise((held) => {
      navigator.locks.request('a load', () => new Promise((letGo) => held(void (window.letGo = letGo))));
    }));
    const loads = [page, second].map((tab) => opened(tab, `/${GGUF}`));
    await page.evaluate(async () => {
      while ((await navigator.locks.query()).pending.length < 2) await new Promise((resolve) => setTimeout(resolve, 20));
    });
    const removed = second.evaluate((source) => gemmaflow.cache.remove(source), `/${GGUF}`);
    await page.evaluate(() => setTimeout(letGo, 200));
    assert.deepEqual((await Promise.all(loads)).map(({ report }) => report.sum), [sum, sum]);
    await removed;
    assert.deepEqual(await page.evaluate(() => gemmaflow.cache.list()), []);
  });

  test('the cache lists, removes and clears', async ({ page }) => {
    await opened(page, `/${GGUF}`);
    await opened(page, '/assets/demo/');
    const left = await page.evaluate(async (source) => {
      await gemmaflow.cache.remove(source);
      const one = (await gemmaflow.cache.list()).map((model) => new URL(model.source).pathname);
      await gemmaflow.cache.clear();
      return [one, await gemmaflow.cache.list()];
    }, `/${GGUF}`);
    assert.deepEqual(left, [['/assets/demo/'], []]);
  });

  hub(test, { root, size, sum });
}

function hub(test, { root, size, sum }) {
  test('a file on the Hub: its commit, its checksum, its redirect to another origin', async ({ page, server, other }) => {
    const token = 'hf_secret';
    server.hub = fakeHub(root, other);
    const options = { hub: `${server.origin}/hub`, token };
    const { report } = await opened(page, 'owner/name/model.gguf', options);
    server.hub = undefined;
    assert.equal(report.sum, sum);
    assert.equal(other.count(GGUF).bytes, size);
    assert.ok(server.requests.filter(({ path }) => path.startsWith('/hub/')).every(({ authorization }) => authorization === `Bearer ${token}`));
    assert.ok(other.requests.every(({ authorization }) => !authorization), 'the token went to another server');
    const [{ source, files }] = await page.evaluate(() => gemmaflow.cache.list());
    assert.deepEqual([source, files], [`owner/name/model.gguf on ${options.hub}`, ['model.gguf']]);
    await opened(page, 'owner/name/model.gguf', options); // there is no hub now
  });

  test('a file that is not as the Hub says is refused', async ({ page, server, other }) => {
    server.hub = fakeHub(root, other, '/~corrupt=70000');
    const options = { hub: `${server.origin}/hub`, pieceBytes: PIECE };
    const error = await page.evaluate(openModel, { source: 'owner/name/model.gguf', options });
    server.hub = undefined;
    assert.deepEqual([error.kind, error.typed], ['Checksum', true]);
    const [{ bytes, complete }] = await page.evaluate(() => gemmaflow.cache.list());
    assert.deepEqual([bytes, complete], [0, false]);
  });
}

const COMMIT = '0123456789abcdef0123456789abcdef01234567';

/** The Hub's list of files, and its redirect to where they lie. */
function fakeHub(root, other, rules = '') {
  const contents = readFileSync(`${root}/${GGUF}`);
  const lfs = { sha256: createHash('sha256').update(contents).digest('hex'), size: contents.length };
  return (path, _, response) => {
    if (path === '/hub/api/models/owner/name/revision/main') {
      const siblings = [{ rfilename: 'README.md', size: 10, blobId: 'ab' }, { rfilename: 'model.gguf', size: lfs.size, lfs }];
      response.end(JSON.stringify({ sha: COMMIT, siblings }));
    } else if (path === `/hub/owner/name/resolve/${COMMIT}/model.gguf`) {
      response.writeHead(302, { location: `${other.origin}${rules}/${GGUF}` }).end();
    } else return false;
    return true;
  };
}

/** Changes one byte of the first file in the cache. */
async function damage(at) {
  const root = await (await navigator.storage.getDirectory()).getDirectoryHandle('gemmaflow');
  for await (const folder of root.values()) {
    const names = await Array.fromAsync(folder.keys());
    const handle = await folder.getFileHandle(names.find((name) => names.includes(`${name}.pieces`)));
    const writer = await handle.createWritable({ keepExistingData: true });
    await writer.write({ type: 'write', position: at, data: new Uint8Array([255, 1, 254, 3]) });
    await writer.close();
  }
}

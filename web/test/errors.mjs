// What a failure says: its kind, what was found, and what to do.
import assert from 'node:assert/strict';
import { workersLeft } from './browser.mjs';

const GGUF = 'tests/data/gguf/gemma1-k-q4_k_m/model.gguf';

const open = ({ source, options }) => caught(gemmaflow.Model.open(source, options));

export default function add(test) {
  const refuses = (name, { source, options = {}, kind, says }) =>
    test(`an error: ${name}`, async ({ page, server, other }) => {
      const fill = (text) => text.replace('SERVER', server.origin).replace('OTHER', other.origin);
      const error = await page.evaluate(open, { source: fill(source), options: JSON.parse(fill(JSON.stringify(options))) });
      assert.deepEqual([error.name, error.kind, error.typed], ['GemmaflowError', kind, true], error.message);
      for (const text of says) assert.ok(error.message.includes(text), `"${text}" is not in: ${error.message}`);
      assert.equal(await workersLeft(page, 0), 0, 'the worker is left');
    });

  refuses('a file that is not there', { source: 'SERVER/none.gguf', kind: 'Missing', says: ['none.gguf', 'HTTP 404'] });
  refuses('a folder that is no model', { source: 'SERVER/test/', kind: 'Missing', says: ['config.json', 'A model is'] });
  refuses('a gated model', { source: `SERVER/~status=401/${GGUF}`, kind: 'Access', says: ['HTTP 401', "option 'token'"] });
  refuses('a server that fails', { source: `SERVER/~status=418/${GGUF}`, kind: 'Http', says: ['HTTP 418', '200 or 206'] });
  refuses('no server', { source: 'http://localhost:9/model.gguf', kind: 'Network', says: ['localhost:9', 'try again'] });
  refuses('a server without CORS', { source: `OTHER/~cors=no/${GGUF}`, kind: 'Cors', says: ['Access-Control-Allow-Origin', 'open it from disk'] });
  refuses('a wrong checksum', {
    source: `SERVER/${GGUF}`,
    options: { sha256: 'ab'.repeat(32) },
    kind: 'Checksum',
    says: [`expected ${'ab'.repeat(32)}`, 'its SHA-256 is', 'removed'],
  });
  refuses('no checksum', { source: `SERVER/${GGUF}`, options: { sha256: 'abc' }, kind: 'Source', says: ['64 hexadecimal digits'] });
  refuses('no source', { source: 'gemma', kind: 'Source', says: ['owner/name'] });
  refuses('a Hub without the model', { source: 'owner/name', options: { hub: 'SERVER' }, kind: 'Missing', says: ['owner/name', 'HTTP 404'] });

  test('an error: a GGUF file that is none keeps the text of the crate', async ({ page }) => {
    const error = await page.evaluate(() => caught(gemmaflow.Model.open(new File(['what'], 'x.gguf'))));
    assert.deepEqual([error.kind, error.message, error.typed], ['Format', 'x.gguf is no GGUF file', true]);
  });

  test('an error: a device that goes offline', async ({ page, context, server }) => {
    const path = `/~rate=200000/${GGUF}`;
    await page.evaluate((source) => {
      window.begun = new Promise((resolve) => {
        const onProgress = ({ done }) => done > 100_000 && resolve();
        window.opening = caught(gemmaflow.Model.open(source, { pieceBytes: 65536, onProgress }));
      });
    }, path);
    await page.evaluate(() => window.begun);
    await context.setOffline(true);
    server.closeConnections();
    const error = await page.evaluate(() => window.opening);
    assert.equal(error.kind, 'Offline', error.message);
    await context.setOffline(false);
    const [{ bytes }] = await page.evaluate(() => gemmaflow.cache.list());
    assert.ok(bytes >= 65536, 'what was there is kept');
  });

  test('an error: an answer that breaks off again and again', async ({ page, server }) => {
    const error = await page.evaluate(open, { source: `${server.origin}/~cut=0/${GGUF}`, options: {} });
    assert.equal(error.kind, 'Truncated', error.message);
    assert.match(error.message, /expected 612640 bytes.*is kept/);
  }, { timeout: 90_000 });

  test('an error: a browser without WebGPU', async ({ page }) => {
    const [none, adapter] = await page.evaluate(async (source) => {
      const real = navigator.gpu;
      const set = (gpu) => Object.defineProperty(navigator, 'gpu', { value: gpu, configurable: true });
      set({ requestAdapter: async () => null });
      const adapter = await caught(gemmaflow.Model.open(source));
      set(undefined);
      const none = await caught(gemmaflow.Model.open(source));
      set(real);
      return [none, adapter];
    }, `/${GGUF}`);
    assert.deepEqual([none.kind, adapter.kind], ['Unsupported', 'Unsupported']);
    for (const browser of ['Chrome', 'Edge', 'Safari 26', 'Firefox', 'dom.webgpu.enabled', 'enable-unsafe-webgpu']) assert.ok(none.message.includes(browser));
    assert.match(adapter.message, /no graphics adapter/);
  });
}

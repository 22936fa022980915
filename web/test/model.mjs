// The WebAssembly module itself, against what native code computes.
//
// The file of cases is JSON; paths are relative to the repository:
// {
//   "generate": [{ "name", "path", "tokens": [..], "count", "expected": [..] }],
//   "logits": [{ "name", "path", "tokens": [..], "logits": "FILE of little-endian f32", "tolerance" }],
//   "pictures": [{ "name", "path", "picture", "prompt", "expected": "text" }],
//   "packed": { "path": "a GGUF file", "tokens": [..], "count", "expected": [..] },
//   "embeddings": [{ "name", "path", "texts": [..], "vectors": [[..]], "tolerance" }]
// }
import assert from 'node:assert/strict';
import { readFileSync, statSync } from 'node:fs';
import { resolve } from 'node:path';
import { workersLeft } from './browser.mjs';

const DEMO = '/assets/demo/';
const SLOW = { timeout: 150_000 };

/** A folder's address ends with a slash. */
const address = (path) => `/${path.replace(/\/$/, '')}${/\.gguf$/.test(path) ? '' : '/'}`;

/** Opens a model as `model` in the page. */
const open = (page, source, options = {}) =>
  page.evaluate(async ([source, options]) => void (window.model = await gemmaflow.Model.open(source, options)), [source, options]);

const generate = (page, tokens, count) =>
  page.evaluate(async ([tokens, count]) => [...(await model.test('generate', new Uint32Array(tokens), count))], [tokens, count]);

export default function add(test, { root, cases: file }) {
  if (!file) throw new Error('--package needs --cases: the file of native values');
  const cases = JSON.parse(readFileSync(file, 'utf8'));
  for (const of of cases.generate ?? []) {
    test(`model: tokens of ${of.name} are those of native code`, async ({ page }) => {
      await open(page, address(of.path));
      assert.deepEqual(await generate(page, of.tokens, of.count), of.expected);
    }, SLOW);
  }
  for (const of of cases.logits ?? []) {
    test(`model: logits of ${of.name} are near those of native code`, ({ page }) => logits(page, root, of), SLOW);
  }
  for (const of of cases.pictures ?? []) test(`model: a picture, ${of.name}`, ({ page }) => picture(page, of), SLOW);
  for (const of of cases.embeddings ?? []) test(`model: embeddings of ${of.name}`, ({ page }) => embeddings(page, of), SLOW);
  if (cases.packed) test('model: a packed GGUF by byte ranges', ({ page, server }) => packed(page, server, root, cases.packed), SLOW);
  answers(test);
  cancelling(test);
}

async function logits(page, root, { path, tokens, logits, tolerance = 1e-3 }) {
  const bytes = readFileSync(resolve(root, logits));
  const expected = new Float32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length));
  await open(page, address(path));
  const found = await page.evaluate(async (tokens) => [...(await model.test('logits', new Uint32Array(tokens)))], tokens);
  assert.equal(found.length, expected.length);
  const furthest = expected.reduce((most, value, i) => Math.max(most, Math.abs(value - found[i])), 0);
  assert.ok(furthest <= tolerance, `${furthest} is more than ${tolerance}`);
}

async function picture(page, { path, picture, prompt, expected }) {
  await open(page, address(path), { towers: 'load' });
  const text = await page.evaluate(async ([url, prompt]) => {
    const data = await (await fetch(url)).blob();
    const content = [{ type: 'image', data }, { type: 'text', text: prompt }];
    const events = await collect(model.conversation({ temperature: 0, maxTokens: 16 }).send(content));
    return events.filter(({ type }) => type === 'text').map(({ text }) => text).join('');
  }, [`/${picture}`, prompt]);
  assert.equal(text, expected);
}

async function embeddings(page, { path, texts, vectors, tolerance = 1e-3 }) {
  const found = await page.evaluate(async ([source, texts]) => {
    const embedder = await gemmaflow.Embedder.open(source);
    const vectors = (await embedder.embed(texts)).map((vector) => [...vector]);
    embedder.free();
    return vectors;
  }, [address(path), texts]);
  const distance = (a, b) => a.reduce((most, value, i) => Math.max(most, Math.abs(value - b[i])), 0);
  vectors.forEach((vector, i) => assert.ok(distance(vector, found[i]) <= tolerance, texts[i]));
}

async function packed(page, server, root, { path, tokens, count, expected }) {
  const size = statSync(resolve(root, path)).size;
  await open(page, address(path), { cache: false, pieceBytes: 65536 });
  const { of, bytes } = server.count(path);
  assert.ok(of.filter(({ method }) => method === 'GET').every(({ range }) => range), 'the file was fetched whole');
  assert.ok(bytes < 1.5 * size + (1 << 20), `${bytes} bytes for ${size}`);
  assert.deepEqual(await generate(page, tokens, count), expected);
}

function answers(test) {
  test('model: report, plan, doctor and adapters', async ({ page }) => {
    await open(page, DEMO);
    const [report, plan, doctor, adapters] = await page.evaluate(async (source) =>
      [model.report(), await gemmaflow.memoryPlan(source), await gemmaflow.doctor(), await gemmaflow.adapters()], DEMO);
    for (const key of ['architecture', 'adapter', 'backend', 'weightBytes', 'context', 'features']) assert.ok(key in report, key);
    assert.ok(Object.keys(plan).length && Object.keys(doctor).length && adapters.length);
  }, SLOW);

  test('model: an answer that follows a JSON schema', async ({ page }) => {
    await open(page, DEMO);
    const schema = { type: 'object', properties: { age: { type: 'integer', minimum: 1, maximum: 9 } }, required: ['age'], additionalProperties: false };
    const text = await page.evaluate(async (schema) => {
      const events = await collect(model.conversation({ temperature: 0, maxTokens: 64 }).send('How old?', { schema }));
      return events.filter(({ type }) => type === 'text').map(({ text }) => text).join('');
    }, schema);
    assert.ok(Number.isInteger(JSON.parse(text).age), text);
  }, SLOW);

  test('model: a lost device is a typed error, and recover goes on with the same tokens', async ({ page }) => {
    await open(page, DEMO);
    const before = await generate(page, [2, 910, 262], 8);
    const error = await page.evaluate(async () => {
      await model.test('loseDevice');
      const error = await caught(collect(model.conversation({ maxTokens: 4 }).send('Hello')));
      await model.recover();
      return error;
    });
    assert.deepEqual([error.kind, error.typed], ['DeviceLost', true], error.message);
    assert.deepEqual(await generate(page, [2, 910, 262], 8), before);
  }, SLOW);

  test('model: after free the worker is gone', async ({ page }) => {
    await open(page, DEMO);
    await page.evaluate(() => model.free());
    assert.equal(await workersLeft(page, 0), 0);
  }, SLOW);

  test('model: two tabs answer at the same time, from one download', async ({ page, open: openTab, server }) => {
    const second = await openTab();
    await Promise.all([open(page, DEMO), open(second, DEMO)]);
    const [one, two] = await Promise.all([generate(page, [2, 910, 262], 8), generate(second, [2, 910, 262], 8)]);
    assert.deepEqual(one, two);
    assert.equal(server.count('model.safetensors').bodies, 1);
  }, SLOW);
}

function cancelling(test) {
  test('model: a signal cancels a load', async ({ page }) => {
    const error = await page.evaluate((source) => {
      const controller = new AbortController();
      const onProgress = ({ stage }) => stage === 'load' && controller.abort();
      return caught(gemmaflow.Model.open(source, { onProgress, signal: controller.signal }));
    }, DEMO);
    assert.equal(error.name, 'AbortError', JSON.stringify(error));
    assert.equal(await workersLeft(page, 0), 0);
  }, SLOW);

  test('model: a signal cancels a prompt and an answer, and the conversation goes on', async ({ page }) => {
    await open(page, DEMO);
    const found = await page.evaluate(async () => {
      const conversation = model.conversation({ maxTokens: 200 });
      const until = async (text, type) => {
        const controller = new AbortController();
        const events = [];
        try {
          for await (const event of conversation.send(text, { signal: controller.signal })) {
            events.push(event);
            if (event.type === type) controller.abort();
          }
          return ['whole', events.length];
        } catch (error) {
          return [error.name, events.at(-1)?.type];
        }
      };
      const prompt = await until('A long prompt of many words. '.repeat(60), 'prompt');
      const answer = await until('Hello', 'text');
      const after = await collect(conversation.send('Again', { maxTokens: 3 }));
      return [prompt[0], answer, after.at(-1).reason];
    });
    assert.equal(found[0], 'AbortError');
    assert.deepEqual(found[1], ['AbortError', 'end']);
    assert.ok(['length', 'turn'].includes(found[2]));
  }, SLOW);
}

// The WebAssembly module itself, against what Hugging Face transformers and llama.cpp's formats give (tests/data).
import assert from 'node:assert/strict';
import { readFileSync, statSync } from 'node:fs';
import { resolve } from 'node:path';
import { workersLeft } from './browser.mjs';
import { readSafetensors } from './safetensors.mjs';

const DEMO = '/assets/demo/';
const SLOW = { timeout: 150_000 };

/** Checkpoints with the gates that native code is held to (docs/gemma.md, Numerical precision), and kernels. */
const CHECKPOINTS = [['gemma2', 2e-4, 'auto'], ['gemma3-text', 2e-4, 'portable'], ['gemma3n', 1e-3, 'auto'], ['gemma4-e2b', 1e-3, 'auto']];
/** The gate on vectors of texts (tests/embeddings.rs). */
const VECTORS = 1e-6;
/** Tokens of a prompt of 33 that are run as one; the others follow one by one. */
const PROMPT = 29;

/** Opens a model as `model` in the page. */
const open = (page, source, options = {}) =>
  page.evaluate(async ([source, options]) => void (window.model = await gemmaflow.Model.open(source, options)), [source, options]);

/** Opens a model without a tokenizer as `generator` in the page. */
const openIds = (page, source, options = {}) =>
  page.evaluate(
    async ([source, options]) => {
      window.generator?.free();
      window.generator = await gemmaflow.Generator.open(source, options);
    },
    [source, options],
  );

/** Of `media` the addresses. */
const generate = (page, prompt, count, media = {}) =>
  page.evaluate(async ([prompt, count, media]) => {
    const bytes = async (url) => new Uint8Array(await (await fetch(url)).arrayBuffer());
    const [pictures, sounds] = await Promise.all([media.pictures, media.sounds].map((urls = []) => Promise.all(urls.map(bytes))));
    return [...(await generator.generate(prompt, count, { pictures, sounds }))];
  }, [prompt, count, media]);

const ids = (tensor) => [...tensor.values];

export default function add(test, { root }) {
  const data = (path) => resolve(root, 'tests/data', path);
  test('model: 64 tokens of the demo model are those of native code', async ({ page }) => {
    const { greedy } = JSON.parse(readFileSync(resolve(root, 'assets/demo/expected.json'), 'utf8'));
    await openIds(page, DEMO);
    assert.deepEqual(await generate(page, greedy[0].prompt_ids, 64), greedy[0].new_ids);
  }, SLOW);
  for (const [name, gate, kernels] of CHECKPOINTS) {
    test(`model: logits of ${name} are those of transformers, kernels ${kernels}`, async ({ page }) => {
      const oracle = readSafetensors(data(`checkpoints/${name}/oracle.safetensors`));
      await openIds(page, `/tests/data/checkpoints/${name}/`, { kernels });
      await compareLogits(page, ids(oracle('p33.input_ids')), oracle('p33.logits'), gate);
    }, SLOW);
  }
  test('model: a picture, from its file to tokens', async ({ page }) => {
    const folder = 'multimodal/gemma3-vision';
    const oracle = readSafetensors(data(`${folder}/mm_oracle.safetensors`));
    await openIds(page, `/tests/data/${folder}/`);
    const pictures = [`/tests/data/${folder}/inputs/one.0.png`];
    const found = await generate(page, ids(oracle('one.input_ids')), 16, { pictures });
    assert.deepEqual(found, ids(oracle('one.gen_tokens')));
  }, SLOW);
  test('model: a picture and a sound, from their files to tokens', async ({ page }) => {
    const folder = 'multimodal/gemma4-audio';
    const oracle = readSafetensors(data(`${folder}/mm_oracle.safetensors`));
    await openIds(page, `/tests/data/${folder}/`);
    const input = (name) => [`/tests/data/${folder}/inputs/${name}`];
    const media = { pictures: input('both.0.png'), sounds: input('both.0.wav') };
    assert.deepEqual(await generate(page, ids(oracle('both.input_ids')), 16, media), ids(oracle('both.gen_tokens')));
  }, SLOW);
  test('model: a packed GGUF by byte ranges', ({ page, server }) => packed(page, server, data), SLOW);
  test('model: embeddings on the GPU are those of the processor', ({ page }) => embeddings(page), SLOW);
  answers(test);
  cancelling(test);
}

async function compareLogits(page, tokens, { values, shape }, gate) {
  const found = await page.evaluate(
    async ([prompt, next]) => [...(await generator.logits(prompt, next))],
    [tokens.slice(0, PROMPT), tokens.slice(PROMPT)],
  );
  const expected = values.subarray((PROMPT - 1) * shape.at(-1));
  assert.equal(found.length, expected.length);
  const furthest = expected.reduce((most, value, i) => Math.max(most, Math.abs(value - found[i])), 0);
  assert.ok(furthest <= gate, `${furthest} is more than ${gate}`);
}

async function packed(page, server, data) {
  const path = 'gguf/gemma3-s-iq4_nl/model.gguf';
  const size = statSync(data(path)).size;
  const expected = readSafetensors(data('gguf/gemma3-s-iq4_nl/expected.safetensors'));
  await openIds(page, `/tests/data/${path}`, { cache: false, pieceBytes: 65536 });
  const { of, bytes } = server.count(path);
  assert.ok(of.filter(({ method }) => method === 'GET').every(({ range }) => range), 'the file was fetched whole');
  assert.ok(bytes < 1.5 * size + (1 << 20), `${bytes} bytes for ${size}`);
  assert.deepEqual(await generate(page, ids(expected('gen.input_ids')), 16), ids(expected('exact.gen.tokens')));
}

async function embeddings(page) {
  const source = '/tests/data/gguf/embeddinggemma-s-q5_0/model.gguf';
  const [gpu, cpu] = await page.evaluate(async (source) => {
    const vectors = async (device) => {
      const embedder = await gemmaflow.Embedder.open(source, { device });
      const vectors = await embedder.embed(['to be or not to be', 'a dog'], { task: 'query' });
      embedder.free();
      return vectors.map((vector) => [...vector]);
    };
    return [await vectors('gpu'), await vectors('cpu')];
  }, source);
  gpu.forEach((vector, i) => {
    const furthest = vector.reduce((most, value, j) => Math.max(most, Math.abs(value - cpu[i][j])), 0);
    assert.ok(furthest < VECTORS, `${furthest}`);
    assert.ok(Math.abs(Math.hypot(...vector) - 1) < VECTORS);
  });
}

function answers(test) {
  test('model: report, plan, doctor and adapters', async ({ page }) => {
    await open(page, DEMO);
    const [report, plan, doctor, adapters] = await page.evaluate(async (source) =>
      [model.report(), await gemmaflow.memoryPlan(source), await gemmaflow.doctor(), await gemmaflow.adapters()], DEMO);
    for (const key of ['architecture', 'adapter', 'gpu', 'weightBytes', 'context', 'features']) assert.ok(key in report, key);
    assert.ok(plan.peak > plan.weights && plan.weights >= report.weightBytes, JSON.stringify(plan));
    assert.ok(doctor.check.agrees && adapters.length, JSON.stringify(doctor));
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
    const [before, error, after, ...others] = await page.evaluate(async () => {
      const conversation = model.conversation({ temperature: 0, maxTokens: 8 });
      const before = await collect(conversation.send('Hello'));
      await model.loseDevice();
      const other = model.conversation({ temperature: 0, maxTokens: 8 });
      const error = await caught(collect(other.send('Hello')));
      await model.recover();
      const after = await collect(model.conversation({ temperature: 0, maxTokens: 8 }).send('Hello'));
      return [before, error, after, await collect(conversation.send('Again')), await collect(other.send('Again'))];
    });
    assert.deepEqual([error.kind, error.typed], ['DeviceLost', true], error.message);
    const text = (events) => events.filter(({ type }) => type === 'text').map(({ text }) => text).join('');
    assert.equal(text(after), text(before));
    for (const events of others) assert.equal(events.at(-1).type, 'end', 'conversations from before go on');
  }, SLOW);

  test('model: after free the worker is gone', async ({ page }) => {
    await open(page, DEMO);
    await page.evaluate(() => model.free());
    assert.equal(await workersLeft(page, 0), 0);
  }, SLOW);

  test('model: two tabs answer at the same time, from one download', async ({ page, open: openTab, server }) => {
    const second = await openTab();
    await Promise.all([openIds(page, DEMO), openIds(second, DEMO)]);
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

// The worker's protocol: events, cancelling, and the end of a worker.
import assert from 'node:assert/strict';
import { workersLeft } from './browser.mjs';

const GGUF = '/tests/data/gguf/gemma1-k-q4_k_m/model.gguf';

/** Opens a model as `model` in the page. */
const open = (page, options = {}) =>
  page.evaluate(async ([source, options]) => void (window.model = await gemmaflow.Model.open(source, options)), [GGUF, options]);

export default function add(test) {
  test('an answer comes as events', async ({ page }) => {
    await open(page);
    const events = await page.evaluate(async () => collect((window.conversation = model.conversation({ system: 'Be short.' })).send('Hello')));
    assert.deepEqual(events.slice(0, 3).map(({ type }) => type), ['prompt', 'prompt', 'prompt']);
    const end = events.at(-1);
    assert.deepEqual([end.type, end.reason], ['end', 'turn']);
    assert.equal(events.filter(({ type }) => type === 'text').length, end.usage.completionTokens);
    const messages = await page.evaluate(() => conversation.messages());
    assert.deepEqual(messages.map(({ role }) => role), ['user', 'model']);
  });

  test('options of one message hold for that message', async ({ page }) => {
    await open(page);
    const reasons = await page.evaluate(async () => {
      const conversation = model.conversation({ maxTokens: 3 });
      const json = await collect(conversation.send('Give JSON', { schema: { type: 'object' }, maxTokens: 9 }));
      const brief = await collect(conversation.send('And now?'));
      return [json.filter(({ type }) => type === 'text').map(({ text }) => text).join(''), brief.at(-1).reason];
    });
    assert.deepEqual([JSON.parse(reasons[0]), reasons[1]], [{ answer: 42 }, 'length']);
  });

  test('pictures and sounds arrive whole, whatever holds them', async ({ page }) => {
    await open(page);
    const text = await page.evaluate(async () => {
      const conversation = model.conversation();
      const picture = new Blob([new Uint8Array(1234)]);
      const parts = [{ type: 'image', data: picture }, { type: 'audio', data: new Uint8Array(55) }, { type: 'audio', data: new ArrayBuffer(7) }];
      await collect(conversation.send([...parts, { type: 'text', text: 'What is it?' }]));
      return (await conversation.messages())[0].text;
    });
    assert.equal(text, '[image: 1234 bytes] [audio: 55 bytes] [audio: 7 bytes] What is it?');
  });

  test('leaving the loop cancels, and the conversation goes on', async ({ page }) => {
    await open(page);
    const found = await page.evaluate(async () => {
      const conversation = model.conversation();
      for await (const event of conversation.send('Speak without end')) if (event.type === 'text') break;
      const messages = await conversation.messages();
      const events = await collect(conversation.send('Again', { maxTokens: 2 }));
      return [messages.map(({ role }) => role), messages[1].text, events.at(-1).reason];
    });
    assert.deepEqual([found[0], found[2]], [['user', 'model'], 'length']);
    assert.match(found[1], /^The /);
  });

  test('a signal cancels with its reason, in the prompt and in the answer', async ({ page }) => {
    await open(page);
    const found = await page.evaluate(async () => {
      const until = async (type, reason) => {
        const controller = new AbortController();
        const events = [];
        const run = async () => {
          for await (const event of model.conversation().send('Speak without end', { signal: controller.signal })) {
            events.push(event);
            if (event.type === type) controller.abort(reason);
          }
        };
        return [await run().catch((error) => String(error)), events.at(-1).reason];
      };
      const before = await caught(collect(model.conversation().send('x', { signal: AbortSignal.abort() })));
      return [await until('prompt', undefined), await until('text', 'enough'), before.name];
    });
    assert.match(found[0][0], /^AbortError/);
    assert.deepEqual([found[0][1], found[1], found[2]], ['cancelled', ['enough', 'cancelled'], 'AbortError']);
  });

  test('a signal cancels a download and a load, and the worker ends', async ({ page }) => {
    const found = await page.evaluate(async (path) => {
      const until = async (source, stage, options) => {
        const controller = new AbortController();
        const onProgress = (at) => at.stage === stage && controller.abort();
        return (await caught(gemmaflow.Model.open(source, { onProgress, signal: controller.signal, ...options }))).name;
      };
      const download = await until(`/~rate=100000${path}`, 'download');
      const load = await until('/assets/demo/', 'load');
      const late = await caught(gemmaflow.Model.open(path, { signal: AbortSignal.abort() }));
      return [download, load, late.name];
    }, GGUF);
    assert.deepEqual(found, ['AbortError', 'AbortError', 'AbortError']);
    assert.equal(await workersLeft(page, 0), 0);
  });

  test('a lost device is a typed error, and recover goes on', async ({ page }) => {
    await open(page);
    const found = await page.evaluate(async () => {
      const conversation = model.conversation({ maxTokens: 4 });
      await model.loseDevice();
      const lost = await caught(collect(conversation.send('Hello')));
      await model.recover();
      return [lost.kind, lost.typed, (await collect(conversation.send('Again'))).at(-1).reason];
    });
    assert.deepEqual(found, ['DeviceLost', true, 'length']);
  });

  test('after free the worker is gone and calls say so', async ({ page }) => {
    await open(page);
    assert.equal(page.workers().length, 1);
    const kinds = await page.evaluate(async () => {
      const conversation = model.conversation();
      const running = caught(collect(conversation.send('Speak without end')));
      await new Promise((resolve) => setTimeout(resolve, 50));
      model.free();
      return [(await running).kind, (await caught(conversation.messages())).kind];
    });
    assert.deepEqual(kinds, ['Freed', 'Freed']);
    assert.equal(await workersLeft(page, 0), 0);
  });

  test('tokens and logits by ids, with pictures beside them', async ({ page }) => {
    const [tokens, logits, error] = await page.evaluate(async (source) => {
      const generator = await gemmaflow.Generator.open(source);
      const pictures = [new Uint8Array(3)];
      const tokens = [await generator.generate([2, 3], 4), await generator.generate([2, 3], 4, { pictures })];
      const logits = await generator.logits([2, 3], [4, 5]);
      generator.free();
      return [tokens.map((row) => [...row]), [...logits], await caught(generator.generate([2], 1))];
    }, '/assets/demo/');
    assert.equal(tokens[0].length, 4);
    assert.deepEqual(tokens[1], tokens[0].map((token) => (token + 1) % 1000));
    assert.deepEqual(logits, [1.5, 2, 2.5]);
    assert.equal(error.kind, 'Freed');
  });

  test('embeddings, adapters and doctor', async ({ page }) => {
    const found = await page.evaluate(async (source) => {
      const embedder = await gemmaflow.Embedder.open(source);
      const vectors = await embedder.embed(['one', 'four']);
      const { dimensions } = embedder;
      embedder.free();
      return [dimensions, vectors.map((vector) => [...vector]), await gemmaflow.adapters(), (await gemmaflow.doctor()).kernels];
    }, GGUF);
    assert.deepEqual(found, [4, [[0, 0, 0, 1], [1, 0, 0, 0]], ['Fake adapter (WebGPU)'], 'right']);
  });

  test('the package works from another origin', async ({ page, other }) => {
    const architecture = await page.evaluate(async (origin) => {
      const { Model } = await import(`${origin}/gemmaflow/index.js`);
      const model = await Model.open('/assets/demo/', { cache: false });
      const { architecture } = model.report();
      model.free();
      return architecture;
    }, other.origin);
    assert.equal(architecture, 'Gemma 3');
  });

  test('a worker whose script is missing is a typed error', async ({ page, context }) => {
    await context.route('**/worker.js', (route) => route.abort());
    const error = await page.evaluate(() => caught(gemmaflow.adapters()));
    assert.deepEqual([error.kind, error.typed], ['Worker', true]);
  });

  test('the page never waits: frames go on while a worker is busy', async ({ page }) => {
    const frames = await page.evaluate(async (source) => {
      const model = await gemmaflow.Model.open(source, { cache: false });
      let [frames, on] = [0, true];
      const tick = () => {
        frames++;
        if (on) requestAnimationFrame(tick);
      };
      requestAnimationFrame(tick);
      await collect(model.conversation().send('Be busy for a second', { maxTokens: 1 }));
      on = false;
      model.free();
      return frames;
    }, '/assets/demo/');
    assert.ok(frames > 5, `${frames} frames in a second of a worker's work`);
  });
}

/** Owns one model. Takes `{ id, method, params }` and `{ cancel: id }`, answers `{ id, message | result | error }`. */
import init, { adapters, Cancel, doctor, Embedder, Generator, memoryPlan, Model } from './gemmaflow_web.js';
import { GemmaflowError, isCancelled, toPlain } from './errors.js';
import { openFiles } from './files/open.js';
import { Rate } from './files/rate.js';

/**
 * @typedef {import('./gemmaflow_web.js').Conversation} Conversation
 * @typedef {import('./request.js').PackedSource} PackedSource
 * @typedef {import('./types.js').SourceOptions} SourceOptions
 * @typedef {import('./types.js').LoadOptions} LoadOptions
 *
 * @typedef {object} Context
 * @property {AbortSignal} signal
 * @property {Cancel} cancel
 * @property {(message: unknown) => void} send
 * @property {(work: () => void) => void} atEnd Adds to what is done when the call ends.
 */

const ready = init();
ready.catch(() => {}); // reported by the first call
/** @type {Map<number, () => void>} */
const running = new Map();
/** @type {Model | undefined} */
let model;
/** @type {Embedder | undefined} */
let embedder;
/** @type {Generator | undefined} */
let generator;
/** @type {Map<number, { conversation: Conversation, last: Promise<unknown> }>} */
const conversations = new Map();
let nextConversation = 0;

/** @type {Record<string, (context: Context, ...params: any[]) => any>} */
const METHODS = {
  async openModel(context, source, sourceOptions, loadOptions) {
    const { files, path } = await openFiles(source, sourceOptions, context);
    model = await Model.open(files, path, loadOptions, context.cancel, loadProgress(context));
    return report();
  },
  async openEmbedder(context, source, sourceOptions, loadOptions) {
    const { files, path } = await openFiles(source, sourceOptions, context);
    embedder = await Embedder.open(files, path, loadOptions, context.cancel, loadProgress(context));
    return embedder.dimensions();
  },
  async memoryPlan(context, source, sourceOptions, loadOptions) {
    const { files, path } = await openFiles(source, { ...sourceOptions, headersOnly: true }, context);
    return memoryPlan(files, path, loadOptions);
  },
  adapters,
  doctor,
  async recover(context) {
    await opened().recover(context.cancel, loadProgress(context));
    return report();
  },
  loseDevice: () => opened().loseDevice(),
  async openGenerator(context, source, sourceOptions, loadOptions) {
    const { files, path } = await openFiles(source, sourceOptions, context);
    generator = await Generator.open(files, path, loadOptions, context.cancel, loadProgress(context));
  },
  generate: ({ cancel }, prompt, count, pictures, sounds) =>
    alone((generator) => generator.generate(prompt, count, pictures, sounds, cancel)),
  logits: ({ cancel }, prompt, next, pictures, sounds) =>
    alone((generator) => generator.logits(prompt, next, pictures, sounds, cancel)),
  embed: ({ cancel }, texts, task) => /** @type {Embedder} */ (embedder).embed(texts, task, cancel),
  conversation(_, options) {
    conversations.set(nextConversation, { conversation: opened().conversation(options), last: Promise.resolve() });
    return nextConversation++;
  },
  answer: (context, handle, content, options) =>
    inTurn(handle, (conversation) => answer(context, conversation, content, options)),
  messages: (_, handle) => inTurn(handle, (conversation) => conversation.messages()),
  freeConversation(_, handle) {
    const freed = inTurn(handle, (conversation) => conversation.free());
    conversations.delete(handle);
    return freed;
  },
};

/** The model's report, with the adapter as the browser names it: the module cannot see that. */
async function report() {
  const report = /** @type {any} */ (opened().report());
  const gpu = /** @type {any} */ (Reflect.get(navigator, 'gpu'));
  const { description, vendor, architecture } = (report.gpu && (await gpu?.requestAdapter())?.info) ?? {};
  const name = description || [vendor, architecture].filter(Boolean).join(' ');
  return name ? { ...report, adapter: name } : report;
}

function opened() {
  if (!model) throw new GemmaflowError('Freed', 'No model is open here.');
  return model;
}

/** @type {Promise<unknown>} */
let generated = Promise.resolve();

/**
 * A generator does one thing at a time.
 *
 * @template T
 * @param {(generator: Generator) => Promise<T>} work
 * @returns {Promise<T>}
 */
function alone(work) {
  const result = generated.then(() => work(/** @type {Generator} */ (generator)));
  generated = result.catch(() => {});
  return result;
}

/**
 * A conversation does one thing at a time.
 *
 * @template T
 * @param {number} handle
 * @param {(conversation: Conversation) => T | Promise<T>} work
 * @returns {Promise<T>}
 */
function inTurn(handle, work) {
  const entry = conversations.get(handle);
  if (!entry) throw new GemmaflowError('Freed', 'The conversation was freed. Start another one.');
  const result = entry.last.then(() => work(entry.conversation));
  entry.last = result.catch(() => {});
  return result;
}

/**
 * @param {Context} context
 * @param {Conversation} conversation
 * @param {any} content
 * @param {import('./types.js').AnswerOptions} options
 */
async function answer({ cancel, signal, send }, conversation, content, options) {
  signal.throwIfAborted();
  conversation.setOptions(options);
  await conversation.send(content, cancel);
  for (;;) {
    const event = await conversation.next();
    if (!event) return;
    send(event);
  }
}

/** @param {Context} context */
function loadProgress({ send }) {
  const rate = new Rate();
  return (/** @type {import('./gemmaflow_web.js').LoadProgress} */ { phase, done, total }) => {
    const bytesPerSecond = phase === 'moving' ? rate.at(done) : 0;
    if (rate.due(done === total)) send({ stage: 'load', phase, done, total, bytesPerSecond });
  };
}

/** @param {{ id: number, method: string, params: unknown[] }} request */
async function serve({ id, method, params }) {
  const controller = new AbortController();
  /** @type {Cancel | undefined} */
  let cancel;
  /** @type {(() => void)[]} */
  const ends = [];
  running.set(id, () => {
    controller.abort();
    cancel?.cancel();
  });
  try {
    await ready;
    controller.signal.throwIfAborted();
    cancel = new Cancel();
    const send = (/** @type {unknown} */ message) => postMessage({ id, message });
    const atEnd = (/** @type {() => void} */ work) => void ends.push(work);
    const result = await METHODS[method]({ signal: controller.signal, cancel, send, atEnd }, ...params);
    postMessage({ id, result });
  } catch (error) {
    const plain = controller.signal.aborted && isCancelled(error) ? { name: 'AbortError', message: 'Aborted' } : toPlain(error);
    postMessage({ id, error: plain });
  } finally {
    running.delete(id);
    ends.forEach((end) => end());
    cancel?.free();
  }
}

onmessage = ({ data }) => {
  if ('cancel' in data) running.get(data.cancel)?.();
  else serve(data);
};

// Stands in for the WebAssembly module in tests of the JavaScript around it. It reads its files as the module does, and
// its tokens are a function of their bytes.
import { Sha256 } from './sha256.js';

export { Sha256 };

const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

function spin(milliseconds) {
  for (const end = performance.now() + milliseconds; performance.now() < end; );
}

function failure(kind, message) {
  return Object.assign(new Error(message), { name: 'GemmaflowError', kind });
}

export default async function init() {}

export class Cancel {
  cancelled = false;
  cancel() {
    this.cancelled = true;
  }
  check() {
    if (this.cancelled) throw failure('Cancelled', 'the work was cancelled');
  }
  free() {}
}

export const adapters = async () => ['Fake adapter (WebGPU)'];

export const doctor = async () => ({ adapter: 'Fake adapter', kernels: 'right', seconds: 0.01 });

function weightsOf(files, path) {
  const name = path || 'model.safetensors';
  const file = files.find((entry) => entry.path === name);
  if (!file) throw failure('Io', `there is no ${name}; found: ${files.map((entry) => entry.path).join(', ')}`);
  return file;
}

export function memoryPlan(files, path, options) {
  const file = weightsOf(files, path);
  file.read(0, new Uint8Array(Math.min(4096, file.size)));
  const cache = (options.context ?? 2048) * 1024;
  return { weights: file.size, cache, scratch: 1 << 20, total: file.size + cache + (1 << 20) };
}

async function load(files, path, cancel, onProgress) {
  const file = weightsOf(files, path);
  const head = new Uint8Array(4);
  file.read(0, head);
  if (path.endsWith('.gguf') && String.fromCharCode(...head) !== 'GGUF') throw failure('Format', `${path} is no GGUF file`);
  onProgress({ phase: 'reserving', done: 0, total: file.size });
  // A test holds this lock to stop loads half way.
  await navigator.locks.request('a load', { mode: 'shared' }, () => {});
  checkReads(file);
  let sum = 0;
  const buffer = new Uint8Array(1 << 20);
  for (let done = 0; done < file.size; ) {
    cancel.check();
    const part = buffer.subarray(0, Math.min(buffer.length, file.size - done));
    file.read(done, part);
    for (const byte of part) sum = (Math.imul(sum, 31) + byte) >>> 0;
    done += part.length;
    onProgress({ phase: 'moving', done, total: file.size });
    await pause(Fake.loadPause);
  }
  onProgress({ phase: 'finishing', done: 1, total: 1 });
  return { sum, bytes: file.size, sizes: Object.fromEntries(files.map(({ path, size }) => [path, size])) };
}

/** Reads of few bytes, across blocks and at the end, give what reads of many do. */
function checkReads(file) {
  const whole = new Uint8Array(file.size);
  file.read(0, whole);
  const block = 256 << 10;
  for (const at of [0, 1, block - 2, block, 2 * block - 1, file.size - 5].filter((at) => at + 5 <= file.size)) {
    const few = new Uint8Array(5);
    file.read(at, few);
    if (few.some((byte, i) => byte !== whole[at + i])) throw failure('Io', `other bytes at ${at}`);
  }
  try {
    file.read(file.size - 1, new Uint8Array(2));
  } catch ({ kind }) {
    if (kind === 'Io') return;
  }
  throw failure('Io', 'a read past the end did not fail');
}

const Fake = { loadPause: 5, tokenPause: 15 };

const WORDS = `The moon has no light of its own. What we see at night is **sunlight** on grey dust.

It moves about 3.8 cm further away each year, because:

1. tides slow the Earth's turning, and
2. the moon takes up what the Earth loses.

\`\`\`js
const tides = (moon, sun) => moon * 2.2 + sun;
\`\`\`

A day was once *22 hours* long.`.split(/(?<=\s)/);

export class Model {
  static async open(files, path, options, cancel, onProgress) {
    const model = new Model();
    model.load = (cancel, onProgress) => load(files, path, cancel, onProgress);
    model.facts = await model.load(cancel, onProgress);
    model.context = options.context ?? 2048;
    return model;
  }
  report() {
    const features = ['vision', 'audio'];
    const { sum, bytes, sizes } = this.facts;
    return { architecture: 'Gemma 3', adapter: 'Fake adapter', backend: 'WebGPU', weightBytes: bytes, context: this.context, features, sum, sizes };
  }
  conversation(options) {
    return new Conversation(this, options);
  }
  async recover(cancel, onProgress) {
    this.facts = await this.load(cancel, onProgress);
    this.lost = false;
  }
  loseDevice() {
    this.lost = true;
  }
  free() {}
}

export class Generator {
  static async open(files, path, options, cancel, onProgress) {
    const generator = new Generator();
    generator.facts = await load(files, path, cancel, onProgress);
    return generator;
  }
  async generate(prompt, count, pictures, sounds, cancel) {
    cancel.check();
    return Uint32Array.from({ length: count }, (_, i) => (prompt[0] + this.facts.sum + pictures.length + sounds.length + i) % 1000);
  }
  async logits(prompt, next, pictures, sounds, cancel) {
    cancel.check();
    return Float32Array.from([prompt.at(-1), ...next], (token) => token / 2);
  }
  free() {}
}

export class Conversation {
  history = [];
  constructor(model, options) {
    this.model = model;
    this.options = options;
  }
  async send(content, cancel) {
    cancel.check();
    const parts = typeof content === 'string' ? [{ type: 'text', text: content }] : content;
    const text = parts.map((part) => part.text ?? `[${part.type}: ${part.data.length} bytes]`).join(' ');
    if (text.includes('busy for a second')) spin(1000);
    this.history.push({ role: 'user', text });
    const words = this.options.schema ? ['{"answer": ', '42}'] : [...parts.filter((part) => part.data).map((part) => `I see ${part.type} of ${part.data.length} bytes. `), ...WORDS];
    // What is to be cancelled must not end by itself, however late a busy machine cancels it.
    const endless = text.includes('without end');
    this.answer = { words, endless, text: '', at: 0, prompt: 0, cancel };
  }
  async next() {
    const { answer } = this;
    if (!answer) return undefined;
    if (this.model.lost) throw failure('DeviceLost', 'the device was lost: destroyed');
    await pause(Fake.tokenPause);
    if (answer.cancel.cancelled) return this.end('cancelled');
    if (answer.prompt < 3) return { type: 'prompt', done: ++answer.prompt * 8, total: 24 };
    if (answer.at >= (this.options.maxTokens ?? Infinity)) return this.end('length');
    const text = answer.words[answer.endless ? answer.at % answer.words.length : answer.at];
    if (text === undefined) return this.end('turn');
    answer.at++;
    answer.text += text;
    return { type: 'text', text };
  }
  end(reason) {
    const { at, text } = this.answer;
    this.answer = undefined;
    this.history.push({ role: 'model', text });
    return { type: 'end', reason, usage: { promptTokens: 24, cachedTokens: 0, completionTokens: at } };
  }
  setOptions(options) {
    this.options = options;
  }
  messages() {
    return this.history;
  }
  free() {}
}

export class Embedder {
  static async open(files, path, options, cancel, onProgress) {
    await load(files, path, cancel, onProgress);
    return new Embedder();
  }
  async embed(texts, task, cancel) {
    cancel.check();
    return texts.map((text) => Float32Array.from({ length: 4 }, (_, i) => (i === text.length % 4 ? 1 : 0)));
  }
  dimensions() {
    return 4;
  }
  free() {}
}

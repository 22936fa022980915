/** Google's Gemma models in the browser. Each model has a worker of its own, so that the page never waits. */
import { Conversation } from './conversation.js';
import { Client, callOnce } from './client.js';
import { GemmaflowError, unsupported } from './errors.js';
import { packSource, splitOptions } from './request.js';
import * as cache from './files/cache.js';

export { cache, Conversation, GemmaflowError, unsupported };

/**
 * @typedef {import('./types.js').Source} Source
 * @typedef {import('./types.js').OpenOptions} OpenOptions
 * @typedef {import('./types.js').CallOptions} CallOptions
 * @typedef {import('./types.js').Media} Media
 * @typedef {import('./types.js').AnswerOptions} AnswerOptions
 * @typedef {import('./types.js').Event} Event
 * @typedef {import('./types.js').Part} Part
 * @typedef {import('./types.js').Progress} Progress
 */

/**
 * Starts a worker and opens a source in it. The worker ends where that fails.
 *
 * @param {string} method
 * @param {Source} source
 * @param {OpenOptions} options
 */
async function open(method, source, options) {
  const { signal, onProgress, sourceOptions, loadOptions } = splitOptions(options);
  signal?.throwIfAborted();
  if (loadOptions.device !== 'cpu') {
    const problem = await unsupported();
    if (problem) throw problem;
  }
  const client = new Client();
  try {
    const params = [packSource(source), sourceOptions, loadOptions];
    return { client, facts: await client.call(method, params, { signal, onMessage: onProgress }) };
  } catch (error) {
    client.free();
    throw error;
  }
}

/** A model that talks. */
export class Model {
  #client;
  #report;

  /**
   * Use {@link Model.open}.
   *
   * @param {Client} client
   * @param {object} report
   */
  constructor(client, report) {
    this.#client = client;
    this.#report = report;
  }

  /**
   * Downloads what is missing, and loads the model.
   *
   * @param {Source} source
   * @param {OpenOptions} [options]
   */
  static async open(source, options = {}) {
    const { client, facts } = await open('openModel', source, options);
    return new Model(client, facts);
  }

  /** Architecture, adapter, backend, bytes of weights, context and features, as plain data. */
  report() {
    return /** @type {any} */ (this.#report);
  }

  /** @param {AnswerOptions} [options] */
  conversation(options = {}) {
    return new Conversation(this.#client, options);
  }

  /**
   * Loads the model again after the device was lost. Conversations go on where they were.
   *
   * @param {CallOptions} [options]
   */
  async recover({ signal, onProgress } = {}) {
    this.#report = await this.#client.call('recover', [], { signal, onMessage: onProgress });
  }

  /** Ends the worker; its memory is free. */
  free() {
    this.#client.free();
  }

  /** Destroys the GPU device, as a driver that fails does: to try what an application does then. */
  loseDevice() {
    return this.#client.call('loseDevice');
  }
}

/**
 * A model by the ids of tokens. A prompt has them as transformers does: a placeholder for each soft token of a picture.
 */
export class Generator {
  #client;

  /**
   * Use {@link Generator.open}.
   *
   * @param {Client} client
   */
  constructor(client) {
    this.#client = client;
  }

  /**
   * Downloads what is missing, and loads the model. It needs no tokenizer.
   *
   * @param {Source} source
   * @param {OpenOptions} [options]
   */
  static async open(source, options = {}) {
    const { client } = await open('openGenerator', source, options);
    return new Generator(client);
  }

  /**
   * The `count` likeliest tokens after a prompt, one after the other; fewer where a stop token ends them, which is the
   * last one then, or where the context is full.
   *
   * @param {ArrayLike<number>} prompt
   * @param {number} count
   * @param {Media & CallOptions} [options]
   * @returns {Promise<Uint32Array>}
   */
  generate(prompt, count, { pictures = [], sounds = [], signal } = {}) {
    return this.#client.call('generate', [Uint32Array.from(prompt), count, pictures, sounds], { signal });
  }

  /**
   * The logits after a prompt, and after each of the tokens `next` that follow it, row by row.
   *
   * @param {ArrayLike<number>} prompt
   * @param {ArrayLike<number>} next
   * @param {Media & CallOptions} [options]
   * @returns {Promise<Float32Array>}
   */
  logits(prompt, next, { pictures = [], sounds = [], signal } = {}) {
    return this.#client.call('logits', [Uint32Array.from(prompt), Uint32Array.from(next), pictures, sounds], { signal });
  }

  /** Ends the worker; its memory is free. */
  free() {
    this.#client.free();
  }
}

/** A model that embeds texts. */
export class Embedder {
  #client;

  /**
   * Use {@link Embedder.open}.
   *
   * @param {Client} client
   * @param {number} dimensions
   */
  constructor(client, dimensions) {
    this.#client = client;
    this.dimensions = dimensions;
  }

  /**
   * Downloads what is missing, and loads the model.
   *
   * @param {Source} source
   * @param {OpenOptions} [options]
   */
  static async open(source, options = {}) {
    const { client, facts } = await open('openEmbedder', source, options);
    return new Embedder(client, facts);
  }

  /**
   * A unit vector for each text.
   *
   * @param {string[]} texts
   * @param {{ task?: 'query' | 'document' | string, signal?: AbortSignal }} [options] `task` chooses the prompt before a
   * text: one of the two, or the name of one that the checkpoint has. Without it there is none.
   * @returns {Promise<Float32Array[]>}
   */
  embed(texts, { task, signal } = {}) {
    return this.#client.call('embed', [texts, task], { signal });
  }

  /** Ends the worker; its memory is free. */
  free() {
    this.#client.free();
  }
}

/**
 * The memory that a model takes, by its parts, in bytes. Reads headers alone where the server answers byte ranges.
 *
 * @param {Source} source
 * @param {OpenOptions} [options]
 * @returns {Promise<any>}
 */
export function memoryPlan(source, options = {}) {
  const { signal, onProgress, sourceOptions, loadOptions } = splitOptions(options);
  const params = [packSource(source), sourceOptions, loadOptions];
  return callOnce('memoryPlan', params, { signal, onMessage: onProgress });
}

/**
 * The adapters that WebGPU offers here.
 *
 * @returns {Promise<string[]>}
 */
export function adapters() {
  return callOnce('adapters');
}

/**
 * A report on the adapter, with a small check of its kernels, for an issue.
 *
 * @returns {Promise<any>}
 */
export function doctor() {
  return callOnce('doctor');
}

import { GemmaflowError } from './errors.js';

/**
 * @typedef {import('./types.js').AnswerOptions} AnswerOptions
 * @typedef {import('./types.js').SendOptions} SendOptions
 * @typedef {import('./types.js').Event} Event
 * @typedef {import('./types.js').Part} Part
 * @typedef {import('./client.js').Client} Client
 */

/** A conversation with a model. */
export class Conversation {
  #client;
  #options;
  #handle;

  /**
   * Use `model.conversation()`.
   *
   * @param {Client} client
   * @param {AnswerOptions} options
   */
  constructor(client, options) {
    this.#client = client;
    this.#options = options;
    this.#handle = /** @type {Promise<number>} */ (client.call('conversation', [options]));
    this.#handle.catch(() => {}); // reported by the first call that needs it
  }

  /**
   * Sends a message and gives the answer's events. Nothing happens before the first one is asked for. Leaving the loop
   * cancels the answer; so does `signal`, and then the loop ends with the signal's reason. Either way the text so far
   * stays in the conversation. Options hold for this answer alone; those of the conversation for the others.
   *
   * @param {string | Part[]} content
   * @param {SendOptions} [options]
   * @returns {AsyncGenerator<Event, void, undefined>}
   */
  async *send(content, { signal, ...options } = {}) {
    if ('system' in options) {
      throw new GemmaflowError('Input', "send() got 'system', which holds for a whole conversation: give it to model.conversation().");
    }
    const handle = await this.#handle;
    const packed = typeof content === 'string' ? content : await Promise.all(content.map(pack));
    signal?.throwIfAborted();
    const left = new AbortController();
    const follow = () => left.abort(signal?.reason);
    signal?.addEventListener('abort', follow);
    const queue = new Queue();
    const params = [handle, packed, { ...this.#options, ...options }];
    const answer = this.#client
      .call('answer', params, { signal: left.signal, onMessage: (event) => queue.push(event) })
      .then(() => queue.end(), (error) => queue.end(error));
    try {
      yield* queue.items();
      signal?.throwIfAborted();
    } finally {
      signal?.removeEventListener('abort', follow);
      left.abort();
      await answer; // the next message must find the conversation at rest
    }
  }

  /** @returns {Promise<import('./types.js').Message[]>} */
  async messages() {
    return this.#client.call('messages', [await this.#handle]);
  }

  /** Frees what the conversation holds on the device. */
  async free() {
    await this.#client.call('freeConversation', [await this.#handle]);
  }
}

/** Events that have arrived and were not asked for yet. */
class Queue {
  /** @type {Event[]} */
  #events = [];
  /** @type {{ error?: unknown } | undefined} */
  #end;
  #wake = () => {};

  /** @param {Event} event */
  push(event) {
    this.#events.push(event);
    this.#wake();
  }

  /** @param {unknown} [error] */
  end(error) {
    this.#end = error === undefined ? {} : { error };
    this.#wake();
  }

  async *items() {
    for (;;) {
      const event = this.#events.shift();
      if (event) yield event;
      else if (this.#end && 'error' in this.#end) throw this.#end.error;
      else if (this.#end) return;
      else await new Promise((resolve) => (this.#wake = () => resolve(undefined)));
    }
  }
}

/** @param {Part} part */
async function pack(part) {
  if (part.type === 'text') return part;
  const { type, data } = part;
  if (data instanceof Blob) return { type, data: new Uint8Array(await data.arrayBuffer()) };
  return { type, data: data instanceof ArrayBuffer ? new Uint8Array(data) : data };
}

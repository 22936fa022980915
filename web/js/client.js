import { fromPlain, GemmaflowError, isCancelled } from './errors.js';

/**
 * @typedef {object} Call
 * @property {(value: any) => void} resolve
 * @property {(error: unknown) => void} reject
 * @property {((message: any) => void) | undefined} onMessage
 */

/** A worker and the calls that it has not answered. */
export class Client {
  #worker = startWorker();
  #next = 0;
  /** @type {Map<number, Call>} */
  #calls = new Map();
  /** @type {Error | undefined} */
  #ended;

  constructor() {
    this.#worker.onmessage = ({ data }) => this.#receive(data);
    this.#worker.onerror = (event) => {
      event.preventDefault();
      const what = event.message || 'its script could not be loaded';
      this.#end(new GemmaflowError('Worker', `The worker failed: ${what}. Open the model again.`));
    };
  }

  /**
   * @param {string} method
   * @param {unknown[]} [params]
   * @param {{ signal?: AbortSignal | undefined, onMessage?: ((message: any) => void) | undefined }} [options]
   * @returns {Promise<any>}
   */
  async call(method, params = [], { signal, onMessage } = {}) {
    signal?.throwIfAborted();
    if (this.#ended) throw this.#ended;
    const id = this.#next++;
    const answer = new Promise((resolve, reject) => this.#calls.set(id, { resolve, reject, onMessage }));
    const cancel = () => this.#worker.postMessage({ cancel: id });
    signal?.addEventListener('abort', cancel);
    try {
      this.#worker.postMessage({ id, method, params });
      return await answer;
    } catch (error) {
      throw signal?.aborted && isCancelled(error) ? signal.reason : error;
    } finally {
      this.#calls.delete(id);
      signal?.removeEventListener('abort', cancel);
    }
  }

  /** Ends the worker; its memory is free. Calls under way reject. */
  free() {
    this.#end(new GemmaflowError('Freed', 'The model was freed. Open it again.'));
  }

  /** @param {Error} error */
  #end(error) {
    this.#ended ??= error;
    this.#worker.terminate();
    for (const { reject } of this.#calls.values()) reject(error);
    this.#calls.clear();
  }

  /** @param {{ id: number, message?: any, result?: any, error?: import('./errors.js').PlainError }} data */
  #receive({ id, message, result, error }) {
    const call = this.#calls.get(id);
    if (!call) return;
    if (error) call.reject(fromPlain(error));
    else if (message !== undefined) call.onMessage?.(message);
    else call.resolve(result);
  }
}

/** Bundlers look for `new Worker(new URL(…, import.meta.url))` as it stands here. */
function startWorker() {
  const url = new URL('./worker.js', import.meta.url);
  if (url.origin === location.origin || url.protocol === 'blob:') {
    return new Worker(new URL('./worker.js', import.meta.url), { type: 'module' });
  }
  // A worker's script must come from the page's own origin. What it imports may come from another.
  const script = URL.createObjectURL(new Blob([`import ${JSON.stringify(url.href)};`], { type: 'text/javascript' }));
  const worker = new Worker(script, { type: 'module' });
  setTimeout(() => URL.revokeObjectURL(script), 60_000);
  return worker;
}

/**
 * Calls one method of a worker that ends with the call.
 *
 * @param {string} method
 * @param {unknown[]} [params]
 * @param {{ signal?: AbortSignal | undefined, onMessage?: ((message: any) => void) | undefined }} [options]
 */
export async function callOnce(method, params, options) {
  const client = new Client();
  try {
    return await client.call(method, params, options);
  } finally {
    client.free();
  }
}

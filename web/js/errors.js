/**
 * An error of this package or of the crate.
 *
 * `kind` says what happened. From this package: `Unsupported`, `Source`, `Offline`, `Network`, `Cors`, `Http`, `Access`,
 * `Missing`, `Truncated`, `Checksum`, `Changed`, `Quota`, `Io`, `Freed` and `Worker`. From the crate: its own kinds, such
 * as `Format`, `Device` and `DeviceLost`. The message says what was found, what was expected and what to do.
 */
export class GemmaflowError extends Error {
  /**
   * @param {string} kind
   * @param {string} message
   */
  constructor(kind, message) {
    super(message);
    this.name = 'GemmaflowError';
    this.kind = kind;
  }
}

/** @typedef {{ name: string, kind?: string, message: string }} PlainError */

/**
 * An error as plain data, as it crosses from a worker.
 *
 * @param {unknown} error
 * @returns {PlainError}
 */
export function toPlain(error) {
  if (typeof error !== 'object' || error === null) return { name: 'Error', message: String(error) };
  const { name = 'Error', kind, message = String(error) } = /** @type {PlainError} */ (error);
  return { name, kind, message };
}

/**
 * @param {PlainError} plain
 * @returns {Error}
 */
export function fromPlain({ name, kind, message }) {
  if (name === 'AbortError') return new DOMException(message, name);
  return new GemmaflowError(kind ?? 'Worker', kind ? message : `${name}: ${message}`);
}

/**
 * True for an error that says that work was cancelled.
 *
 * @param {unknown} error
 */
export function isCancelled(error) {
  const { name, kind } = toPlain(error);
  return name === 'AbortError' || kind === 'Cancelled';
}

const SWITCH_ON = `This needs WebGPU, which this browser does not offer. It is there in Chrome and Edge 113 or later, in \
Safari 26 or later, and in Firefox 141 or later on Windows and 145 or later on macOS with Apple silicon. On Linux, switch \
it on: chrome://flags/#enable-unsafe-webgpu in Chrome, dom.webgpu.enabled in about:config in Firefox.`;
const INSECURE = `This page came over plain HTTP, where browsers offer no WebGPU. Open it over HTTPS or from localhost.`;
const NO_ADAPTER = `This browser has WebGPU, but no graphics adapter for it. Update the graphics driver and switch on \
graphics acceleration in the browser's settings. On Linux, Chrome needs chrome://flags/#enable-unsafe-webgpu.`;

/**
 * What keeps this browser from running a model on its GPU, with what to switch on; undefined where nothing does.
 *
 * @returns {Promise<GemmaflowError | undefined>}
 */
export async function unsupported() {
  const problem = (/** @type {string} */ text) => new GemmaflowError('Unsupported', text);
  if (!globalThis.isSecureContext) return problem(INSECURE);
  const gpu = /** @type {{ requestAdapter(): Promise<unknown> } | undefined} */ (Reflect.get(navigator, 'gpu'));
  if (!gpu) return problem(SWITCH_ON);
  const adapter = await gpu.requestAdapter().catch(() => null);
  return adapter ? undefined : problem(NO_ADAPTER);
}

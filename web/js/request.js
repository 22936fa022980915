import { GemmaflowError } from './errors.js';

/**
 * @typedef {{ kind: 'name', name: string } | { kind: 'files', files: { path: string, blob: Blob }[] }} PackedSource
 * A source as it crosses to the worker. A relative URL is made whole on the page, whose address it is relative to.
 */

/**
 * @param {import('./types.js').Source} source
 * @returns {PackedSource}
 */
export function packSource(source) {
  if (source instanceof URL) return { kind: 'name', name: source.href };
  if (typeof source === 'string') return { kind: 'name', name: packName(source) };
  if (source instanceof Blob) return { kind: 'files', files: [{ path: nameOf(source), blob: source }] };
  const files = Array.from(source ?? []);
  if (!files.length || !files.every((file) => file instanceof Blob)) {
    throw new GemmaflowError('Source', 'A model is a URL, a name on the Hub, a File, or the Files of a folder.');
  }
  return { kind: 'files', files: files.map((blob) => ({ path: pathOf(blob), blob })) };
}

/** @param {string} source */
function packName(source) {
  const isUrl = /^[a-z][a-z0-9+.-]*:/i.test(source) || /^(\.{0,2}\/)/.test(source);
  if (!isUrl && /^[\w.-]+\/[\w.-]+(\/.+\.gguf)?$/i.test(source)) return source;
  if (!isUrl && !source.includes('/') && !/\.gguf$/i.test(source)) {
    throw new GemmaflowError('Source', `"${source}" is neither a URL nor a name on the Hub, "owner/name".`);
  }
  return new URL(source, location.href).href;
}

/** @param {Blob} blob */
function nameOf(blob) {
  return blob instanceof File && blob.name ? blob.name : 'model.gguf';
}

/**
 * The path of a file within the folder that was chosen.
 *
 * @param {File} file
 */
function pathOf(file) {
  return file.webkitRelativePath?.split('/').slice(1).join('/') || nameOf(file);
}

/** @param {import('./types.js').OpenOptions} options */
export function splitOptions({ signal, onProgress, device, kernels, context, towers, ...sourceOptions }) {
  const loadOptions = dropUndefined({ device, kernels, context, towers });
  return { signal, onProgress, loadOptions, sourceOptions: dropUndefined(sourceOptions) };
}

/**
 * @template {object} T
 * @param {T} object
 * @returns {T}
 */
function dropUndefined(object) {
  return /** @type {T} */ (Object.fromEntries(Object.entries(object).filter(([, value]) => value !== undefined)));
}

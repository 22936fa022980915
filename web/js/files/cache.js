/** The models that this origin keeps in the browser's storage. */
import { packSource } from '../request.js';
import { keyOf } from './resolve.js';
import * as store from './store.js';

/**
 * @typedef {import('../types.js').CachedModel} CachedModel
 * @typedef {import('../types.js').Source} Source
 */

/** @returns {Promise<CachedModel[]>} */
export async function list() {
  const root = await store.openRoot();
  const models = [];
  if (!root) return [];
  for await (const handle of root.values()) {
    const folder = /** @type {FileSystemDirectoryHandle} */ (handle);
    const entry = await store.readEntry(folder);
    if (entry) models.push(await describe(folder, entry));
  }
  return models.sort((a, b) => a.source.localeCompare(b.source));
}

/**
 * @param {FileSystemDirectoryHandle} folder
 * @param {store.Entry} entry
 * @returns {Promise<CachedModel>}
 */
async function describe(folder, entry) {
  const whole = await store.completeFiles(folder, entry);
  const sizes = whole ? whole.map(({ blob }) => blob.size) : entry.files.map(({ size, about }) => size ?? about);
  return {
    source: entry.source,
    bytes: await store.bytesHere(folder),
    total: sizes.includes(undefined) ? 0 : sizes.reduce((/** @type {number} */ sum, size = 0) => sum + size, 0),
    complete: whole !== undefined,
    files: entry.files.map(({ path }) => path),
  };
}

/**
 * Removes a model, given as it was opened or as {@link list} names it. A download or a load of it ends first.
 *
 * @param {Source} source
 * @param {import('../types.js').SourceOptions} [options]
 */
export async function remove(source, options = {}) {
  const listed = (await list()).some((model) => model.source === source);
  const packed = listed ? undefined : packSource(source);
  const key = packed?.kind === 'name' ? keyOf(packed.name, options) : String(source);
  const root = await store.openRoot();
  if (root) await removeFolder(root, await store.hashName(key));
}

/** Removes all models. */
export async function clear() {
  const root = await store.openRoot();
  if (!root) return;
  const names = [];
  for await (const name of root.keys()) names.push(name);
  for (const name of names) await removeFolder(root, name);
}

/**
 * @param {FileSystemDirectoryHandle} root
 * @param {string} name
 */
async function removeFolder(root, name) {
  await store.withLock(name, {}, () =>
    store.whenFree(() => root.removeEntry(name, { recursive: true })).catch((error) => {
      if (error.name !== 'NotFoundError') throw error;
    }),
  );
}

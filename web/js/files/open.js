/** From a source to files that can be read at once. Runs in a worker. */
import { GemmaflowError } from '../errors.js';
import { countIntact, download, reserve } from './download.js';
import { hasRanges, stream } from './http.js';
import { CHECKPOINT, isProjector } from './names.js';
import { Rate } from './rate.js';
import { blobEntry, rangeEntry, storedEntry } from './readers.js';
import { keyOf, resolve } from './resolve.js';
import * as store from './store.js';

const PIECE = 16 << 20;
const SMALL = 8 << 20;

/**
 * @typedef {import('./http.js').RemoteFile} RemoteFile
 * @typedef {import('../gemmaflow_web.js').FileEntry} FileEntry
 * @typedef {import('../types.js').SourceOptions & { headersOnly?: boolean }} Options
 * @typedef {{ signal: AbortSignal, send: (message: unknown) => void, atEnd: (work: () => void) => void }} Context
 * @typedef {{ path: string, files: FileEntry[] }} Opened
 */

/**
 * @param {import('../request.js').PackedSource} source
 * @param {Options} options
 * @param {Context} context
 * @returns {Promise<Opened>}
 */
export async function openFiles(source, options, context) {
  if (source.kind === 'files') return openLocal(source.files);
  const key = keyOf(source.name, options);
  const root = options.cache === false ? undefined : await store.openRoot();
  if (!root) return openRemote(await resolve(source.name, options, context.signal), options, context);
  const name = await store.hashName(key);
  // A complete copy serves at once, also while another tab fetches a newer version. Comparing one takes time, in which
  // it must stay.
  const folder = await root.getDirectoryHandle(name).catch(() => undefined);
  const waits = options.revalidate || (options.verify && !options.headersOnly);
  const here = folder && !waits && (await openCached(folder, options.headersOnly ? {} : options, context));
  if (here) return here;
  if (options.headersOnly) return openRemote(await resolve(source.name, options, context.signal), options, context);
  const onWait = () => context.send({ stage: 'waiting', done: 0, total: 0 });
  const opened = await store.withLock(name, { signal: context.signal, onWait }, async () => {
    const folder = await root.getDirectoryHandle(name, { create: true });
    const cached = options.revalidate ? undefined : await openCached(folder, options, context);
    if (cached) return { cached };
    const found = await resolve(source.name, options, context.signal);
    if (await bring(folder, { source: key, ...found }, options, context)) return { cached: await openCached(folder, {}, context) };
    await store.whenFree(() => root.removeEntry(name, { recursive: true }));
    return { found };
  });
  if (opened.cached) return opened.cached;
  if (opened.found) return openRemote(opened.found, options, context);
  throw new GemmaflowError('Io', `${key}: its files were removed while they were opened. Open it again.`);
}

/**
 * @param {{ path: string, blob: Blob }[]} files
 * @returns {Opened}
 */
function openLocal(files) {
  const gguf = files.map(({ path }) => path).filter((path) => /\.gguf$/i.test(path) && !isProjector(path)).sort();
  const path = gguf[0] ?? (files.length === 1 ? files[0].path : '');
  return { path, files: files.map(({ path, blob }) => blobEntry(path, blob)) };
}

/**
 * A complete copy; undefined where there is none.
 *
 * @param {FileSystemDirectoryHandle} folder
 * @param {Options} options
 * @param {Context} context
 */
async function openCached(folder, { verify, sha256 }, { signal, atEnd }) {
  const entry = await store.readEntry(folder);
  const files = entry && (await store.completeFiles(folder, entry));
  if (!files) return undefined;
  for (const { path, blob, pieces, pieceBytes, sha256: compared } of files) {
    // The copy was not compared with this checksum.
    if (sha256 && path === (entry.path || CHECKPOINT.weights) && compared !== sha256.toLowerCase()) return undefined;
    if (!verify) continue;
    const reader = new FileReaderSync();
    const read = (/** @type {number} */ from, /** @type {number} */ to) => new Uint8Array(reader.readAsArrayBuffer(blob.slice(from, to)));
    if ((await countIntact(read, blob.size, pieces, pieceBytes, () => signal.throwIfAborted())) < pieces.length) return undefined;
  }
  const opened = await Promise.all(files.map(({ path, handle, blob }) => storedEntry(path, handle, blob)));
  opened.forEach(({ close }) => atEnd(close));
  return { path: entry.path, files: opened.map(({ entry }) => entry) };
}

/** Reports the progress of several files as one. */
class Progress {
  #rate = new Rate();
  #done = 0;
  #file = '';

  /**
   * @param {RemoteFile[]} files
   * @param {Context} context
   */
  constructor(files, context) {
    const sizes = files.map(({ size, about }) => size ?? about);
    this.total = sizes.includes(undefined) ? 0 : sizes.reduce((/** @type {number} */ sum, size = 0) => sum + size, 0);
    this.context = context;
  }

  /** @param {string} file */
  begin(file) {
    this.#file = file;
  }

  /** @param {number} bytes */
  add(bytes) {
    this.#done += bytes;
    const bytesPerSecond = this.#rate.at(this.#done);
    if (!this.#rate.due(this.#done === this.total)) return;
    const total = this.total && Math.max(this.total, this.#done);
    this.context.send({ stage: 'download', file: this.#file, done: this.#done, total, bytesPerSecond });
  }
}

/**
 * Brings a source into its folder. A complete older version stays until the new one is complete.
 *
 * @param {FileSystemDirectoryHandle} folder
 * @param {{ source: string, path: string, files: RemoteFile[] }} found
 * @param {Options} options
 * @param {Context} context
 * @returns {Promise<boolean>} False where there is no room.
 */
async function bring(folder, found, options, context) {
  const { pieceBytes = PIECE } = options;
  const entry = { ...found, files: await Promise.all(found.files.map((file) => store.nameFile(file, pieceBytes))) };
  const earlier = await store.readEntry(folder);
  const older = earlier && (await store.completeFiles(folder, earlier)) && earlier.files;
  if (!older) {
    await store.writeEntry(folder, entry);
    return fetchMissing(folder, entry.files, options, context);
  }
  await store.keepOnly(folder, [...older, ...entry.files]);
  try {
    if (!(await fetchMissing(folder, entry.files, options, context))) throw noRoomBeside(entry);
  } catch (error) {
    const { kind } = /** @type {GemmaflowError} */ (error);
    // Pieces that serve no later download are not kept.
    if (kind === 'Quota' || kind === 'Checksum') await store.keepOnly(folder, older);
    throw error;
  }
  await store.writeEntry(folder, entry);
  return true;
}

/**
 * @param {FileSystemDirectoryHandle} folder
 * @param {store.NamedFile[]} files
 * @param {Options} options
 * @param {Context} context
 * @returns {Promise<boolean>} False where there is no room.
 */
async function fetchMissing(folder, files, { pieceBytes = PIECE, verify }, context) {
  const missing = [];
  for (const file of files) {
    const whole = verify ? undefined : await store.wholeFile(folder, file);
    if (!whole || (file.sha256 && file.sha256 !== whole.sha256)) missing.push(file);
  }
  if (!(await reserve(folder, missing))) return false;
  const progress = new Progress(files, context);
  for (const file of files) {
    progress.begin(file.path);
    const onBytes = (/** @type {number} */ bytes) => progress.add(bytes);
    if (missing.includes(file)) await download(folder, file, { pieceBytes, signal: context.signal, onBytes });
    else onBytes(file.size ?? file.about ?? 0);
  }
  return true;
}

/** @param {store.Entry} entry */
function noRoomBeside({ source, files }) {
  const bytes = files.reduce((sum, { size, about = 0 }) => sum + (size ?? about), 0);
  const advice = 'Remove the old one first (cache.remove) and open it again, or free space on the disk.';
  return new GemmaflowError('Quota', `${source}: no room in the browser's storage for its new version, of ${bytes} bytes, beside the old one, which stays. ${advice}`);
}

/**
 * Files that are not kept. Small ones come into memory, large ones are read on the server.
 *
 * @param {{ path: string, files: RemoteFile[] }} found
 * @param {Options} options
 * @param {Context} context
 * @returns {Promise<Opened>}
 */
async function openRemote({ path, files }, { pieceBytes = PIECE }, context) {
  const whole = [];
  const entries = new Map();
  for (const file of files) {
    const { size } = file;
    if (size !== undefined && size > Math.min(SMALL, pieceBytes) && (await hasRanges(file, context.signal))) {
      entries.set(file, rangeEntry({ ...file, size }));
    } else whole.push(file);
  }
  const progress = new Progress(whole, context);
  for (const file of whole) {
    progress.begin(file.path);
    entries.set(file, blobEntry(file.path, await toBlob(file, pieceBytes, context.signal, (bytes) => progress.add(bytes))));
  }
  return { path, files: files.map((file) => entries.get(file)) };
}

/**
 * The browser may put blobs on disk, so that a large file does not fill the worker's memory.
 *
 * @param {RemoteFile} file
 * @param {number} pieceBytes
 * @param {AbortSignal} signal
 * @param {(bytes: number) => void} onBytes
 */
async function toBlob(file, pieceBytes, signal, onBytes) {
  const blobs = [];
  /** @type {BlobPart[]} */
  let parts = [];
  let held = 0;
  for await (const bytes of stream(file, 0, signal)) {
    parts.push(/** @type {Uint8Array<ArrayBuffer>} */ (bytes));
    held += bytes.length;
    onBytes(bytes.length);
    if (held < pieceBytes) continue;
    blobs.push(new Blob(parts));
    parts = [];
    held = 0;
  }
  return new Blob([...blobs, ...parts]);
}

/**
 * The cache in the browser's private file system: a folder for each source, with
 *
 * - `source.json`: the source, the path to open, and the files;
 * - `0`, `1`, …: the files' bytes;
 * - `0.pieces`, …: a line of JSON with the file's facts, the SHA-256 of each piece, and at last `complete`. A line that
 *   has no end was being written when the browser stopped, and does not count.
 */
const ROOT = 'gemmaflow';
const COMPLETE = 'complete';
const RECORD = 'source.json';

/**
 * @typedef {import('./http.js').RemoteFile} RemoteFile
 * @typedef {{ source: string, path: string, files: { path: string, size: number | undefined, about?: number | undefined }[] }} Entry
 * @typedef {{ facts: string, pieces: string[], complete: boolean }} Manifest
 */

/**
 * The folder of all models; undefined where there is no private file system, as in some private windows.
 *
 * @returns {Promise<FileSystemDirectoryHandle | undefined>}
 */
export async function openRoot() {
  try {
    return await (await navigator.storage.getDirectory()).getDirectoryHandle(ROOT, { create: true });
  } catch {
    return undefined;
  }
}

/**
 * The name of a source's folder.
 *
 * @param {string} source
 */
export async function folderName(source) {
  return toHex(await crypto.subtle.digest('SHA-256', new TextEncoder().encode(source))).slice(0, 32);
}

/** @param {ArrayBuffer} digest */
export function toHex(digest) {
  return Array.from(new Uint8Array(digest), (byte) => byte.toString(16).padStart(2, '0')).join('');
}

/**
 * @param {FileSystemDirectoryHandle} folder
 * @param {string} name
 * @returns {Promise<File | undefined>}
 */
export async function readFile(folder, name) {
  try {
    return await (await folder.getFileHandle(name)).getFile();
  } catch {
    return undefined;
  }
}

/**
 * @param {FileSystemDirectoryHandle} folder
 * @returns {Promise<Entry | undefined>}
 */
export async function readEntry(folder) {
  try {
    return JSON.parse((await (await readFile(folder, RECORD))?.text()) ?? '');
  } catch {
    return undefined;
  }
}

/**
 * @param {FileSystemDirectoryHandle} folder
 * @param {Entry} entry
 */
export async function writeEntry(folder, { source, path, files }) {
  const record = { source, path, files: files.map(({ path, size, about }) => ({ path, size, about })) };
  const handle = await openForWriting(folder, RECORD);
  try {
    handle.truncate(0);
    handle.write(new TextEncoder().encode(JSON.stringify(record)), { at: 0 });
    handle.flush();
  } finally {
    handle.close();
  }
}

/**
 * Opens a file alone. A worker that ended a moment ago may still hold it.
 *
 * @param {FileSystemDirectoryHandle} folder
 * @param {string} name
 */
export async function openForWriting(folder, name) {
  const handle = await folder.getFileHandle(name, { create: true });
  for (let tries = 1; ; tries++) {
    try {
      return await handle.createSyncAccessHandle();
    } catch (error) {
      if (tries === 20 || !(error instanceof DOMException && error.name === 'NoModificationAllowedError')) throw error;
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
  }
}

/**
 * @param {FileSystemDirectoryHandle} folder
 * @param {number} index
 * @returns {Promise<Manifest>}
 */
export async function readManifest(folder, index) {
  const text = (await (await readFile(folder, `${index}.pieces`))?.text()) ?? '';
  const [facts = '', ...pieces] = text.split('\n').slice(0, -1);
  const complete = pieces.at(-1) === COMPLETE;
  return { facts, complete, pieces: complete ? pieces.slice(0, -1) : pieces };
}

/**
 * Bytes of a file that were downloaded. A file has its whole length from the start.
 *
 * @param {FileSystemDirectoryHandle} folder
 * @param {number} index
 */
export async function bytesHere(folder, index) {
  const { facts, pieces, complete } = await readManifest(folder, index);
  if (complete) return (await readFile(folder, String(index)))?.size ?? 0;
  return facts ? pieces.length * JSON.parse(facts).pieceBytes : 0;
}

/** Writes a manifest line by line. */
export class ManifestWriter {
  #handle;
  #end = 0;

  /** @param {FileSystemSyncAccessHandle} handle */
  constructor(handle) {
    this.#handle = handle;
  }

  /**
   * Begins anew, with the pieces that are kept.
   *
   * @param {string} facts
   * @param {string[]} pieces
   */
  begin(facts, pieces) {
    this.#handle.truncate(0);
    this.#end = 0;
    [facts, ...pieces].forEach((line) => this.add(line));
  }

  /** @param {string} line */
  add(line) {
    const bytes = new TextEncoder().encode(`${line}\n`);
    this.#handle.write(bytes, { at: this.#end });
    this.#end += bytes.length;
    this.#handle.flush();
  }

  complete() {
    this.add(COMPLETE);
  }

  close() {
    this.#handle.close();
  }
}

/**
 * What a manifest says of its file.
 *
 * @param {RemoteFile} file
 * @param {number} pieceBytes
 */
export function factsOf({ path, size, version, sha256 }, pieceBytes) {
  return JSON.stringify({ path, size, version, pieceBytes, sha256 });
}

/**
 * True where the pieces of an earlier download count. Another SHA-256 does not matter: the whole is compared at the end.
 *
 * @param {string} earlier
 * @param {string} now
 */
export function isSame(earlier, now) {
  const withoutSha = (/** @type {string} */ facts) => JSON.stringify({ ...JSON.parse(facts || '{}'), sha256: undefined });
  return withoutSha(earlier) === withoutSha(now);
}

/**
 * The files of a complete copy; undefined where something is missing.
 *
 * @param {FileSystemDirectoryHandle} folder
 * @param {Entry} entry
 */
export async function completeFiles(folder, entry) {
  const files = [];
  for (const [index, { path, size }] of entry.files.entries()) {
    const { complete } = await readManifest(folder, index);
    const blob = await readFile(folder, String(index));
    if (!complete || !blob || (size !== undefined && blob.size !== size)) return undefined;
    files.push({ path, blob });
  }
  return files;
}

/**
 * Only one tab writes to a source's folder.
 *
 * @template T
 * @param {string} folder
 * @param {{ signal?: AbortSignal, onWait?: () => void }} options
 * @param {() => Promise<T>} work
 * @returns {Promise<T>}
 */
export async function withLock(folder, { signal, onWait }, work) {
  const name = `${ROOT}:${folder}`;
  /** @type {{ value: T } | undefined} */
  let done;
  await navigator.locks.request(name, { ifAvailable: true }, async (lock) => {
    if (lock) done = { value: await work() };
  });
  if (done) return done.value;
  onWait?.();
  return navigator.locks.request(name, signal ? { signal } : {}, work);
}

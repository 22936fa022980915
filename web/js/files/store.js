/**
 * The cache in the browser's private file system: a folder for each source, with
 *
 * - `source.json`: a line of JSON for each version: the source, the path to open, and the files. The last one counts;
 * - the files' bytes, each file under a name of its version: a newer one comes beside it;
 * - `NAME.pieces`: a line of JSON with the file's facts, the SHA-256 of each piece, and at last `complete`.
 *
 * A line that has no end was being written when the browser stopped, and does not count.
 */
import { GemmaflowError } from '../errors.js';

const ROOT = 'gemmaflow';
const COMPLETE = 'complete';
const RECORD = 'source.json';
const PIECES = '.pieces';
/** Of 100 ms each. */
const TRIES = 300;
const IN_USE = "The model's files in the browser's storage are in use: another tab loads them. Wait for it or close it, then try again.";

/**
 * @typedef {import('./http.js').RemoteFile} RemoteFile
 * @typedef {RemoteFile & { name: string }} NamedFile A file, and its name in the folder.
 * @typedef {Pick<NamedFile, 'name' | 'path' | 'size' | 'about'>} EntryFile
 * @typedef {{ source: string, path: string, files: EntryFile[] }} Entry
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
 * The name of a source's folder, or of a version of a file.
 *
 * @param {string} text
 */
export async function hashName(text) {
  return toHex(await crypto.subtle.digest('SHA-256', new TextEncoder().encode(text))).slice(0, 32);
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
 * The lines that were written to their ends.
 *
 * @param {FileSystemDirectoryHandle} folder
 * @param {string} name
 */
async function readLines(folder, name) {
  const file = await readFile(folder, name);
  // Another tab may write it just now.
  const text = (await file?.text().catch(() => '')) ?? '';
  return text.split('\n').slice(0, -1);
}

/**
 * @param {FileSystemDirectoryHandle} folder
 * @returns {Promise<Entry | undefined>}
 */
export async function readEntry(folder) {
  try {
    return JSON.parse((await readLines(folder, RECORD)).at(-1) ?? '');
  } catch {
    return undefined;
  }
}

/**
 * From here on the folder is this version's; what is not of it goes.
 *
 * @param {FileSystemDirectoryHandle} folder
 * @param {Entry} entry
 */
export async function writeEntry(folder, { source, path, files }) {
  const lines = await readLines(folder, RECORD);
  const line = JSON.stringify({ source, path, files: files.map(({ name, path, size, about }) => ({ name, path, size, about })) });
  if (lines.at(-1) !== line) {
    const writer = new LineWriter(await openForWriting(folder, RECORD));
    try {
      writer.goOn(lines);
      writer.add(line);
    } finally {
      writer.close();
    }
  }
  await keepOnly(folder, files);
}

/**
 * Removes all files but these.
 *
 * @param {FileSystemDirectoryHandle} folder
 * @param {EntryFile[]} files
 */
export async function keepOnly(folder, files) {
  const kept = new Set([RECORD, ...files.flatMap(({ name }) => [name, name + PIECES])]);
  const others = [];
  for await (const name of folder.keys()) if (!kept.has(name)) others.push(name);
  // One that a worker still holds that just ended goes the next time.
  for (const name of others) await folder.removeEntry(name).catch(() => {});
}

/**
 * Opens a file alone.
 *
 * @param {FileSystemDirectoryHandle} folder
 * @param {string} name
 */
export async function openForWriting(folder, name) {
  const handle = await folder.getFileHandle(name, { create: true });
  return whenFree(() => handle.createSyncAccessHandle());
}

/**
 * Does what nobody may read or write beside. A tab that loads the model holds its files, and a worker that ended may hold
 * them for a moment more.
 *
 * @template T
 * @param {() => Promise<T>} work
 * @returns {Promise<T>}
 */
export async function whenFree(work) {
  for (let tries = 1; ; tries++) {
    try {
      return await work();
    } catch (error) {
      if (!(error instanceof DOMException && error.name === 'NoModificationAllowedError')) throw error;
      if (tries === TRIES) throw new GemmaflowError('Io', IN_USE);
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
  }
}

/**
 * @param {FileSystemDirectoryHandle} folder
 * @param {string} name
 * @returns {Promise<Manifest>}
 */
export async function readManifest(folder, name) {
  const [facts = '', ...pieces] = await readLines(folder, name + PIECES);
  const complete = pieces.at(-1) === COMPLETE;
  return { facts, complete, pieces: complete ? pieces.slice(0, -1) : pieces };
}

/**
 * @param {FileSystemDirectoryHandle} folder
 * @param {string} name
 */
export async function openManifest(folder, name) {
  return new LineWriter(await openForWriting(folder, name + PIECES));
}

/**
 * Bytes that were downloaded, also of a version that is not whole yet. A file has its whole length from the start.
 *
 * @param {FileSystemDirectoryHandle} folder
 */
export async function bytesHere(folder) {
  let bytes = 0;
  for await (const name of folder.keys()) {
    if (!name.endsWith(PIECES)) continue;
    const { facts, pieces, complete } = await readManifest(folder, name.slice(0, -PIECES.length));
    const { size = Infinity, pieceBytes } = JSON.parse(facts || '{}');
    if (complete) bytes += (await readFile(folder, name.slice(0, -PIECES.length)))?.size ?? 0;
    else if (pieces.length) bytes += Math.min(size, pieces.length * pieceBytes);
  }
  return bytes;
}

/** Writes a file line by line. */
export class LineWriter {
  #handle;
  #end = 0;

  /** @param {FileSystemSyncAccessHandle} handle */
  constructor(handle) {
    this.#handle = handle;
  }

  /**
   * Begins anew, with the lines that are kept.
   *
   * @param {string[]} lines
   */
  begin(lines) {
    this.#handle.truncate(0);
    this.#end = 0;
    lines.forEach((line) => this.add(line));
  }

  /**
   * Goes on after these lines, which are there.
   *
   * @param {string[]} lines
   */
  goOn(lines) {
    this.#end = lines.reduce((sum, line) => sum + bytesOf(line).length, 0);
    this.#handle.truncate(this.#end);
  }

  /** @param {string} line */
  add(line) {
    const bytes = bytesOf(line);
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

/** @param {string} line */
function bytesOf(line) {
  return new TextEncoder().encode(`${line}\n`);
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
 * A file with its name in the folder. Another SHA-256 is no other version: the whole is compared at the end.
 *
 * @param {RemoteFile} file
 * @param {number} pieceBytes
 * @returns {Promise<NamedFile>}
 */
export async function nameFile(file, pieceBytes) {
  return { ...file, name: await hashName(factsOf({ ...file, sha256: undefined }, pieceBytes)) };
}

/**
 * A file that is whole; undefined where something of it is missing.
 *
 * @param {FileSystemDirectoryHandle} folder
 * @param {EntryFile} file
 */
export async function wholeFile(folder, { name, path, size }) {
  const { facts, pieces, complete } = await readManifest(folder, name);
  const blob = await readFile(folder, name);
  if (!complete || !blob || (size !== undefined && blob.size !== size)) return undefined;
  const { pieceBytes, sha256 } = JSON.parse(facts);
  const handle = await folder.getFileHandle(name);
  return { path, handle, blob, pieces, pieceBytes, sha256 };
}

/**
 * The files of a complete copy; undefined where something is missing.
 *
 * @param {FileSystemDirectoryHandle} folder
 * @param {Entry} entry
 */
export async function completeFiles(folder, entry) {
  const files = [];
  for (const file of entry.files) {
    const whole = await wholeFile(folder, file);
    if (!whole) return undefined;
    files.push(whole);
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

/** Files from a server into the cache, piece by piece. Runs in a worker. */
import { Sha256 } from '../gemmaflow_web.js';
import { GemmaflowError } from '../errors.js';
import { stream } from './http.js';
import { factsOf, openForWriting, openManifest, readManifest, toHex } from './store.js';

/** @typedef {import('./store.js').NamedFile} NamedFile */

/**
 * The number of pieces, from the first on, that are as their SHA-256 says.
 *
 * @param {(from: number, to: number) => Uint8Array<ArrayBuffer>} read
 * @param {number} size Bytes that are there.
 * @param {string[]} pieces
 * @param {number} pieceBytes
 * @param {(bytes: Uint8Array) => void} [onPiece]
 */
export async function countIntact(read, size, pieces, pieceBytes, onPiece = () => {}) {
  for (const [index, expected] of pieces.entries()) {
    const from = index * pieceBytes;
    if (from >= size && expected) return index;
    const bytes = read(from, Math.min(from + pieceBytes, size));
    if (toHex(await crypto.subtle.digest('SHA-256', bytes)) !== expected) return index;
    onPiece(bytes);
  }
  return pieces.length;
}

/**
 * Takes room for files; false where there is not enough. Browsers may not say how much there is, so each file gets its
 * length before its bytes.
 *
 * @param {FileSystemDirectoryHandle} folder
 * @param {NamedFile[]} files
 */
export async function reserve(folder, files) {
  for (const { name, size = 0 } of files) {
    const data = await openForWriting(folder, name);
    try {
      if (data.getSize() < size) data.truncate(size);
      // In a private window Chromium does not throw.
      if (data.getSize() < size) return false;
    } catch (error) {
      if (isQuota(error)) return false;
      throw error;
    } finally {
      data.close();
    }
  }
  return true;
}

/**
 * Brings a file into the cache. Pieces of an earlier, interrupted download are kept where they are intact.
 *
 * @param {FileSystemDirectoryHandle} folder
 * @param {NamedFile} file
 * @param {{ pieceBytes: number, signal: AbortSignal, onBytes: (bytes: number) => void }} options
 */
export async function download(folder, file, { pieceBytes, signal, onBytes }) {
  const earlier = await readManifest(folder, file.name);
  const { pieces, complete } = earlier;
  const data = await openForWriting(folder, file.name);
  const manifest = await openManifest(folder, file.name);
  const target = new Target(data, manifest, file, pieceBytes);
  try {
    const [kept, intact] = await target.keep(pieces, signal);
    onBytes(kept);
    const isWhole = pieces.length > 0 && complete && intact === pieces.length;
    for await (const bytes of isWhole ? [] : stream(file, kept, signal)) {
      await target.take(bytes);
      onBytes(bytes.length);
    }
    await target.finish(isWhole ? earlier : undefined);
  } catch (error) {
    throw isQuota(error) ? full(file, await navigator.storage.estimate()) : error;
  } finally {
    data.close();
    manifest.close();
  }
}

/** A file that is being written. */
class Target {
  #data;
  #manifest;
  #file;
  #piece;
  #filled = 0;
  #end = 0;
  #whole;

  /**
   * @param {FileSystemSyncAccessHandle} data
   * @param {import('./store.js').LineWriter} manifest
   * @param {NamedFile} file
   * @param {number} pieceBytes
   */
  constructor(data, manifest, file, pieceBytes) {
    this.#data = data;
    this.#manifest = manifest;
    this.#file = file;
    this.#piece = new Uint8Array(Math.min(pieceBytes, file.size || pieceBytes));
    this.pieceBytes = pieceBytes;
    this.#whole = file.sha256 ? new Sha256() : undefined;
  }

  /**
   * Keeps the intact pieces of an earlier download; the number of their bytes, and their own.
   *
   * @param {string[]} pieces
   * @param {AbortSignal} signal
   * @returns {Promise<[number, number]>}
   */
  async keep(pieces, signal) {
    const read = (/** @type {number} */ from, /** @type {number} */ to) => {
      const bytes = new Uint8Array(to - from);
      this.#data.read(bytes, { at: from });
      return bytes;
    };
    // The last piece of a file may be short. It comes again, unless the file is whole.
    const size = this.#data.getSize();
    const add = (/** @type {Uint8Array} */ bytes) => {
      signal.throwIfAborted();
      this.#whole?.update(bytes);
      this.#end += bytes.length;
    };
    const kept = await countIntact(read, size, pieces, this.pieceBytes, add);
    this.#manifest.begin([factsOf(this.#file, this.pieceBytes), ...pieces.slice(0, kept)]);
    return [this.#end, kept];
  }

  /** @param {Uint8Array} bytes */
  async take(bytes) {
    while (bytes.length) {
      const count = Math.min(bytes.length, this.#piece.length - this.#filled);
      this.#piece.set(bytes.subarray(0, count), this.#filled);
      this.#filled += count;
      bytes = bytes.subarray(count);
      if (this.#filled === this.#piece.length) await this.#write();
    }
  }

  async #write() {
    const piece = this.#piece.subarray(0, this.#filled);
    const digest = crypto.subtle.digest('SHA-256', piece);
    this.#whole?.update(piece);
    const written = this.#data.write(piece, { at: this.#end });
    if (written !== piece.length) throw new DOMException('A write was short', 'QuotaExceededError');
    this.#data.flush();
    this.#end += piece.length;
    this.#filled = 0;
    this.#manifest.add(toHex(await digest));
  }

  /** @param {import('./store.js').Manifest | undefined} copy What was said of a file that was whole before. */
  async finish(copy) {
    if (this.#filled) await this.#write();
    this.#data.truncate(this.#end);
    const { url, sha256 } = this.#file;
    const found = this.#whole?.hex();
    if (found !== undefined && found !== sha256) {
      let advice = 'The copy here stays as it is: check the checksum, or remove the copy (cache.remove) and open it again.';
      if (copy) {
        this.#manifest.begin([copy.facts, ...copy.pieces]);
        this.#manifest.complete();
      } else {
        this.#data.truncate(0);
        this.#manifest.begin([]);
        advice = 'The file was removed here. It is not what was expected, or it was damaged on its way: check the address and the checksum, and open it again.';
      }
      throw new GemmaflowError('Checksum', `${url}: its SHA-256 is ${found}, expected ${sha256}. ${advice}`);
    }
    this.#manifest.complete();
  }
}

/** @param {unknown} error */
function isQuota(error) {
  return error instanceof DOMException && error.name === 'QuotaExceededError';
}

/**
 * @param {NamedFile} file
 * @param {StorageEstimate} estimate
 */
function full({ url, size }, { quota = 0, usage = 0 }) {
  const advice = "Free space on the disk, remove models (cache.clear()), or open it with 'cache: false', which reads it by ranges.";
  return new GemmaflowError('Quota', `${url}: no room in the browser's storage, which holds ${usage} of ${quota} bytes; the file has ${size ?? 'an unknown number of'} bytes. ${advice}`);
}

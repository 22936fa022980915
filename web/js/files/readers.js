/** Files that are read at once, as the module asks for them. Runs in a worker. */
import { GemmaflowError } from '../errors.js';

/** @typedef {import('../gemmaflow_web.js').FileEntry} FileEntry */

const SMALL = 256 << 10;
const BLOCK = 4 << 20;
const BLOCKS = 8;

/**
 * @param {string} path
 * @param {number} size
 * @param {number} blockBytes Reads shorter than this go through blocks.
 * @param {(from: number, to: number) => Uint8Array} fetch
 * @returns {FileEntry}
 */
function inBlocks(path, size, blockBytes, fetch) {
  /** @type {Map<number, Uint8Array>} The block used last is at the end. */
  const blocks = new Map();
  const block = (/** @type {number} */ index) => {
    const found = blocks.get(index) ?? fetch(index * blockBytes, Math.min((index + 1) * blockBytes, size));
    blocks.delete(index);
    blocks.set(index, found);
    if (blocks.size > BLOCKS) blocks.delete(/** @type {number} */ (blocks.keys().next().value));
    return found;
  };
  const read = (/** @type {number} */ offset, /** @type {Uint8Array} */ into) => {
    const end = offset + into.length;
    if (!(offset >= 0 && end <= size)) {
      throw new GemmaflowError('Io', `${path}: bytes ${offset} to ${end} were asked for, but the file has ${size} bytes.`);
    }
    if (into.length >= blockBytes) return into.set(fetch(offset, end));
    for (let at = offset; at < end; ) {
      const index = Math.floor(at / blockBytes);
      const part = block(index).subarray(at - index * blockBytes, end - index * blockBytes);
      into.set(part, at - offset);
      at += part.length;
    }
  };
  return { path, size, read };
}

/**
 * @param {string} path
 * @param {Blob} blob
 */
export function blobEntry(path, blob) {
  const reader = new FileReaderSync();
  return inBlocks(path, blob.size, SMALL, (from, to) => {
    try {
      return new Uint8Array(reader.readAsArrayBuffer(blob.slice(from, to)));
    } catch (error) {
      const problem = error instanceof Error ? error.message : String(error);
      throw new GemmaflowError('Io', `${path}: bytes ${from} to ${to} cannot be read (${problem}). Was the file changed or removed? Open it again.`);
    }
  });
}

/**
 * A file of the private file system. Reads through a handle need no other process, and are 20 times as fast. Other tabs may
 * read beside it, but nobody can write or remove the file while it is open: what it returns closes it, and reads go on.
 *
 * @param {string} path
 * @param {FileSystemFileHandle} file
 * @param {Blob} blob The same file.
 * @returns {Promise<{ entry: FileEntry, close: () => void }>}
 */
export async function storedEntry(path, file, blob) {
  const slow = blobEntry(path, blob);
  let handle = await openShared(file);
  const read = (/** @type {number} */ offset, /** @type {Uint8Array} */ into) => {
    if (handle?.read(into, { at: offset }) !== into.length) slow.read(offset, into);
  };
  const close = () => {
    handle?.close();
    handle = undefined;
  };
  return { entry: { path, size: blob.size, read }, close };
}

/**
 * A handle that other tabs can have too; undefined in browsers where it would be for one alone.
 *
 * @param {FileSystemFileHandle} file
 */
async function openShared(file) {
  if (!('mode' in FileSystemSyncAccessHandle.prototype)) return undefined;
  return file.createSyncAccessHandle({ mode: 'read-only' }).catch(() => undefined);
}

/**
 * A file that stays on the server. Each read is a request with a byte range.
 *
 * @param {import('./http.js').RemoteFile & { size: number }} file
 */
export function rangeEntry({ path, url, size, token }) {
  // The address that the first request was redirected to serves until it expires.
  let direct = url;
  const fetch = (/** @type {number} */ from, /** @type {number} */ to) => {
    let request = get(direct, from, to, direct === url ? token : undefined);
    if (request.status !== 206 && direct !== url) request = get(url, from, to, token);
    const bytes = request.status === 206 ? new Uint8Array(request.response) : undefined;
    if (bytes?.length !== to - from) {
      const found = bytes ? `${bytes.length} bytes` : `HTTP ${request.status}`;
      throw new GemmaflowError('Io', `${url}: bytes ${from} to ${to} were asked for, the server gave ${found}. Check the connection and open it again.`);
    }
    direct = request.responseURL || url;
    return bytes;
  };
  return inBlocks(path, size, BLOCK, fetch);
}

/**
 * Only a synchronous request can answer a synchronous read. It is for workers, where nobody waits for it.
 *
 * @param {string} url
 * @param {number} from
 * @param {number} to
 * @param {string | undefined} token
 */
function get(url, from, to, token) {
  const request = new XMLHttpRequest();
  request.open('GET', url, false);
  request.responseType = 'arraybuffer';
  request.setRequestHeader('range', `bytes=${from}-${to - 1}`);
  if (token) request.setRequestHeader('authorization', `Bearer ${token}`);
  try {
    request.send();
  } catch {
    // The status stays 0, and the caller reports it.
  }
  return request;
}

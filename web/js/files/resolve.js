/** From a source's name to the files that it stands for. */
import { GemmaflowError } from '../errors.js';
import { parseHub, resolveHub } from './hub.js';
import { probe, request } from './http.js';
import { CHECKPOINT, partsOf, shardsOf } from './names.js';

/**
 * @typedef {import('./http.js').RemoteFile} RemoteFile
 * @typedef {import('../types.js').SourceOptions} SourceOptions
 */

/**
 * The name under which a source is cached.
 *
 * @param {string} name
 * @param {SourceOptions} options
 */
export function keyOf(name, options) {
  const hub = parseHub(name, options);
  const alone = options.projector === false ? ' without its projector' : '';
  if (!hub) return name.split('#')[0] + alone;
  const { id, revision, file } = hub;
  const mirror = options.hub ? ` on ${hub.hub}` : '';
  return `${id}${file ? `/${file}` : ''}${revision === 'main' ? '' : `@${revision}`}${mirror}${alone}`;
}

/**
 * Asks the server which files there are.
 *
 * @param {string} name
 * @param {SourceOptions} options
 * @param {AbortSignal} signal
 * @returns {Promise<{ path: string, files: RemoteFile[] }>}
 */
export async function resolve(name, options, signal) {
  const hub = parseHub(name, options);
  const found = hub ? await resolveHub(hub, options, signal) : await resolveUrl(new URL(name), signal);
  if (options.sha256 !== undefined) {
    const sha256 = options.sha256.toLowerCase();
    if (!/^[0-9a-f]{64}$/.test(sha256)) throw new GemmaflowError('Source', `"${options.sha256}" is no SHA-256: 64 hexadecimal digits.`);
    const weights = found.files.find(({ path }) => path === (found.path || CHECKPOINT.weights));
    if (weights) weights.sha256 = sha256;
  }
  return found;
}

/**
 * @param {URL} url
 * @param {AbortSignal} signal
 */
async function resolveUrl(url, signal) {
  const name = decodeURIComponent(url.pathname.slice(url.pathname.lastIndexOf('/') + 1));
  if (/\.gguf$/i.test(name)) {
    const files = await Promise.all(partsOf(name).map((part) => needed(url, part, signal)));
    return { path: name, files };
  }
  if (/\.(json|safetensors)$/i.test(name)) return resolveFolder(new URL('.', url), signal);
  const folder = new URL(url);
  if (!folder.pathname.endsWith('/')) folder.pathname += '/';
  return resolveFolder(folder, signal);
}

/**
 * @param {URL} folder
 * @param {AbortSignal} signal
 */
async function resolveFolder(folder, signal) {
  const config = await needed(folder, CHECKPOINT.config, signal);
  const modules = await found(folder, 'modules.json', signal);
  // Those with a folder or of a sentence model are there where modules.json is.
  const names = CHECKPOINT.optional.filter((name) => name !== 'modules.json' && (modules || !/\/|sentence/.test(name)));
  const optional = (await Promise.all(names.map((name) => found(folder, name, signal)))).filter((file) => file !== undefined);
  const files = [config, ...optional, ...(modules ? [modules] : [])];
  const index = await found(folder, CHECKPOINT.index, signal);
  if (!index) return { path: '', files: [...files, await needed(folder, CHECKPOINT.weights, signal)] };
  const shards = shardsOf(await (await request(index.url, { signal })).json(), index.url);
  return { path: '', files: [...files, index, ...(await Promise.all(shards.map((name) => needed(folder, name, signal))))] };
}

/**
 * @param {URL} base
 * @param {string} path
 * @param {AbortSignal} signal
 * @returns {Promise<RemoteFile | undefined>}
 */
async function found(base, path, signal) {
  const url = new URL(path.split('/').map(encodeURIComponent).join('/'), base);
  url.search = base.search;
  const facts = await probe(url.href, { signal });
  return facts && { path, token: undefined, ...facts };
}

/**
 * @param {URL} base
 * @param {string} path
 * @param {AbortSignal} signal
 */
async function needed(base, path, signal) {
  const file = await found(base, path, signal);
  if (file) return file;
  const advice = 'A model is a .gguf file, or a folder with config.json, tokenizer.json and *.safetensors.';
  throw new GemmaflowError('Missing', `${new URL(path, base).href}: the server has no such file (HTTP 404). ${advice}`);
}

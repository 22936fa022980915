/** Models by name from the Hugging Face Hub. */
import { GemmaflowError } from '../errors.js';
import { request } from './http.js';
import { CHECKPOINT, isPlain, isProjector, partsOf, shardsOf } from './names.js';

/**
 * @typedef {import('./http.js').RemoteFile} RemoteFile
 * @typedef {{ hub: string, id: string, revision: string, file: string | undefined }} HubName
 * @typedef {{ path: string, size: number | undefined, hash: string, sha256: string | undefined }} Listed
 */

/**
 * A name on the Hub, or one of its URLs; undefined for anything else.
 *
 * @param {string} name
 * @param {import('../types.js').SourceOptions} options
 * @returns {HubName | undefined}
 */
export function parseHub(name, { hub = 'https://huggingface.co', revision = 'main' }) {
  hub = hub.replace(/\/$/, '');
  const isUrl = /^[a-z][a-z0-9+.-]*:/i.test(name);
  if (isUrl && !name.startsWith(`${hub}/`)) return undefined;
  const [owner, model, ...rest] = decodeURI((isUrl ? name.slice(hub.length + 1) : name).split(/[?#]/)[0]).split('/').filter(Boolean);
  if (!owner || !model) throw new GemmaflowError('Source', `"${name}" is no name on the Hub, "owner/name".`);
  const id = `${owner}/${model}`;
  if (isUrl && /^(resolve|blob|tree)$/.test(rest[0] ?? '')) {
    revision = rest[1] ?? revision;
    rest.splice(0, 2);
  }
  const file = rest.join('/') || undefined;
  if (file && (!isPlain(file) || !/\.gguf$/i.test(file))) {
    throw new GemmaflowError('Source', `"${name}": what follows the model's name must be the path of a .gguf file.`);
  }
  return { hub, id, revision, file };
}

/**
 * The files of a model.
 *
 * @param {HubName} name
 * @param {import('../types.js').SourceOptions} options
 * @param {AbortSignal} signal
 * @returns {Promise<{ path: string, files: RemoteFile[] }>}
 */
export async function resolveHub(name, options, signal) {
  const { hub, id, revision, file } = name;
  const api = `${hub}/api/models/${id}/revision/${encodeURIComponent(revision)}?blobs=true`;
  const answer = await (await request(api, { token: options.token, signal })).json();
  const commit = /^[0-9a-f]{40}$/.test(answer.sha) ? answer.sha : revision;
  /** @type {Map<string, Listed>} */
  const listed = new Map(
    (answer.siblings ?? []).map((/** @type {any} */ { rfilename, size, blobId, lfs }) => [
      rfilename,
      { path: rfilename, size: lfs?.size ?? size, hash: lfs?.sha256 ?? blobId, sha256: lfs?.sha256 },
    ]),
  );
  const remote = (/** @type {Listed} */ { path, size, hash, sha256 }) => {
    const url = `${hub}/${id}/resolve/${commit}/${path.split('/').map(encodeURIComponent).join('/')}`;
    return { path, url, size, version: hash, sha256, token: options.token };
  };
  const paths = file ? ggufPaths(file, listed, options) : await checkpointPaths(name, listed, remote, signal);
  return { path: file ?? '', files: paths.map((path) => remote(need(name, listed, path))) };
}

/**
 * @param {HubName} name
 * @param {Map<string, Listed>} listed
 * @param {string} path
 */
function need({ id }, listed, path) {
  const found = listed.get(path);
  if (found) return found;
  const ggufs = [...listed.keys()].filter((file) => /\.gguf$/i.test(file) && !isProjector(file));
  const instead = ggufs.length ? ` It has ${ggufs.slice(0, 8).join(', ')}: name one as "${id}/FILE".` : '';
  throw new GemmaflowError('Missing', `${id} on the Hub has no ${path}.${instead || ' Check the name.'}`);
}

/**
 * @param {string} file
 * @param {Map<string, Listed>} listed
 * @param {import('../types.js').SourceOptions} options
 */
function ggufPaths(file, listed, { projector = true }) {
  const parts = partsOf(file);
  const folder = file.slice(0, file.lastIndexOf('/') + 1);
  // Of several projectors the smallest serves: the towers compute with what it holds.
  const besides = [...listed.values()]
    .filter(({ path }) => projector && isPlain(path) && isProjector(path) && path.slice(0, path.lastIndexOf('/') + 1) === folder)
    .sort((a, b) => (a.size ?? 0) - (b.size ?? 0));
  return [...parts, ...besides.slice(0, 1).map(({ path }) => path)];
}

/**
 * @param {HubName} name
 * @param {Map<string, Listed>} listed
 * @param {(file: Listed) => RemoteFile} remote
 * @param {AbortSignal} signal
 */
async function checkpointPaths(name, listed, remote, signal) {
  const optional = CHECKPOINT.optional.filter((path) => listed.has(path));
  need(name, listed, CHECKPOINT.config);
  if (!listed.has(CHECKPOINT.index)) {
    need(name, listed, CHECKPOINT.weights);
    return [CHECKPOINT.config, ...optional, CHECKPOINT.weights];
  }
  const { url, token } = remote(need(name, listed, CHECKPOINT.index));
  const shards = shardsOf(await (await request(url, { token, signal })).json(), url);
  return [CHECKPOINT.config, ...optional, CHECKPOINT.index, ...shards];
}

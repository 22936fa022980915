/** Names of files. They come from strangers: what could lead out of its folder is refused. */
import { GemmaflowError } from '../errors.js';

export const CHECKPOINT = {
  config: 'config.json',
  weights: 'model.safetensors',
  index: 'model.safetensors.index.json',
  optional: [
    'generation_config.json',
    'preprocessor_config.json',
    'processor_config.json',
    'tokenizer.json',
    'tokenizer_config.json',
    'special_tokens_map.json',
    'chat_template.jinja',
    'chat_template.json',
    'additional_chat_templates/tool_use.jinja',
    'config_sentence_transformers.json',
    'modules.json',
    '1_Pooling/config.json',
    '2_Dense/config.json',
    '2_Dense/model.safetensors',
    '3_Dense/config.json',
    '3_Dense/model.safetensors',
  ],
};

/** @param {string} path */
export function isPlain(path) {
  return path.split('/').every((part) => /^[^\\\0]+$/.test(part) && part !== '.' && part !== '..');
}

/**
 * True for llama.cpp's projector (`mmproj`), which has a model's towers.
 *
 * @param {string} path
 */
export function isProjector(path) {
  return /mmproj/i.test(path.slice(path.lastIndexOf('/') + 1)) && /\.gguf$/i.test(path);
}

/**
 * A GGUF file with its further parts.
 *
 * @param {string} file
 */
export function partsOf(file) {
  const split = /^(.*)-00001-of-(\d{5})\.gguf$/i.exec(file);
  if (!split) return [file];
  const count = Number(split[2]);
  return Array.from({ length: count }, (_, i) => `${split[1]}-${String(i + 1).padStart(5, '0')}-of-${split[2]}.gguf`);
}

/**
 * @param {any} index A `model.safetensors.index.json`.
 * @param {string} where
 * @returns {string[]}
 */
export function shardsOf(index, where) {
  const shards = [...new Set(Object.values(index?.weight_map ?? {}))].sort();
  if (!shards.length || !shards.every((shard) => typeof shard === 'string' && isPlain(shard))) {
    throw new GemmaflowError('Source', `${where}: its weight_map names no files, or names outside the model's folder.`);
  }
  return /** @type {string[]} */ (shards);
}

// The tensors of a safetensors file, by name.
import { readFileSync } from 'node:fs';

const TYPES = { F32: Float32Array, I32: Int32Array };

/** A function that gives the tensor of a name: its values and its shape. */
export function readSafetensors(path) {
  const file = readFileSync(path);
  const length = Number(file.readBigUInt64LE(0));
  const header = JSON.parse(file.toString('utf8', 8, 8 + length));
  return (name) => {
    const { dtype, shape, data_offsets: offsets } = header[name];
    const [begin, end] = offsets.map((offset) => 8 + length + offset);
    return { values: new TYPES[dtype](file.buffer.slice(file.byteOffset + begin, file.byteOffset + end)), shape };
  };
}

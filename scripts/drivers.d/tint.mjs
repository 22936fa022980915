// Compiles WGSL by Tint, the compiler of Chrome, without a GPU: node tint.mjs NODE_MODULES portable|extended FILE
// FILE is what the example `kernels write` makes. portable: WebGPU's default limits and no feature.
import fs from 'node:fs';
import { pathToFileURL } from 'node:url';

const [modules, device_sort, file] = process.argv.slice(2);
const { create, globals } = await import(pathToFileURL(`${modules}/webgpu/index.js`));
Object.assign(globalThis, globals);
const kernels = JSON.parse(fs.readFileSync(file));
// Objects of Dawn die with it.
const dawn = create(['backend=null']);
const adapter = await dawn.requestAdapter();
const limits = ['maxStorageBuffersPerShaderStage', 'maxComputeWorkgroupStorageSize', 'maxComputeInvocationsPerWorkgroup'];
const extended = {
  requiredFeatures: ['shader-f16', 'subgroups'],
  requiredLimits: Object.fromEntries(limits.map((name) => [name, adapter.limits[name]])),
};
const device = await adapter.requestDevice(device_sort === 'portable' ? {} : extended);

// What is wrong with a kernel, if anything is.
async function problem({ wgsl, constants }) {
  device.pushErrorScope('validation');
  const module = device.createShaderModule({ code: wgsl });
  const { messages } = await module.getCompilationInfo();
  const wrong = messages.find(({ type }) => type !== 'info');
  // The null device binds no more buffers than WebGPU's default, and real ones do.
  const bound = wgsl.match(/var<storage/g)?.length ?? 0;
  if (!wrong && bound <= adapter.limits.maxStorageBuffersPerShaderStage)
    device.createComputePipeline({ layout: 'auto', compute: { module, constants } });
  const error = await device.popErrorScope();
  if (wrong) return `${wrong.message}\n    ${wgsl.split('\n')[wrong.lineNum - 1]?.trim()}`;
  return error?.message;
}

// Silence means nothing unless a barrier that one invocation alone reaches is noticed.
const planted =
  '@compute @workgroup_size(64) fn main(@builtin(local_invocation_index) i: u32) { if i == 0u { workgroupBarrier(); } }';
if (!(await problem({ wgsl: planted, constants: {} }))) throw new Error('Tint does not notice a planted mistake');

const problems = new Map();
for (const kernel of kernels) {
  const text = await problem(kernel);
  if (text) problems.set(text, [...(problems.get(text) ?? []), kernel]);
}
for (const [text, [first, ...others]] of problems)
  console.log(`${others.length + 1} kernels: ${text}\n    the first: ${first.from}: ${first.key}`);
const failed = [...problems.values()].flat().length;
console.log(`${file}: ${kernels.length - failed} of ${kernels.length} kernels compile`);
// Dawn's own shutdown is slow and says nothing.
process.exit(failed || !kernels.length ? 1 : 0);

// Rates and the start of the package in Chromium beside those of native code on the same driver, in turns.
// usage: node web/test/bench.mjs MODEL ROUNDS TOKENS BENCH, BENCH being the example of that name.
import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, realpathSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { chromium } from 'playwright-core';
import { chromiumPath, launchOptions, openPage } from './browser.mjs';
import { serve } from './server.mjs';

const PROMPT = 16;
/** Runs of a round, of which the median counts. */
const RUNS = 3;

const [model, rounds, tokens, bench] = process.argv.slice(2);
const root = resolve(import.meta.dirname, '../..');
const median = (values) => [...values].sort((a, b) => a - b)[values.length >> 1];

/** The manifest of the software driver that lies beside Chromium's program. */
function swiftShader() {
  const folders = [dirname(realpathSync(chromiumPath())), '/usr/lib/chromium', '/opt/google/chrome'];
  const found = folders.map((folder) => join(folder, 'vk_swiftshader_icd.json')).find((file) => existsSync(file));
  if (!found) throw new Error('no vk_swiftshader_icd.json beside Chromium: name another Chromium in CHROMIUM');
  return found;
}

/** In the page. */
async function measured({ prompt, runs, tokens }) {
  const timed = async (work) => {
    const start = performance.now();
    const value = await work();
    return [performance.now() - start, value];
  };
  const ids = (first) => Array.from({ length: prompt }, (_, at) => (at ? 2 + at * 7 : first));
  const [start, generator] = await timed(async () => {
    const opened = await gemmaflow.Generator.open('/model/');
    await opened.generate(ids(2), 1);
    return opened;
  });
  const prefill = [];
  const decode = [];
  for (let run = 0; run <= runs; run++) {
    // Each prompt differs from its first token on: no row is cached.
    const [all] = await timed(() => generator.generate(ids(3 + run), 1));
    const [first] = await timed(() => generator.generate(ids(3 + run), 1));
    const [several, made] = await timed(() => generator.generate(ids(3 + run), tokens + 1));
    if (run === 0) continue;
    prefill.push((1000 * prompt) / all);
    decode.push((1000 * (made.length - 1)) / (several - first));
  }
  generator.free();
  return { start, prefill, decode };
}

async function inChromium(profile, server) {
  const { args, ...rest } = launchOptions();
  const options = { ...rest, args: [...args, '--use-webgpu-adapter=swiftshader'], headless: true };
  const context = await chromium.launchPersistentContext(profile, options);
  try {
    const page = await openPage(context, server.origin);
    const found = await page.evaluate(measured, { prompt: PROMPT, runs: RUNS, tokens: Number(tokens) });
    return { start: found.start, prefill: median(found.prefill), decode: median(found.decode) };
  } finally {
    await context.close();
  }
}

function natively(driver) {
  const flags = ['--model', model, '--kernels', 'portable-software', '--prompt', PROMPT, '--depth', 0, '--gen', tokens];
  const env = { ...process.env, VK_DRIVER_FILES: driver, VK_ICD_FILENAMES: driver };
  const { stdout, stderr, status } = spawnSync(bench, [...flags, '--reps', RUNS, '--json'].map(String), { encoding: 'utf8', env });
  if (status !== 0) throw new Error(`${bench} failed: ${stderr}`);
  const report = JSON.parse(stdout);
  if (!report.adapter.includes('SwiftShader')) throw new Error(`native code ran on ${report.adapter}`);
  const start = report.load_ms + report.first_token_cold_ms;
  return { start, prefill: report.prefill_tokens_per_s.median, decode: report.decode_tokens_per_s.median };
}

const driver = swiftShader();
const mounts = { '/test/': join(root, 'web/test'), '/gemmaflow/': join(root, 'target/web/package/dist'), '/model/': model };
const server = await serve(mounts);
const profile = mkdtempSync(join(tmpdir(), 'bench-web-'));
const found = [];
try {
  // The first start with a profile compiles the module and keeps it: it is not counted.
  await inChromium(profile, server);
  for (let round = 0; round < Number(rounds); round++) {
    found.push({ page: await inChromium(profile, server), native: natively(driver) });
    const { page, native } = found.at(-1);
    const shown = ({ start, prefill, decode }) => `${decode.toFixed(1)} / ${prefill.toFixed(1)} tokens/s, start ${start.toFixed(0)} ms`;
    console.log(`round ${round + 1}: Chromium ${shown(page)}; native ${shown(native)}`);
  }
} finally {
  server.close();
  rmSync(profile, { recursive: true, force: true });
}

function line(name, unit, compared, digits) {
  const [page, native] = ['page', 'native'].map((side) => median(found.map((round) => round[side][name])));
  const each = found.map((round) => compared(round.page[name], round.native[name]));
  const [middle, least, most] = [median(each), Math.min(...each), Math.max(...each)].map((value) => value.toFixed(digits));
  console.log(`${name.padEnd(8)} Chromium ${page.toFixed(1)}, native ${native.toFixed(1)} ${unit}: ${middle} (${least} to ${most})`);
}
console.log(`medians of ${rounds} rounds; the share, or what is more, is the median of the rounds' own`);
line('decode', 'tokens/s, share', (page, native) => page / native, 2);
line('prefill', 'tokens/s, share', (page, native) => page / native, 2);
line('start', 'ms, more', (page, native) => page - native, 0);

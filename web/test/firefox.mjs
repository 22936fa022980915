// The WebAssembly module in Firefox. It is started as it is, with WebGPU switched on, and its page sends what it found.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { text } from 'node:stream/consumers';

const PREFERENCES = {
  'dom.webgpu.enabled': true,
  'gfx.webgpu.ignore-blocklist': true, // software drivers are on it
  'browser.aboutwelcome.enabled': false,
  'datareporting.policy.dataSubmissionEnabled': false,
  'app.normandy.enabled': false,
};

export default function add(test, { root }) {
  const program = process.env.FIREFOX ?? ['/usr/bin/firefox-esr'].find((path) => existsSync(path));
  if (!program) return console.log('no Firefox found, its test is left out: install it, or name its program in FIREFOX');
  test('firefox: 64 tokens of the demo model are those of native code, and its files are kept', async ({ server, signal }) => {
    const { greedy } = JSON.parse(readFileSync(resolve(root, 'assets/demo/expected.json'), 'utf8'));
    const { error, adapters, tokens } = await found(program, server, signal);
    assert.equal(error, undefined);
    assert.equal(adapters.length, 1);
    assert.deepEqual(tokens, [64, 4].map((count) => greedy[0].new_ids.slice(0, count)));
    assert.equal(server.count('model.safetensors').bodies, 1);
  }, { timeout: 150_000 });
}

/** What firefox.html sends to the server. */
async function found(program, server, signal) {
  const home = mkdtempSync(join(tmpdir(), 'firefox-'));
  const lines = Object.entries(PREFERENCES).map(([name, value]) => `user_pref("${name}", ${value});\n`);
  writeFileSync(join(home, 'user.js'), lines.join(''));
  const sent = new Promise((resolve) => {
    server.hub = (path, request, response) => {
      if (path !== '/found') return false;
      resolve(text(request).then(JSON.parse));
      return response.end();
    };
  });
  const args = ['--headless', '--no-remote', '--profile', home, `${server.origin}/test/firefox.html`];
  const browser = spawn(program, args, { signal, env: { ...process.env, HOME: home }, stdio: ['ignore', 'ignore', 'pipe'] });
  const printed = text(browser.stderr);
  const ended = new Promise((resolve, reject) => browser.on('error', reject).on('exit', resolve));
  try {
    return await Promise.race([sent, ended.then(async () => assert.fail(`Firefox ended: ${await printed}`))]);
  } finally {
    browser.kill();
    await ended.catch(() => {});
    rmSync(home, { recursive: true, maxRetries: 20, retryDelay: 100 });
  }
}

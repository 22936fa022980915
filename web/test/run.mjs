// Tests of the package in a real browser.
//
// usage: node web/test/run.mjs [--package FOLDER] [--only TEXT]
//
// --package  the package that scripts/build-web made (its dist/); without it a small module in JavaScript stands in for the
//            WebAssembly, and the tests are those of downloads, cache, worker and errors
// --only     tests whose name holds TEXT
import { dirname, resolve } from 'node:path';
import { after, describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { launch, needWebGpu, openPage } from './browser.mjs';
import { serve } from './server.mjs';

const { values } = parseArgs({ options: { package: { type: 'string' }, only: { type: 'string' } } });
const here = dirname(fileURLToPath(import.meta.url));
const root = resolve(here, '../..');
const mounts = {
  '/test/': here,
  '/gemmaflow/': values.package ? resolve(values.package) : [resolve(here, 'fake'), resolve(here, '../js')],
  '/demo/gemmaflow/': values.package ? resolve(values.package) : [resolve(here, 'fake'), resolve(here, '../js')],
  '/demo/model/': resolve(root, 'assets/demo'),
  '/demo/': resolve(here, '../demo'),
  '/assets/': resolve(root, 'assets'),
  '/tests/data/': resolve(root, 'tests/data'),
};
const browser = await launch();
after(() => browser.close());

async function printAdapter() {
  const server = await serve(mounts);
  const page = await openPage(await browser.newContext(), server.origin);
  console.log(`adapter: ${await needWebGpu(page)}`);
  await page.context().close();
  server.close();
}

/** Runs `work` with a page of a browser that has stored nothing, and two servers of its own. */
function inBrowser(name, work, { timeout = 60_000 } = {}) {
  if (values.only && !name.includes(values.only)) return;
  test(name, { timeout }, async ({ signal }) => {
    const context = await browser.newContext({ permissions: ['microphone'] });
    const [server, other] = await Promise.all([serve(mounts), serve(mounts)]);
    // One that waits for its page in vain must not keep the others' browser.
    signal.addEventListener('abort', () => context.close());
    try {
      const page = await openPage(context, server.origin);
      await work({ page, context, server, other, signal, open: () => openPage(context, server.origin) });
      if (page.problems.length) throw new Error(`the page failed: ${page.problems.join('; ')}`);
    } finally {
      await context.close();
      server.close();
      other.close();
    }
  });
}

const suites = values.package ? ['./model.mjs', './demo.mjs', './firefox.mjs'] : ['./files.mjs', './revalidate.mjs', './errors.mjs', './worker.mjs', './demo.mjs'];
const modules = await Promise.all(suites.map((suite) => import(suite)));
await printAdapter();
// A model keeps all cores busy where the GPU is software.
describe(values.package ? 'the package' : 'the package, with a stand-in for the module', { concurrency: values.package ? 1 : 4 }, () => {
  for (const { default: add } of modules) add(inBrowser, { root, real: !!values.package });
});

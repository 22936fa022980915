// A browser with WebGPU, and pages that have the package.
import { existsSync } from 'node:fs';
import { chromium } from 'playwright-core';

export function chromiumPath() {
  const paths = [process.env.CHROMIUM, '/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome'];
  const found = paths.find((path) => path && existsSync(path));
  if (!found) throw new Error('no Chromium found: install it, or name its program in CHROMIUM');
  return found;
}

export function launchOptions() {
  const args = ['--no-sandbox', '--enable-unsafe-webgpu', '--use-fake-ui-for-media-stream', '--use-fake-device-for-media-stream'];
  // Playwright switches the GPU off in headless browsers; WebGPU then has no adapter.
  return { executablePath: chromiumPath(), args, ignoreDefaultArgs: ['--disable-gpu'] };
}

export const launch = () => chromium.launch(launchOptions());

/** A page with the package as `gemmaflow`. What it logs as an error is kept in `page.problems`. */
export async function openPage(context, origin) {
  const page = await context.newPage();
  page.problems = [];
  page.on('pageerror', (error) => page.problems.push(error.message));
  await page.goto(`${origin}/test/page.html`);
  await page.waitForFunction('window.gemmaflow');
  return page;
}

/** Fails where the browser offers no WebGPU. */
export async function needWebGpu(page) {
  const adapter = await page.evaluate(async () => {
    const found = await navigator.gpu?.requestAdapter();
    return found && `${found.info.vendor} ${found.info.architecture} ${found.info.description}`.trim();
  });
  if (!adapter) throw new Error('this Chromium offers no WebGPU adapter; the tests need one');
  return adapter;
}

/** Waits until a page has no more than `count` workers. */
export async function workersLeft(page, count) {
  for (let tries = 0; page.workers().length > count && tries < 50; tries++) await page.waitForTimeout(50);
  return page.workers().length;
}

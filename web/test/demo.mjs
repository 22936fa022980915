// The demo page, as a person uses it.
import assert from 'node:assert/strict';

const PHONE = { width: 390, height: 844 };

export default function add(test, { root, real }) {
  test('demo: pick the demo model, talk, stop, talk again', async ({ page, server }) => {
    await page.goto(`${server.origin}/demo/`);
    await page.getByRole('button', { name: /^5\.\d MB Demo model/ }).click();
    const text = page.getByRole('textbox', { name: 'Message' });
    await text.fill('ROMEO: Speak without end.');
    await text.press('Enter');
    await page.waitForFunction(() => document.querySelector('.body')?.textContent.length > 5);
    await page.keyboard.press('Escape');
    await page.getByText(/Stopped · \d+ tokens/).waitFor();
    await page.getByRole('button', { name: 'Settings' }).click();
    await page.getByLabel('Longest answer, tokens').fill('6');
    await page.getByRole('button', { name: 'Done' }).click();
    await text.fill('Who goes there?');
    await page.getByRole('button', { name: 'Send' }).click();
    await page.getByText(/longest length was reached · 6 tokens/).waitFor();
    const figures = await page.locator('#figures span').allTextContents();
    [/^[\d.]+ tokens\/s$/, /^\d+ of \d+ tokens$/, /^[\d.]+ [MG]B of memory$/, /\w/].forEach((form, i) => assert.match(figures[i], form));
    await page.getByRole('button', { name: 'Models' }).click();
    await page.locator('.here').waitFor();
    assert.equal(page.workers().length, 0);
    await page.getByRole('button', { name: 'Remove Demo model' }).click();
    await page.locator('.here').waitFor({ state: 'detached' });
  }, { timeout: 120_000 });

  test('demo: nothing is wider than a phone, and all buttons have names', async ({ page, server }) => {
    await page.setViewportSize(PHONE);
    await page.goto(`${server.origin}/demo/`);
    await page.waitForSelector('.models li');
    const problems = () => page.evaluate(() => {
      const wide = [...document.querySelectorAll('body *')].filter((node) => node.getBoundingClientRect().right > innerWidth + 1);
      const nameless = [...document.querySelectorAll('button, input, textarea, select')].filter((node) => !node.hidden && !(node.ariaLabel || node.textContent.trim() || node.labels?.length));
      return [...wide, ...nameless].map((node) => node.outerHTML.slice(0, 120));
    });
    assert.deepEqual(await problems(), []);
    await page.locator('.pick').first().click();
    await page.waitForSelector('#chat:not([hidden])');
    assert.deepEqual(await problems(), []);
  }, { timeout: 120_000 });

  test('demo: a browser without WebGPU is told what to switch on', async ({ page, server }) => {
    await page.addInitScript(() => Object.defineProperty(navigator, 'gpu', { value: undefined }));
    await page.goto(`${server.origin}/demo/`);
    await page.getByRole('heading', { name: /cannot reach your GPU/ }).waitFor();
    assert.match(await page.locator('#browsers .here').textContent(), /enable-unsafe-webgpu/);
    await page.getByRole('button', { name: /on the CPU/ }).click();
    await page.waitForSelector('#chat:not([hidden])');
  });

  test('demo: a file that is no model, and a download that is cancelled', async ({ page, server }) => {
    await page.goto(`${server.origin}/demo/`);
    await page.setInputFiles('#file', { name: 'broken.gguf', mimeType: '', buffer: Buffer.from('nothing') });
    await page.waitForSelector('#start-error:not([hidden])');
    assert.match(await page.locator('#start-error').textContent(), /GGUF/);
    await page.getByLabel(/Hub name or URL/).fill(`${server.origin}/~rate=100000/tests/data/gguf/gemma1-k-q4_k_m/model.gguf`);
    await page.getByRole('button', { name: 'Open', exact: true }).click();
    await page.getByText(/[\d.]+ KB of 613 KB · .*\/s/).waitFor();
    await page.getByRole('button', { name: 'Cancel' }).click();
    await page.getByRole('heading', { name: /Talk with Gemma/ }).waitFor();
    assert.ok(await page.locator('#start-error').isHidden());
  });

  if (real) return; // the demo model takes neither pictures nor sounds

  test('demo: a picture by drop, a sound from the microphone', async ({ page, server }) => {
    await page.goto(`${server.origin}/demo/`);
    await page.locator('.pick').first().click();
    await page.waitForSelector('#chat:not([hidden])');
    await page.evaluate(async (path) => {
      const data = new DataTransfer();
      data.items.add(new File([await (await fetch(path)).blob()], 'sky.jpg', { type: 'image/jpeg' }));
      for (const type of ['dragenter', 'dragover', 'drop']) document.body.dispatchEvent(new DragEvent(type, { dataTransfer: data, bubbles: true, cancelable: true }));
    }, '/tests/data/pictures/subsampled.jpg');
    await page.locator('#attached img').waitFor();
    await page.getByRole('button', { name: 'Record a sound' }).click();
    await page.waitForTimeout(700);
    await page.getByRole('button', { name: 'Stop recording' }).click();
    await page.locator('#attached audio').waitFor();
    await page.getByRole('textbox', { name: 'Message' }).fill('What is it?');
    await page.getByRole('button', { name: 'Send' }).click();
    await page.getByText(/I see image of 802 bytes\. I see audio of \d{5,} bytes\./).waitFor();
    assert.equal(await page.locator('#attached li').count(), 0);
  });
}

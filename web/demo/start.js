// The start page: models to pick, a file to open, the state of the GPU.
import { adapters, cache, doctor } from 'gemmaflow';
import { $, announce, element, showError } from './dom.js';
import { bytes } from './format.js';
import { MODELS } from './models.js';

/** `open` is called with what was picked: `{ name, source, note, chips }`. */
export function setUpStart(open) {
  $('hub-form').onsubmit = (event) => {
    event.preventDefault();
    const source = $('hub-name').value.trim();
    open({ name: source.split('/').at(-1).replace(/\.gguf$/i, '') || source, source });
  };
  $('file-open').onclick = () => $('file').click();
  $('file').onchange = () => {
    openFiles([...$('file').files], open);
    $('file').value = '';
  };
  $('doctor').onclick = showDoctor;
  list(open);
  adapters().then(([first]) => ($('adapter-here').textContent = first ?? ''), () => {});
}

export function openFiles(files, open) {
  const model = files.find(({ name }) => /\.gguf$/i.test(name) && !/mmproj/i.test(name)) ?? files[0];
  if (model) open({ name: model.name.replace(/\.gguf$/i, ''), source: files.length === 1 ? model : files });
}

/** The models with what of them is here already. */
export async function list(open) {
  const cached = new Map((await cache.list()).map((model) => [model.source, model]));
  const known = MODELS.map((model) => ({ ...model, here: cached.get(key(model.source)) }));
  const sources = new Set(MODELS.map(({ source }) => key(source)));
  const others = [...cached.values()].filter(({ source }) => !sources.has(source));
  const more = others.map((here) => ({ name: shortName(here.source), source: here.source, bytes: here.total, about: here.source, here }));
  $('models').replaceChildren(...[...known, ...more].map((model) => item(model, open)));
}

const key = (source) => (source.startsWith('.') ? new URL(source, location.href).href : source);

function shortName(source) {
  return source.split('/').filter(Boolean).at(-1).replace(/\.gguf$/i, '');
}

function item(model, open) {
  const { name, about, here } = model;
  const size = element('span', { className: 'size', textContent: model.size ?? (model.bytes ? bytes(model.bytes) : '') });
  const pick = element('button', { type: 'button', className: 'pick', onclick: () => open(model) });
  pick.append(element('span', {}, size, element('strong', { textContent: name })), element('span', { className: 'about', textContent: about }));
  if (!here) return element('li', {}, pick);
  const state = here.complete ? 'On this device' : `${bytes(here.bytes)} are here`;
  pick.append(element('span', { className: 'here', textContent: state }));
  const remove = element('button', { type: 'button', className: 'remove quiet', textContent: 'Remove', ariaLabel: `Remove ${name} from this device` });
  remove.onclick = async () => {
    remove.disabled = true;
    await cache.remove(here.source).catch((error) => showError('start-error', error));
    announce(`${name} was removed`);
    list(open);
  };
  return element('li', {}, pick, remove);
}

async function showDoctor() {
  const report = $('doctor-report');
  report.hidden = false;
  report.textContent = 'Checking …';
  try {
    report.textContent = JSON.stringify(await doctor(), null, 2);
  } catch (error) {
    report.textContent = error.message;
  }
  report.focus();
}

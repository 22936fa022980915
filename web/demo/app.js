// Which page is shown, and the model behind it.
import { Model, unsupported } from 'gemmaflow';
import { Chat } from './chat.js';
import { $, announce, show, showError } from './dom.js';
import { transfer } from './format.js';
import { DEMO } from './models.js';
import { list, openFiles, setUpStart } from './start.js';

let chat;
let device = 'gpu';

async function open(choice) {
  const controller = new AbortController();
  showError('start-error');
  showLoading(choice.name, controller);
  // Without this a browser may drop models when its disk runs full.
  if (typeof choice.source === 'string' && $('keep').checked) navigator.storage?.persist?.().catch(() => {});
  try {
    const options = {
      device,
      context: Number($('context').value) || undefined,
      token: $('token').value.trim() || undefined,
      cache: $('keep').checked,
      signal: controller.signal,
      onProgress: showProgress,
    };
    const model = await Model.open(choice.source, options);
    show('chat');
    chat = new Chat(model, choice);
    announce(`${choice.name} is ready`);
  } catch (error) {
    if (error.kind === 'Unsupported') return showUnsupported(error);
    toStart();
    if (controller.signal.aborted) return announce('Cancelled');
    showError('start-error', error);
    $('start-error').scrollIntoView({ block: 'center' });
  }
}

function showLoading(name, controller) {
  show('loading');
  $('loading-title').textContent = name;
  $('loading-what').textContent = 'Getting ready';
  $('loading-figures').textContent = '';
  $('loading-bar').removeAttribute('value');
  $('loading-cancel').onclick = () => controller.abort();
  $('loading-title').focus();
}

const STAGES = {
  download: ({ file }) => `Downloading ${file}`,
  waiting: () => 'Another tab is downloading this model. It continues here when that tab is done.',
  load: ({ phase }) => ({ reserving: 'Reserving memory', moving: 'Moving weights to the GPU', finishing: 'Preparing kernels' })[phase],
};

function showProgress(progress) {
  const { stage, phase, done, total } = progress;
  const what = STAGES[stage](progress);
  if ($('loading-what').textContent !== what) {
    $('loading-what').textContent = what;
    announce(what);
  }
  const inBytes = stage === 'download' || phase === 'moving';
  if (inBytes && total) $('loading-bar').value = done / total;
  else $('loading-bar').removeAttribute('value');
  $('loading-figures').textContent = inBytes ? transfer(progress) : '';
}

function toStart() {
  chat?.close();
  chat = undefined;
  show('start');
  document.querySelector('#start h1').focus({ preventScroll: true });
  list(open);
}

function showUnsupported(error) {
  show('unsupported');
  document.querySelector('#unsupported h1').focus();
  const [first] = error.message.split('. ');
  $('unsupported-text').textContent = /no graphics adapter|HTTP/.test(error.message) ? error.message : `${first}. Switch it on, or take another browser:`;
  const agent = navigator.userAgent;
  const here = /Firefox/.test(agent) ? 'firefox' : /Chrome|Chromium|Edg/.test(agent) ? 'chrome' : /Safari/.test(agent) ? 'safari' : '';
  for (const item of $('browsers').children) item.classList.toggle('here', item.dataset.browser === here);
  $('try-cpu').onclick = () => {
    device = 'cpu';
    open(DEMO);
  };
}

/** Files may be dropped anywhere: a model on the start page, pictures and sounds in a chat. */
function setUpDrop() {
  let depth = 0;
  const mark = (change) => $('dropping').classList.toggle('on', (depth = Math.max(0, depth + change)) > 0);
  const hasFiles = ({ dataTransfer }) => dataTransfer?.types.includes('Files') && !$('unsupported').checkVisibility();
  addEventListener('dragenter', (event) => hasFiles(event) && mark(1));
  addEventListener('dragleave', (event) => hasFiles(event) && mark(-1));
  addEventListener('dragover', (event) => hasFiles(event) && event.preventDefault());
  addEventListener('drop', (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    mark(-depth);
    const files = [...event.dataTransfer.files];
    if (chat) chat.attachments.add(files);
    else if (!$('start').hidden) openFiles(files, open);
  });
}

setUpStart(open);
setUpDrop();
addEventListener('keydown', ({ key }) => key === 'Escape' && !$('settings').open && chat?.stop());
$('new-chat').onclick = () => chat.restart();
$('change-model').onclick = toStart;
$('settings-open').onclick = () => {
  const before = $('system').value;
  $('settings').showModal();
  $('settings').onclose = () => $('system').value === before || chat.restart();
};
const problem = await unsupported();
if (problem) showUnsupported(problem);

// The conversation: what is sent, how the answer comes, and its figures.
import { $, announce, element, showError } from './dom.js';
import { bytes } from './format.js';
import { render } from './markdown.js';
import { Attachments } from './attachments.js';
import { CHIPS } from './models.js';

export class Chat {
  #model;
  #conversation;
  #running;
  #last = { tokens: 0, speed: 0 };

  constructor(model, { name, note, chips = CHIPS }) {
    this.#model = model;
    this.report = model.report();
    const { features = [] } = this.report;
    this.attachments = new Attachments({ pictures: features.includes('vision'), sounds: features.includes('audio') });
    $('model-name').textContent = name;
    $('empty-note').textContent = note ?? '';
    $('chips').replaceChildren(...chips.map((text) => element('button', { type: 'button', textContent: text, onclick: () => this.send(text) })));
    $('composer').onsubmit = (event) => {
      event.preventDefault();
      if (this.#running) this.stop();
      else this.send($('text').value);
    };
    $('text').onkeydown = (event) => this.#key(event);
    $('text').oninput = grow;
    this.restart();
  }

  restart() {
    this.stop();
    this.#conversation?.free().catch(() => {});
    const system = $('system').value.trim();
    this.#conversation = this.#model.conversation(system ? { system } : {});
    this.#last = { tokens: 0, speed: 0 };
    this.attachments.clear();
    $('log').replaceChildren();
    $('empty').hidden = false;
    showError('chat-error');
    this.#figures();
    $('text').focus();
  }

  stop() {
    this.#running?.abort();
  }

  close() {
    this.stop();
    this.attachments.clear();
    this.#model.free();
  }

  #key(event) {
    if (event.key !== 'Enter' || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    if (!this.#running) this.send($('text').value);
  }

  async send(text) {
    const media = this.attachments.take();
    text = text.trim();
    if (this.#running || (!text && !media.length)) return;
    $('text').value = '';
    grow();
    $('empty').hidden = true;
    showError('chat-error');
    $('log').append(userMessage(text, media));
    const controller = (this.#running = new AbortController());
    document.body.classList.add('busy');
    $('send').ariaLabel = $('send').title = 'Stop';
    const answer = new Answer();
    try {
      const content = media.length ? [...media.map(({ type, blob }) => ({ type, data: blob })), { type: 'text', text }] : text;
      const { signal } = controller;
      for await (const event of this.#conversation.send(content, { ...settings(), signal })) this.#take(answer, event);
    } catch (error) {
      if (!controller.signal.aborted) this.#failed(error);
    } finally {
      answer.end();
      this.#running = undefined;
      document.body.classList.remove('busy');
      $('send').ariaLabel = $('send').title = 'Send';
      announce(controller.signal.aborted ? 'Stopped' : 'The answer is complete');
    }
  }

  #take(answer, event) {
    answer.add(event);
    if (event.type === 'prompt') return this.#figures(`Reading ${event.done} of ${event.total} tokens`);
    const { promptTokens = 0, completionTokens } = event.usage ?? {};
    this.#last.speed = answer.speed(completionTokens) || this.#last.speed;
    if (event.type === 'end') {
      this.#last.tokens = promptTokens + completionTokens;
      answer.note(event, this.#last.speed);
    }
    this.#figures();
  }

  #failed(error) {
    const recover = async () => {
      showError('chat-error', { message: 'Loading the model again …' });
      await this.#model.recover().then(() => showError('chat-error'), (error) => this.#failed(error));
    };
    showError('chat-error', error, error.kind === 'DeviceLost' ? { label: 'Load the model again', action: recover } : undefined);
  }

  #figures(first) {
    const { adapter, weightBytes, memoryBytes, context } = this.report;
    const { tokens, speed } = this.#last;
    const parts = [
      first ?? (speed ? `${speed.toFixed(1)} tokens/s` : undefined),
      tokens > 0 && context && `${tokens} of ${context} tokens`,
      weightBytes && `${bytes(memoryBytes ?? weightBytes)} of memory`,
      adapter,
    ];
    $('figures').replaceChildren(...parts.filter(Boolean).map((part) => element('span', { textContent: part })));
  }
}

/** The field grows with its text where CSS cannot say so. */
function grow() {
  if (CSS.supports('field-sizing', 'content')) return;
  $('text').style.height = 'auto';
  $('text').style.height = `${$('text').scrollHeight}px`;
}

/** What the dialog says. */
function settings() {
  const number = (id) => ($(id).value === '' ? undefined : Number($(id).value));
  const all = { temperature: number('temperature'), maxTokens: number('max-tokens') };
  return Object.fromEntries(Object.entries(all).filter(([, value]) => value !== undefined));
}

function userMessage(text, media) {
  const shown = media.map(({ type, url, name }) =>
    type === 'image' ? element('img', { src: url, alt: name }) : element('audio', { src: url, controls: true, ariaLabel: name }));
  const message = element('li', { className: 'user' }, element('span', { className: 'hidden', textContent: 'You: ' }));
  if (shown.length) message.append(element('div', { className: 'media' }, ...shown));
  message.append(text);
  return message;
}

/** An answer that is being written. */
class Answer {
  #text = '';
  #tokens = 0;
  #first = 0;
  #last = 0;
  #drawing = false;
  #body = element('div', { className: 'body' });
  #item = element('li', { className: 'answer open' }, element('span', { className: 'hidden', textContent: 'Gemma: ' }), this.#body);

  constructor() {
    // Screen readers read the answer once, when it is whole.
    $('log').ariaBusy = 'true';
    $('log').append(this.#item);
    follow(true);
  }

  add(event) {
    if (event.type === 'text') this.#write(event.text);
    else if (event.type === 'thought') this.#thought(event.text);
    else if (event.type === 'toolCall') this.#item.append(element('pre', { textContent: `${event.name}(${JSON.stringify(event.arguments, null, 2)})` }));
    else if (event.type === 'brokenToolCall') this.#item.append(element('pre', { textContent: `${event.text}\n\n${event.problem}` }));
  }

  #write(text) {
    this.#last = performance.now();
    this.#first ||= this.#last;
    this.#tokens++;
    this.#text += text;
    if (this.#drawing) return;
    this.#drawing = true;
    requestAnimationFrame(() => this.#draw());
  }

  #draw() {
    this.#drawing = false;
    const stay = following();
    this.#body.replaceChildren(...render(this.#text));
    follow(stay);
  }

  #thought(text) {
    let details = this.#item.querySelector('details');
    if (!details) {
      details = element('details', {}, element('summary', { textContent: 'Thought' }));
      this.#body.before(details);
    }
    details.append(text);
  }

  /** Tokens a second since the first. Before the end a piece of text counts as a token. */
  speed(tokens = this.#tokens) {
    const seconds = (this.#last - this.#first) / 1000;
    return seconds > 0 ? (tokens - 1) / seconds : 0;
  }

  note({ reason, usage }, speed) {
    const why = { length: 'The longest length was reached', cancelled: 'Stopped' }[reason];
    const parts = [why, `${usage.completionTokens} tokens`, speed ? `${speed.toFixed(1)} tokens/s` : undefined];
    this.#item.append(element('p', { className: 'note', textContent: parts.filter(Boolean).join(' · ') }));
  }

  end() {
    this.#draw();
    this.#item.classList.remove('open');
    $('log').ariaBusy = 'false';
  }
}

function following() {
  const { scrollHeight, scrollTop, clientHeight } = $('scroll');
  return scrollHeight - scrollTop - clientHeight < 80;
}

function follow(stay) {
  if (stay) $('scroll').scrollTop = $('scroll').scrollHeight;
}

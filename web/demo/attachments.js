// Pictures and sounds that go with the next message.
import { $, announce, element, showError } from './dom.js';
import { record, toWav } from './sound.js';

export class Attachments {
  #items = [];
  #recording;

  constructor({ pictures, sounds }) {
    this.pictures = pictures;
    this.sounds = sounds;
    $('attach').hidden = !pictures && !sounds;
    $('record').hidden = !sounds || !navigator.mediaDevices;
    $('media').accept = [pictures && 'image/*', sounds && 'audio/*'].filter(Boolean).join();
    $('attach').onclick = () => $('media').click();
    $('media').onchange = () => {
      this.add([...$('media').files]);
      $('media').value = '';
    };
    $('record').onclick = () => this.#record().catch((error) => this.#failed(error, 'The microphone cannot be used'));
    $('text').onpaste = ({ clipboardData }) => this.add([...clipboardData.files]);
  }

  async add(files) {
    showError('chat-error');
    for (const file of files) {
      if (file.type.startsWith('image/') && this.pictures) this.#push('image', file, file.name);
      else if (file.type.startsWith('audio/') && this.sounds) {
        await toWav(file).then((wav) => this.#push('audio', wav, file.name), (error) => this.#failed(error, `${file.name} cannot be decoded`));
      } else showError('chat-error', { message: `This model does not take ${file.name} (${file.type || 'an unknown type'}).` });
    }
  }

  /** What is there, for a message. */
  take() {
    const taken = this.#items;
    this.#items = [];
    this.#draw();
    return taken;
  }

  clear() {
    this.take().forEach(({ url }) => URL.revokeObjectURL(url));
  }

  #push(type, blob, name) {
    this.#items.push({ type, blob, name, url: URL.createObjectURL(blob) });
    this.#draw();
    announce(`${name} was added`);
    $('text').focus();
  }

  #draw() {
    const shown = this.#items.map((item) => {
      const remove = element('button', { type: 'button', textContent: '×', ariaLabel: `Remove ${item.name}` });
      remove.onclick = () => {
        URL.revokeObjectURL(item.url);
        this.#items = this.#items.filter((other) => other !== item);
        this.#draw();
        $('text').focus();
      };
      const { url: src, name } = item;
      return element('li', {}, item.type === 'image' ? element('img', { src, alt: name }) : element('audio', { src, controls: true, ariaLabel: name }), remove);
    });
    $('attached').replaceChildren(...shown);
    $('attached').hidden = !shown.length;
  }

  async #record() {
    const recording = this.#recording;
    if (!recording) this.#recording = await record();
    $('record').ariaPressed = String(!recording);
    $('record').ariaLabel = $('record').title = recording ? 'Record a sound' : 'Stop recording';
    announce(recording ? 'The recording ended' : 'Recording');
    if (!recording) return;
    this.#recording = undefined;
    this.#push('audio', await toWav(await recording.stop()), 'Recording');
  }

  #failed(error, what) {
    showError('chat-error', { message: `${what}: ${error.message}` });
  }
}

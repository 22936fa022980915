// The part of Markdown that models write, as elements. Text never becomes HTML.
import { element } from './dom.js';

export function render(text) {
  const blocks = [];
  const lines = text.split('\n');
  for (let at = 0; at < lines.length; ) {
    const [block, next] = blockAt(lines, at);
    if (block) blocks.push(block);
    at = next;
  }
  return blocks;
}

const ITEM = /^\s*([-*+]|\d+[.)])\s+(.*)$/;
const FENCE = /^\s*```/;
const HEADING = /^#{1,6}\s+(.*)$/;

function blockAt(lines, at) {
  const line = lines[at];
  if (!line.trim()) return [undefined, at + 1];
  if (FENCE.test(line)) return code(lines, at);
  const heading = HEADING.exec(line);
  if (heading) return [element('h3', {}, ...inline(heading[1])), at + 1];
  if (ITEM.test(line)) return list(lines, at);
  let end = at;
  while (end < lines.length && lines[end].trim() && !(end > at && (FENCE.test(lines[end]) || ITEM.test(lines[end])))) end++;
  const paragraph = element('p');
  lines.slice(at, end).forEach((part, i) => paragraph.append(...(i ? [element('br')] : []), ...inline(part)));
  return [paragraph, end];
}

function code(lines, at) {
  let end = at + 1;
  while (end < lines.length && !FENCE.test(lines[end])) end++;
  return [element('pre', { tabIndex: 0 }, element('code', { textContent: lines.slice(at + 1, end).join('\n') })), end + 1];
}

function list(lines, at) {
  const first = ITEM.exec(lines[at])[1];
  const ordered = /\d/.test(first);
  const items = element(ordered ? 'ol' : 'ul');
  if (ordered) items.start = parseInt(first);
  for (; at < lines.length && ITEM.test(lines[at]); at++) {
    const [, mark, text] = ITEM.exec(lines[at]);
    if (/\d/.test(mark) !== ordered) break;
    items.append(element('li', {}, ...inline(text)));
  }
  return [items, at];
}

const SPAN = /`([^`]+)`|\*\*(.+?)\*\*|\*([^*\s][^*]*)\*/g;

function inline(text) {
  const nodes = [];
  let end = 0;
  for (const match of text.matchAll(SPAN)) {
    const [whole, mono, strong, weak] = match;
    nodes.push(text.slice(end, match.index));
    if (mono !== undefined) nodes.push(element('code', { textContent: mono }));
    else nodes.push(element(strong === undefined ? 'em' : 'strong', { textContent: strong ?? weak }));
    end = match.index + whole.length;
  }
  return [...nodes, text.slice(end)].filter((node) => node !== '');
}

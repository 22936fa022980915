// Elements by id, and new ones.

export const $ = (id) => document.getElementById(id);

export function element(name, properties = {}, ...children) {
  const node = Object.assign(document.createElement(name), properties);
  node.append(...children);
  return node;
}

/** For screen readers. */
export function announce(text) {
  $('announce').textContent = text;
}

export function show(view) {
  for (const id of ['start', 'loading', 'unsupported', 'chat']) $(id).hidden = id !== view;
  document.body.dataset.view = view;
  $('chat-actions').hidden = $('model-name').hidden = view !== 'chat';
}

/** An error in its place, perhaps with a button that mends it. */
export function showError(id, error, mend) {
  const place = $(id);
  place.hidden = !error;
  place.replaceChildren(error ? (error.message ?? String(error)) : '');
  if (mend) place.append(element('button', { type: 'button', textContent: mend.label, onclick: mend.action }));
}

// Elements. Everything from the server enters the page as text: no function here takes markup.

export function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "class") node.className = value;
    else if (name === "value") node.value = value;
    else if (name === "dataset") Object.assign(node.dataset, value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  add(node, children);
  return node;
}

export function add(node, children) {
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    node.append(child instanceof Node ? child : document.createTextNode(String(child)));
  }
  return node;
}

export function replace(node, ...children) {
  node.replaceChildren();
  return add(node, children);
}

export const byId = (id) => document.getElementById(id);

export function announce(text) {
  const live = byId("announcer");
  live.append(el("p", {}, text));
  while (live.childElementCount > 12) live.firstElementChild.remove();
}

export function counted(number, one, many = `${one}s`) {
  return `${Number(number).toLocaleString("en")} ${number === 1 ? one : many}`;
}

export function placeOf(source) {
  const name = nameOf(source);
  const pages = source.pages || [];
  if (!pages.length) return name;
  return pages.length === 1 ? `${name}, page ${pages[0]}` : `${name}, pages ${pages[0]}–${pages[pages.length - 1]}`;
}

// A file's name without its folders; ready text has no pages, and an identifier in the place of a path.
export function nameOf(source) {
  const document = String(source.document || "");
  return source.pages?.length ? document.split("/").pop() || document : document;
}

// A bar of `share` (0..1) of its width.
export function barOf(share, label) {
  const fill = el("span", { class: "fill" });
  fill.style.width = `${100 * Math.min(Math.max(share, 0), 1)}%`;
  return el("span", { class: "track", role: label ? "img" : null, "aria-label": label, "aria-hidden": label ? null : "true" }, fill);
}

export function titleOf(source) {
  return source.title || nameOf(source);
}

// The text with every occurrence of the given sentences marked; white space may differ.
export function marked(text, sentences) {
  const spans = [];
  for (const sentence of sentences) {
    const words = sentence.trim().split(/\s+/).filter(Boolean);
    if (!words.length) continue;
    const pattern = words.map((word) => word.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")).join("\\s+");
    const match = new RegExp(pattern).exec(text);
    if (match) spans.push([match.index, match.index + match[0].length]);
  }
  spans.sort((a, b) => a[0] - b[0]);
  const nodes = [];
  let at = 0;
  for (const [start, stop] of spans) {
    if (start < at) continue;
    nodes.push(text.slice(at, start), el("mark", {}, text.slice(start, stop)));
    at = stop;
  }
  nodes.push(text.slice(at));
  return nodes;
}

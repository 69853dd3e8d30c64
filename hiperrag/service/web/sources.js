// The passages an answer was made from, beside it.

import { openCompare } from "./compare.js";
import { byId, el, placeOf, replace, titleOf } from "./dom.js";
import { closeReader, openReader, readerIsOpen } from "./reader.js";

let shown = null;
let shownState = "";

export function supportsOf(turn, n) {
  return turn.citations.filter((citation) => citation.n === n).map((citation) => citation.text);
}

// quietly: not if a page is open, or these sources are shown already.
export function showSources(turn, { quietly = false } = {}) {
  const state = `${turn.state}${turn.sources.length}${turn.citations.length}`;
  if (quietly && (readerIsOpen() || (shown === turn && state === shownState))) return;
  if (readerIsOpen()) closeReader({ restore: false });
  shown = turn;
  shownState = state;
  const side = byId("side");
  side.hidden = !turn.sources.length;
  side.classList.remove("reading");
  byId("frame").classList.toggle("beside", !side.hidden);
  byId("frame").classList.remove("reading");
  const cited = new Set(turn.citations.map((citation) => citation.n));
  const cards = turn.sources.map((source, i) => card(turn, source, i + 1, cited));
  const both = cited.size > 1 && el("button", {
    type: "button", class: "small quiet", "aria-keyshortcuts": "b", onclick: () => compareSources(turn),
  }, "Side by side");
  replace(side, el("div", { class: "sidehead" }, el("h2", {}, "Sources"), both),
    el("ol", { class: "cards", onkeydown: walk }, cards));
}

export function currentTurn() {
  return shown;
}

export function compareSources(turn = shown) {
  if (!turn?.sources.length) return;
  const cited = [...new Set(turn.citations.map((citation) => citation.n))].sort((a, b) => a - b);
  const numbers = cited.length ? cited : turn.sources.map((_, i) => i + 1).slice(0, 3);
  openCompare(turn.collection, numbers.map((n) => ({ n, source: turn.sources[n - 1], supports: supportsOf(turn, n) })));
}

export function openSource(turn, n, opener) {
  const source = turn.sources[n - 1];
  if (!source) return;
  openReader({
    collection: turn.collection, source, n, marks: `button.cite[data-n="${n}"]`, supports: supportsOf(turn, n), opener,
    step: (by) => turn.sources[n - 1 + by] && openSource(turn, n + by, opener),
    back: () => showSources(turn),
    last: turn.sources.length,
  });
}

export function forgetSources() {
  shown = null;
}

function card(turn, source, n, cited) {
  const supports = supportsOf(turn, n);
  const waiting = turn.state === "searching" || turn.state === "writing";
  const used = waiting || cited.has(n);
  const body = [
    el("span", { class: "cite still" }, String(n)),
    el("span", { class: "cardtitle" }, titleOf(source)),
    el("span", { class: "place" }, placeOf(source), source.kind && source.kind !== "paragraph" ? ` · ${source.kind}` : ""),
  ];
  if (supports.length) body.push(...supports.map((text) => el("span", { class: "support" }, text)));
  else body.push(el("span", { class: "snippet" }, source.text || ""));
  return el("li", { class: used ? "" : "uncited" }, el("button", {
    type: "button", class: "card", dataset: { n: String(n) }, onclick: (event) => openSource(turn, n, event.currentTarget),
  }, body));
}

// Arrow keys go from card to card.
export function walk(event) {
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (!step) return;
  const cards = [...event.currentTarget.querySelectorAll("button.card")];
  const next = cards[cards.indexOf(document.activeElement) + step];
  if (next) {
    event.preventDefault();
    next.focus();
  }
}


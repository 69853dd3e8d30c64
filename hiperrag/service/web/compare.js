// The cited pages next to each other.

import { Failure, enc, getJson } from "./api.js";
import { byId, el, placeOf, replace, titleOf } from "./dom.js";
import { showFailure } from "./notices.js";
import { PageView } from "./picture.js";

let views = [];

// entries: [{n, source, supports}]
export function openCompare(collection, entries) {
  const dialog = byId("compare");
  const columns = entries.map((entry) => column(collection, entry));
  const strip = el("div", { class: "strip", onkeydown: walk }, columns.map((one) => one.root));
  replace(dialog, el("div", { class: "dialoghead" }, el("h2", { id: "compare-title" }, "Sources side by side"),
    el("button", { type: "button", class: "small quiet", onclick: () => dialog.close() }, "Close")), strip);
  dialog.onclose = () => {
    views.forEach((view) => view.stop());
    views = [];
    dialog.replaceChildren();
  };
  if (!dialog.open) dialog.showModal();
  columns.forEach((one) => one.load());
  columns[0]?.root.focus();
}

function column(collection, { n, source, supports }) {
  const body = el("div", {}, el("p", { class: "status" }, el("span", { class: "dots" }), "Opening the page"));
  const root = el("section", { class: "column", tabindex: "0", "aria-label": `Source ${n}` },
    el("header", {}, el("span", { class: "cite still" }, String(n)), el("div", {}, el("h3", {}, titleOf(source)), el("p", { class: "place" }, placeOf(source)))),
    supports.map((text) => el("blockquote", { class: "support" }, text)), body);
  async function load(tries = 0) {
    try {
      const passage = await getJson(`v1/collections/${enc(collection)}/passages/${enc(source.passage_id)}`);
      if (!root.isConnected) return;
      if (!passage.pages.length) return void replace(body, el("p", { class: "passagetext" }, passage.text));
      const view = new PageView(collection, passage, { page: passage.pages[0], scroll: false });
      views.push(view);
      replace(body, view.root);
      view.load();
    } catch (error) {
      const note = el("div");
      replace(body, note, el("p", { class: "passagetext" }, source.text || ""));
      showFailure(note, error instanceof Failure ? error : new Failure("refused", "The page cannot be shown."), load, tries);
    }
  }
  return { root, load };
}

function walk(event) {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (!step) return;
  const columns = [...event.currentTarget.children];
  const at = columns.findIndex((one) => one.contains(document.activeElement));
  const next = columns[at + step];
  if (next) {
    event.preventDefault();
    next.focus();
    next.scrollIntoView({ inline: "nearest", block: "nearest" });
  }
}

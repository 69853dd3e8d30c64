// A source opened beside the answer: the page as a picture with the passage's boxes, the sentence, the text around it.

import { Failure, enc, getJson } from "./api.js";
import { add, announce, byId, counted, el, marked, nameOf, replace, titleOf } from "./dom.js";
import { PageView } from "./picture.js";
import { showFailure } from "./notices.js";

// Where the source covers the answer.
const narrow = matchMedia("(max-width: 59.99rem)");
const ZOOMS = [1, 1.5, 2, 3];
let open = null;

export const readerIsOpen = () => open !== null;

// what: {collection, source, n, supports, opener, step(by), back(), last, page}; `marks` selects the buttons that
// stand for it.
export function openReader(what) {
  open?.stop();
  open = new Reader(what);
  markCurrent(what.marks);
  coverMain();
  open.load();
}

function markCurrent(selector) {
  for (const button of byId("main").querySelectorAll("button[aria-current]")) button.removeAttribute("aria-current");
  if (!selector) return;
  for (const button of byId("main").querySelectorAll(selector)) button.setAttribute("aria-current", "true");
}

export function closeReader({ restore = true } = {}) {
  if (!open) return;
  const { opener, back, n } = open.what;
  open.stop();
  open = null;
  markCurrent("");
  coverMain();
  const side = byId("side");
  side.classList.remove("reading");
  byId("frame").classList.remove("reading");
  if (!restore) return;
  side.replaceChildren();
  side.hidden = true;
  byId("frame").classList.remove("beside");
  back?.();
  if (opener?.isConnected) opener.focus();
  else focusCard(n);
}

function focusCard(n) {
  const card = byId("frame").querySelector(`button.card[data-n="${n}"]`);
  (card || byId("main")).focus();
}

narrow.addEventListener("change", coverMain);

function coverMain() {
  byId("main").inert = open !== null && narrow.matches;
}

export function stepReader(by) {
  open?.what.step?.(by);
}

class Reader {
  constructor(what) {
    this.what = what;
    this.control = new AbortController();
    this.zoom = 0;
  }

  stop() {
    this.control.abort();
    this.view?.stop();
  }

  async load(tries = 0) {
    const { what } = this;
    const side = byId("side");
    side.hidden = false;
    side.classList.add("reading");
    byId("frame").classList.add("beside", "reading");
    this.frame();
    try {
      const path = `v1/collections/${enc(what.collection)}/passages/${enc(what.source.passage_id)}`;
      this.passage = await getJson(path, this.control.signal);
      if (open === this) this.fill();
    } catch (error) {
      if (error.name === "AbortError" || open !== this) return;
      const box = el("div");
      replace(this.body, box, this.passageText({ ...what.source, previous: null, next: null }));
      showFailure(box, error instanceof Failure ? error : new Failure("refused", "The passage cannot be shown."),
        (n) => open === this && this.load(n), tries);
    }
  }

  frame() {
    const { what } = this;
    const title = el("h2", { id: "reader-title", tabindex: "-1" }, titleOf(what.source));
    this.place = el("p", { class: "place" }, nameOf(what.source));
    this.body = el("div", { class: "readerbody" }, el("p", { class: "status" }, el("span", { class: "dots" }), "Opening the page"));
    const arrows = what.step && what.last > 1 && el("div", { class: "arrows" },
      el("button", { type: "button", class: "small quiet", "aria-label": "Source before", disabled: what.n <= 1, "aria-keyshortcuts": "ArrowLeft", onclick: () => what.step(-1) }, "‹"),
      el("span", { class: "of" }, `${what.n} of ${what.last}`),
      el("button", { type: "button", class: "small quiet", "aria-label": "Source after", disabled: what.n >= what.last, "aria-keyshortcuts": "ArrowRight", onclick: () => what.step(1) }, "›"));
    replace(byId("side"), el("div", { class: "sidehead" },
      el("button", { type: "button", class: "small quiet", "aria-keyshortcuts": "Escape", onclick: () => closeReader() }, what.back ? "‹ All sources" : "Close"),
      arrows),
    el("section", { class: "reader", "aria-labelledby": "reader-title" },
      el("header", {}, what.n && el("span", { class: "cite still" }, String(what.n)), el("div", {}, title, this.place)),
      this.body));
    title.focus({ preventScroll: true });
    byId("side").scrollTop = 0;
  }

  fill() {
    const { what, passage } = this;
    const parts = [nameOf(passage)];
    if (passage.authors.length) parts.unshift(authors(passage.authors));
    if (passage.section) parts.push(passage.section);
    if (passage.kind !== "paragraph" && passage.kind !== passage.section.toLowerCase()) parts.push(passage.kind);
    replace(this.place, parts.join(" · "));
    const supports = what.supports || [];
    const children = [supports.map((text) => el("blockquote", { class: "support" }, text))];
    if (passage.pages.length) children.push(this.pictures(what.page));
    else children.push(el("p", { class: "soft" }, "This document came as text; it has no pages."));
    children.push(this.passageText(passage));
    replace(this.body, children);
    this.view?.load();
    announce(`${what.n ? `Source ${what.n}: ` : ""}${titleOf(passage)}, ${passage.pages.length ? `page ${this.view.page} of ${passage.n_pages}` : "text"}.`);
  }

  pictures(wanted) {
    const { passage } = this;
    const label = el("span", { class: "of", role: "status" });
    const turn = (by) => {
      this.view.turn(by);
      this.view.load();
    };
    const back = el("button", { type: "button", class: "small quiet", "aria-label": "Page before", onclick: () => turn(-1) }, "‹");
    const on = el("button", { type: "button", class: "small quiet", "aria-label": "Page after", onclick: () => turn(1) }, "›");
    const zoom = (by) => {
      this.zoom = Math.min(Math.max(this.zoom + by, 0), ZOOMS.length - 1);
      smaller.disabled = this.zoom === 0;
      larger.disabled = this.zoom === ZOOMS.length - 1;
      this.view.enlarge(ZOOMS[this.zoom]);
    };
    const smaller = el("button", { type: "button", class: "small quiet", "aria-label": "Smaller", disabled: true, onclick: () => zoom(-1) }, "−");
    const larger = el("button", { type: "button", class: "small quiet", "aria-label": "Larger", onclick: () => zoom(1) }, "+");
    this.view = new PageView(this.what.collection, passage, {
      page: passage.pages.includes(wanted) || (wanted >= 1 && wanted <= passage.n_pages) ? wanted : passage.pages[0],
      onpage: (page) => {
        replace(label, `Page ${page} of ${passage.n_pages}`, whereabouts(passage, page));
        back.disabled = page <= 1;
        on.disabled = page >= passage.n_pages;
      },
    });
    const link = el("a", { class: "small quiet", href: `#/${enc(this.what.collection)}/passages/${enc(passage.passage_id)}?page=${this.view.page}`, title: "A link that opens this passage" }, "Link");
    return [el("div", { class: "pagebar" }, el("div", { class: "arrows" }, back, label, on), el("div", { class: "arrows" }, smaller, larger, link)), this.view.root];
  }

  passageText(passage) {
    const text = el("p", { class: "passagetext" }, marked(passage.text || "", this.what.supports || []));
    const beside = (neighbour, words) => neighbour && el("details", { class: "neighbour" },
      el("summary", {}, words), el("p", { class: "passagetext soft" }, neighbour.text));
    const around = [beside(passage.previous, "The passage before"), text, beside(passage.next, "The passage after")];
    return add(el("section", { class: "around", "aria-label": "Text of the passage" }), [
      el("h3", {}, "As it was read"), around,
      passage.metadata && Object.keys(passage.metadata).length > 0 && el("dl", { class: "meta" },
        Object.entries(passage.metadata).slice(0, 30).map(([name, value]) => [el("dt", {}, name), el("dd", {}, String(value))])),
    ]);
  }
}

function whereabouts(passage, page) {
  const first = passage.pages[0];
  const last = passage.pages[passage.pages.length - 1];
  if (page < first || page > last) return ", not of this passage";
  return first < last ? `, passage on ${first}–${last}` : "";
}

function authors(names) {
  return names.length > 3 ? `${names.slice(0, 2).join(", ")} and ${counted(names.length - 2, "other")}` : names.join(", ");
}

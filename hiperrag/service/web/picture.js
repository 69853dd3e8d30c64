// One page as a picture, with the passage's boxes on it.

import { Failure, enc, getPicture } from "./api.js";
import { el, replace } from "./dom.js";
import { showFailure } from "./notices.js";

const REASONS = {
  gone: "The source file is not where it was when it was indexed.",
  changed: "The source file has changed since it was indexed.",
  damaged: "The source file cannot be drawn.",
  too_costly: "The source's page took too long to draw.",
};

export class PageView {
  // `boxes` of the passage are [page, x0, y0, x1, y1] in points.
  constructor(collection, passage, { page, onpage, scroll = true }) {
    this.collection = collection;
    this.passage = passage;
    this.page = page;
    this.onpage = onpage;
    this.scroll = scroll;
    this.zoom = 1;
    this.control = null;
    this.image = el("img", { alt: "", draggable: "false" });
    this.boxes = el("div", { class: "boxes", "aria-hidden": "true" });
    this.sheet = el("div", { class: "sheet" }, this.image, this.boxes);
    this.scroller = el("div", { class: "scroller", tabindex: "0", role: "group", "aria-label": "Page" }, this.sheet);
    this.note = el("p", { class: "notice warn", hidden: true });
    this.failure = el("div", { hidden: true });
    this.root = el("figure", { class: "page" }, this.note, this.failure, this.scroller);
    this.onpage?.(page);
  }

  turn(by) {
    this.page = Math.min(Math.max(this.page + by, 1), this.passage.n_pages);
    this.onpage?.(this.page);
  }

  enlarge(zoom) {
    this.zoom = zoom;
    this.sheet.style.width = `${100 * zoom}%`;
    this.scroller.classList.toggle("zoomed", zoom > 1);
    this.load();
  }

  stop() {
    this.control?.abort();
    if (this.image.src) URL.revokeObjectURL(this.image.src);
  }

  size() {
    return this.passage.page_sizes.find((one) => one.page === this.page);
  }

  async load(tries = 0) {
    this.control?.abort();
    this.control = new AbortController();
    const { signal } = this.control;
    const size = this.size();
    if (size) this.sheet.style.aspectRatio = `${size.width} / ${size.height}`;
    this.sheet.classList.add("waiting");
    this.failure.hidden = true;
    this.drawBoxes();
    const wanted = Math.round(this.sheet.clientWidth * (window.devicePixelRatio || 1));
    const width = Math.min(Math.max(wanted, 400), 2000);
    const path = `v1/collections/${enc(this.collection)}/passages/${enc(this.passage.passage_id)}/pages/${this.page}.png?width=${width}`;
    try {
      const { blob, drawnFrom } = await getPicture(path, signal);
      if (signal.aborted) return;
      await this.show(blob, drawnFrom);
    } catch (error) {
      if (error.name === "AbortError" || signal.aborted) return;
      const failure = error instanceof Failure ? error : new Failure("refused", "The page cannot be shown.");
      showFailure(this.failure, failure, (n) => !signal.aborted && this.load(n), tries);
    } finally {
      if (!signal.aborted) this.sheet.classList.remove("waiting");
    }
  }

  async show(blob, drawnFrom) {
    const before = this.image.src;
    const first = !before;
    this.image.src = URL.createObjectURL(blob);
    this.image.alt = `Page ${this.page} of ${this.passage.title || this.passage.document}`;
    await this.image.decode();
    if (before) URL.revokeObjectURL(before);
    if (!this.size()) this.sheet.style.aspectRatio = `${this.image.naturalWidth} / ${this.image.naturalHeight}`;
    const reason = drawnFrom.startsWith("text") ? drawnFrom.split(";")[1]?.trim() : "";
    this.note.hidden = !reason;
    replace(this.note, reason && `${REASONS[reason] || "The source cannot be shown."} This page is drawn from the text that was read from it.`);
    if (first && this.scroll) this.bringIntoView();
  }

  // Boxes are placed in parts of the page, so that they stay in place at every size.
  drawBoxes() {
    const size = this.size();
    const here = size ? this.passage.boxes.filter((box) => box[0] === this.page) : [];
    this.boxes.replaceChildren(...here.map(([, x0, y0, x1, y1]) => {
      const box = el("div", { class: "box" });
      box.style.left = `${(100 * x0) / size.width}%`;
      box.style.top = `${(100 * y0) / size.height}%`;
      box.style.width = `${(100 * (x1 - x0)) / size.width}%`;
      box.style.height = `${(100 * (y1 - y0)) / size.height}%`;
      return box;
    }));
  }

  bringIntoView() {
    const side = this.root.closest("#side");
    const box = this.boxes.firstElementChild;
    if (!side || !box) return;
    const top = box.getBoundingClientRect().top - side.getBoundingClientRect().top;
    if (getComputedStyle(side).overflowY === "auto" && top > side.clientHeight - 140) side.scrollBy({ top: top - side.clientHeight * 0.35 });
  }
}

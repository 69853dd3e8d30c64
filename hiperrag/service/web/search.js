// Search: passages for a query, with filters.

import { Failure, postJson } from "./api.js";
import { announce, byId, counted, el, placeOf, replace, titleOf } from "./dom.js";
import { makeFilters } from "./filters.js";
import { missingShards, showFailure } from "./notices.js";
import { openReader } from "./reader.js";
import { walk } from "./sources.js";
import { keep, kept, modelName } from "./state.js";

export class Search {
  constructor(name) {
    this.name = name;
    this.hits = [];
    this.control = null;
    this.box = el("input", { type: "search", id: "query", "aria-label": "Search", "aria-keyshortcuts": "/", placeholder: "Search the passages", maxlength: "2000", value: kept(this.key) || "" });
    const summary = el("summary", {}, "Filters");
    this.filters = makeFilters(name, { ks: [10, 20, 50, 100], k: 20, onchange: () => {
      const n = this.filters?.count() || 0;
      summary.textContent = n ? `Filters (${n})` : "Filters";
    } });
    this.status = el("p", { class: "status", role: "status" });
    this.failure = el("div", { hidden: true });
    this.list = el("ol", { class: "cards results", onkeydown: walk });
    this.root = el("section", { class: "search", "aria-label": "Search" },
      el("form", { class: "searcher", onsubmit: (event) => this.submit(event) },
        el("div", { class: "askline" }, this.box, el("button", { class: "primary" }, "Search")),
        el("details", { open: matchMedia("(min-width: 44.01rem)").matches }, summary, this.filters.root)),
      this.failure, this.status, this.list);
  }

  get key() {
    return `hiperrag-query-${this.name}`;
  }

  shown() {
    byId("side").hidden = true;
    byId("frame").classList.remove("beside", "reading");
  }

  focus() {
    this.box.focus();
    this.box.select();
  }

  submit(event) {
    event.preventDefault();
    if (!this.box.value.trim()) return this.box.focus();
    keep(this.key, this.box.value);
    return this.run(this.box.value.trim());
  }

  async run(query, tries = 0) {
    this.control?.abort();
    this.control = new AbortController();
    const { signal } = this.control;
    this.failure.hidden = true;
    replace(this.status, el("span", { class: "dots" }), "Searching");
    this.list.setAttribute("aria-busy", "true");
    try {
      const body = { model: modelName(), query, ...this.filters.settings() };
      const found = await postJson("v1/search", body, signal);
      this.show(found);
    } catch (error) {
      if (error.name === "AbortError") return;
      this.status.replaceChildren();
      showFailure(this.failure, error instanceof Failure ? error : new Failure("refused", "The results could not be read."),
        (n) => this.run(query, n), tries);
    } finally {
      if (!signal.aborted) this.list.setAttribute("aria-busy", "false");
    }
  }

  show(found) {
    this.hits = found.hits || [];
    const total = found.timings_ms?.total;
    const told = this.hits.length ? counted(this.hits.length, "passage") : "No passage meets the condition";
    const missing = missingShards(found.shards);
    replace(this.status, told, total ? ` in ${total < 10 ? total.toFixed(1) : Math.round(total)} ms` : "", missing && ` · ${missing}`);
    announce(told);
    replace(this.list, this.hits.map((hit, i) => this.card(hit, i + 1)));
  }

  card(hit, n) {
    const button = el("button", { type: "button", class: "card", dataset: { n: String(n) }, onclick: () => this.open(n, button) },
      el("span", { class: "rank" }, String(n)),
      el("span", { class: "cardtitle" }, titleOf(hit)),
      el("span", { class: "place" }, placeOf(hit), hit.kind && hit.kind !== "paragraph" ? ` · ${hit.kind}` : "",
        el("span", { class: "score", title: "MaxSim" }, hit.score.toFixed(2))),
      el("span", { class: "snippet" }, hit.text));
    return el("li", {}, button);
  }

  open(n, opener) {
    const source = this.hits[n - 1];
    if (!source) return;
    const card = this.list.querySelector(`[data-n="${n}"]`);
    openReader({ collection: this.name, source, n, supports: [], opener: card || opener, last: this.hits.length,
      marks: `button.card[data-n="${n}"]`, step: (by) => this.open(n + by, opener) });
  }
}

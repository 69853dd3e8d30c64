// The conversation: questions, streamed answers, follow-ups; kept for this tab.

import { Failure, streamJson } from "./api.js";
import { announce, byId, counted, el, replace } from "./dom.js";
import { makeFilters } from "./filters.js";
import { showFailure } from "./notices.js";
import { app, factsOf, keep, kept, modelName } from "./state.js";
import { showSources } from "./sources.js";
import { TurnView } from "./turn.js";

const HISTORY_TURNS = 6;
const KEPT_TURNS = 30;

export class Conversation {
  constructor(name) {
    this.name = name;
    this.turns = kept(this.key) || [];
    this.views = [];
    this.running = null;
    this.build();
  }

  get key() {
    return `hiperrag-turns-${this.name}`;
  }

  build() {
    this.list = el("div", { class: "turns" });
    this.box = el("textarea", {
      id: "question", rows: "1", "aria-label": "Question", "aria-keyshortcuts": "/", enterkeyhint: "send", maxlength: "4000",
    });
    this.send = el("button", { class: "primary" }, "Ask");
    this.stopper = el("button", { type: "button", class: "primary stop", hidden: true, onclick: () => this.stop() }, "Stop");
    const summary = el("summary", {}, "Filters");
    const filters = () => {
      const n = this.filters?.count() || 0;
      summary.textContent = n ? `Filters (${n})` : "Filters";
    };
    this.filters = makeFilters(this.name, { ks: [3, 5, 8, 12, 20], k: 5, onchange: filters });
    filters();
    this.clear = el("button", { type: "button", class: "quiet small", onclick: () => this.restart() }, "New conversation");
    this.form = el("form", { class: "asker", onsubmit: (event) => this.submit(event) },
      el("div", { class: "askline" }, this.box, this.send, this.stopper),
      el("div", { class: "under" }, el("details", {}, summary, this.filters.root), this.clear));
    this.box.addEventListener("input", () => this.fit());
    this.box.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) this.submit(event);
    });
    this.welcome = el("div", { class: "welcome" });
    this.root = el("section", { class: "ask", "aria-label": "Ask" }, this.welcome, this.list, this.form);
    for (const turn of this.turns) this.addView(turn);
    this.settle();
    this.greet();
  }

  async greet() {
    replace(this.welcome, el("h1", {}, "Ask the collection"));
    try {
      const facts = await factsOf(this.name);
      const size = `${counted(facts.documents, "document")}, ${counted(facts.counts.pages, "page")}, ${counted(facts.counts.passages, "passage")}`;
      replace(this.welcome, el("h1", {}, "Ask ", el("span", { class: "name" }, this.name)), el("p", {}, size, "."),
        el("p", { class: "soft" }, "Answers cite the pages they rest on. Press a number to see the page."));
    } catch (error) {
      if (error instanceof Failure) {
        const box = el("div");
        this.welcome.append(box);
        showFailure(box, error, () => this.greet());
      }
    }
  }

  settle() {
    this.welcome.hidden = this.turns.length > 0;
    this.clear.hidden = this.turns.length === 0;
    this.box.placeholder = this.turns.length ? "Ask a follow-up" : "Ask a question";
    this.root.classList.toggle("fresh", this.turns.length === 0);
  }

  shown() {
    const last = this.turns[this.turns.length - 1];
    if (last) showSources(last);
    this.fit();
  }

  fit() {
    this.box.style.height = "auto";
    this.box.style.height = `${Math.min(this.box.scrollHeight + 2, 220)}px`;
  }

  focus() {
    this.box.focus();
    this.box.select();
  }

  addView(turn) {
    const view = new TurnView(turn);
    this.views.push(view);
    this.list.append(view.root);
    return view;
  }

  submit(event) {
    event.preventDefault();
    const question = this.box.value.trim();
    if (!question) return this.box.focus();
    if (this.running) return announce("An answer is being written; stop it first.");
    this.box.value = "";
    this.fit();
    const turn = {
      question, settings: this.filters.settings(), sentences: [], draft: "", sources: [], citations: [], notes: [],
      meta: {}, state: "searching", collection: this.name, model: modelName(),
    };
    this.turns.push(turn);
    const view = this.addView(turn);
    this.settle();
    view.root.scrollIntoView({ block: "start", behavior: "smooth" });
    return this.run(turn, view);
  }

  history(turn) {
    const before = this.turns.slice(0, this.turns.indexOf(turn)).filter((one) => one.sentences.length);
    return before.slice(-HISTORY_TURNS).flatMap((one) => [
      { role: "user", content: one.question },
      { role: "assistant", content: one.sentences.join(" ") },
    ]);
  }

  async run(turn, view, tries = 0) {
    this.running = new AbortController();
    this.busy(true);
    Object.assign(turn, { sentences: [], draft: "", citations: [], notes: [], state: "searching" });
    view.restart();
    announce("Searching.");
    showSources(turn);
    const body = {
      model: turn.model, stream: true, hiperrag: turn.settings,
      messages: [...this.history(turn), { role: "user", content: turn.question }],
    };
    let failure = null;
    try {
      await streamJson("v1/chat/completions", body, this.running.signal, (chunk) => receive(turn, view, chunk));
      turn.state = "done";
    } catch (error) {
      turn.state = error.name === "AbortError" ? "stopped" : "failed";
      failure = error;
    }
    turn.draft = "";
    this.running = null;
    this.busy(false);
    view.update();
    if (turn.state === "failed") view.fail(asFailure(failure), (n) => this.again(turn, view, n), tries);
    else announce(turn.state === "stopped" ? "Stopped." : "The answer is complete.");
    showSources(turn);
    this.save();
  }

  again(turn, view, tries) {
    if (!this.running) this.run(turn, view, tries);
  }

  busy(yes) {
    this.send.hidden = yes;
    this.stopper.hidden = !yes;
    this.root.setAttribute("aria-busy", String(yes));
    if (yes && document.activeElement === this.send) this.stopper.focus();
    if (!yes && document.activeElement === document.body) this.box.focus({ preventScroll: true });
  }

  stop() {
    this.running?.abort();
  }

  restart() {
    this.stop();
    this.turns = [];
    this.views = [];
    this.list.replaceChildren();
    byId("side").hidden = true;
    this.save();
    this.settle();
    this.box.focus();
    announce("New conversation.");
  }

  save() {
    keep(this.key, this.turns.slice(-KEPT_TURNS).map((turn) => ({ ...turn, attribution: undefined })));
  }
}

function receive(turn, view, chunk) {
  const choice = (chunk.choices || [])[0] || {};
  const delta = choice.delta || {};
  const extra = chunk.hiperrag || {};
  if (chunk.search_results) {
    turn.sources = chunk.search_results;
    turn.state = "writing";
    showSources(turn);
  }
  if (extra.draft) turn.draft += extra.draft;
  if (delta.content) {
    const text = delta.content.trim();
    if (text) {
      turn.sentences.push(text);
      announce(text.replace(/\[[\d, ]+\]/g, ""));
    }
    turn.draft = turn.draft.slice(endOfSentences(turn.draft));
  }
  if (chunk.citations) turn.citations = chunk.citations;
  if (extra.timings_ms || extra.mode || extra.shards) Object.assign(turn.meta, extra);
  if (extra.notes) turn.notes = extra.notes;
  if (chunk.attribution) turn.attribution = chunk.attribution;
  view.update();
}

// A sentence is checked once the next has begun, so that the draft may hold the next one's first words.
function endOfSentences(draft) {
  const last = [...draft.matchAll(/[.!?]["”')]*(?:\s*\[[\d, ]+\])*\s+/g)].pop();
  return last ? last.index + last[0].length : draft.length;
}

function asFailure(error) {
  if (error instanceof Failure) return error;
  return new Failure("broken", "The answer could not be read.");
}

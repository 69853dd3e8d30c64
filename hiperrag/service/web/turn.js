// One question and its answer: sentences with their citations, the draft that the next sentence replaces, notes.

import { attributionOf, causesPanel } from "./causes.js";
import { el, replace } from "./dom.js";
import { missingShards, showFailure } from "./notices.js";
import { openSource, showSources } from "./sources.js";

const MARKER = /\[(\d+(?:\s*,\s*\d+)*)\]/g;
const ENDED = { stopped: "Stopped.", failed: "The answer was not finished." };
const STATES = { searching: "Searching", writing: "Reading the passages" };

export class TurnView {
  constructor(turn) {
    this.turn = turn;
    this.question = el("h2", { class: "question" }, turn.question);
    this.rewritten = el("p", { class: "rewritten", hidden: true });
    this.answer = el("div", { class: "answer" });
    this.draft = el("span", { class: "draft", "aria-hidden": "true" });
    this.status = el("p", { class: "status" });
    this.failure = el("div", { hidden: true });
    this.notes = el("div", { class: "notes" });
    this.causes = el("div", { class: "causes-place" });
    this.root = el("article", { class: "turn" }, this.question, this.rewritten, this.answer, this.causes, this.status,
      this.failure, this.notes);
    this.root.addEventListener("focusin", () => showSources(turn, { quietly: true }));
    this.restart();
    this.update();
  }

  restart() {
    this.written = 0;
    this.answer.replaceChildren(this.draft);
    this.causes.replaceChildren();
    this.notes.replaceChildren();
    this.failure.hidden = true;
    this.cancel?.();
  }

  update() {
    const { turn } = this;
    while (this.written < turn.sentences.length) {
      this.draft.before(this.sentence(turn.sentences[this.written], this.written), " ");
      this.written += 1;
    }
    this.draft.textContent = turn.draft;
    this.draft.classList.toggle("pending", turn.state === "writing" && turn.sentences.length > 0 && !turn.draft);
    const waiting = STATES[turn.state] && !(turn.state === "writing" && (turn.draft || turn.sentences.length));
    this.status.hidden = !waiting && !ENDED[turn.state];
    replace(this.status, waiting ? [el("span", { class: "dots" }), STATES[turn.state]] : ENDED[turn.state]);
    const finished = turn.state === "done" || turn.state === "stopped" || turn.state === "failed";
    this.answer.classList.toggle("finished", finished);
    this.answer.setAttribute("aria-busy", String(!finished));
    for (const button of this.answer.querySelectorAll(".why")) button.hidden = turn.state !== "done" || !turn.sources.length;
    this.answer.hidden = !turn.sentences.length && !turn.draft;
    if (finished) this.finish();
  }

  finish() {
    const { turn } = this;
    const asked = turn.meta.question;
    this.rewritten.hidden = !asked || asked.trim() === turn.question.trim();
    replace(this.rewritten, "Searched for: ", el("q", {}, asked || ""));
    const missing = missingShards(turn.meta.shards);
    const lines = [
      missing && el("p", { class: "notice warn" }, `${missing}: passages held there were not searched.`),
      turn.notes.map((note) => el("p", {}, note)),
      turn.state === "done" && el("p", { class: "made" }, how(turn)),
    ];
    replace(this.notes, lines);
    this.answer.classList.toggle("unsupported", turn.meta.supported === false);
  }

  fail(failure, retry, tries) {
    this.status.hidden = true;
    this.cancel = showFailure(this.failure, failure, retry, tries);
  }

  sentence(text, index) {
    const parts = [];
    let at = 0;
    for (const match of text.matchAll(MARKER)) {
      const numbers = match[1].split(",").map(Number);
      if (!numbers.every((n) => n >= 1 && n <= this.turn.sources.length)) continue;
      parts.push(text.slice(at, match.index).trimEnd(), numbers.map((n) => this.cite(n)));
      at = match.index + match[0].length;
    }
    const why = el("button", {
      type: "button", class: "why", hidden: true, "aria-expanded": "false",
      "aria-label": `Which passage caused sentence ${index + 1}?`, title: "Which passage caused this sentence?",
      onclick: () => this.explain(index, why, span),
    }, "why?");
    const span = el("span", { class: "sentence" }, unbroken(parts, text.slice(at), why));
    return span;
  }

  cite(n) {
    const source = this.turn.sources[n - 1];
    return el("button", {
      type: "button", class: "cite", dataset: { n: String(n) }, "aria-label": `Source ${n}: ${source.title || source.document}`,
      title: source.title || source.document,
      onclick: (event) => openSource(this.turn, n, event.currentTarget),
    }, String(n));
  }

  async explain(index, button, span) {
    const wasOpen = button.getAttribute("aria-expanded") === "true";
    for (const other of this.answer.querySelectorAll(".why")) other.setAttribute("aria-expanded", "false");
    for (const other of this.answer.querySelectorAll(".asked")) other.classList.remove("asked");
    this.causes.replaceChildren();
    if (wasOpen) return;
    button.setAttribute("aria-expanded", "true");
    span.classList.add("asked");
    const box = el("section", { class: "causes", "aria-label": "Which passage caused this sentence?", "aria-live": "polite" });
    this.causes.append(box);
    const close = () => this.explain(index, button, span).then(() => button.focus());
    await this.fillCauses(box, index, close);
  }

  async fillCauses(box, index, close, tries = 0) {
    replace(box, el("p", { class: "status" }, el("span", { class: "dots" }), "Reading the answer again without each passage"));
    try {
      const found = await attributionOf(this.turn);
      const sentence = found.sentences[index];
      if (box.isConnected) replace(box, causesPanel(this.turn, sentence, close));
    } catch (error) {
      if (!box.isConnected) return;
      const note = el("div");
      replace(box, note, el("button", { type: "button", class: "small quiet", onclick: close }, "Close"));
      showFailure(note, error, (n) => this.fillCauses(box, index, close, n), tries);
    }
  }
}

// The parts of a sentence, its last word kept on one line with the citations, full stop and button that follow it.
function unbroken(parts, rest, why) {
  if (rest.length > 2 || parts.length < 2) return [parts, rest, why];
  const before = parts[parts.length - 2];
  const cut = before.lastIndexOf(" ") + 1;
  const tail = el("span", { class: "tail" }, before.slice(cut), parts[parts.length - 1], rest, why);
  return [parts.slice(0, -2), before.slice(0, cut), tail];
}

function how(turn) {
  const { meta } = turn;
  const parts = [];
  if (meta.mode === "quoted") parts.push("sentences quoted from the passages");
  if (meta.mode === "written") parts.push("written by the generator, each sentence checked");
  const total = (meta.timings_ms?.total || 0) + (meta.timings_ms?.answer_total || 0);
  if (total > 0) parts.push(`${(total / 1000).toFixed(1)} s`);
  const cited = new Set(turn.citations.map((one) => one.n)).size;
  if (cited) parts.push(`${cited} of ${turn.sources.length} passages cited`);
  return parts.join(" · ");
}


// Which passage caused this sentence: bars of how much less likely it is without each passage.

import { postJson } from "./api.js";
import { barOf, el, titleOf } from "./dom.js";
import { openSource, supportsOf } from "./sources.js";

const SHOWN = 6;
const UNSURE = [0.5, 1.2, 2.5];

export function attributionOf(turn) {
  if (!turn.attribution) {
    turn.attribution = postJson("v1/attributions", {
      model: turn.model,
      question: turn.meta.question || turn.question,
      answer: turn.sentences,
      passages: turn.sources.map((source) => source.passage_id),
    });
    turn.attribution.catch?.(() => { turn.attribution = undefined; });
  }
  return Promise.resolve(turn.attribution);
}

export function causesPanel(turn, sentence, close) {
  if (!sentence) return [el("p", {}, "The generator's answer has no such sentence any more.")];
  const causes = sentence.causes || (sentence.passages || []).map((one) => ({ ns: [one.n], effect: one.effect }))
    .sort((a, b) => b.effect - a.effect);
  const largest = Math.max(...causes.map((cause) => Math.abs(cause.effect)), 1e-6);
  const gain = sentence.log_p - sentence.log_p_no_context;
  const rows = causes.slice(0, SHOWN).map((cause) => causeRow(turn, cause, largest));
  return [
    el("div", { class: "row" }, el("h3", {}, "Which passage caused this sentence?"),
      el("button", { type: "button", class: "small quiet", onclick: close }, "Close")),
    el("p", { class: "soft" }, "How much less likely the generator finds the sentence without the passage, in nats."),
    el("ol", { class: "bars" }, rows),
    causes.length > SHOWN && el("p", { class: "soft" }, `${causes.length - SHOWN} more passages have less effect.`),
    Number.isFinite(gain) && el("p", { class: "soft" }, `All passages together: ${signed(gain)} nats over no passage at all.`),
    tokens(sentence.tokens || []),
  ];
}

function causeRow(turn, cause, largest) {
  const together = cause.ns.length > 1;
  const sources = cause.ns.map((n) => turn.sources[n - 1]).filter(Boolean);
  const [first] = cause.ns;
  const names = together ? "say the same: left out together"
    : supportsOf(turn, first)[0] || sources[0]?.text || sources.map(titleOf).join("; ");
  const bar = barOf(cause.effect / largest, `${signed(cause.effect)} nats`);
  return el("li", {},
    el("span", { class: "ns" }, cause.ns.map((n) => el("button", {
      type: "button", class: "cite", "aria-label": `Source ${n}`, onclick: (event) => openSource(turn, n, event.currentTarget),
    }, String(n)))),
    el("span", { class: "what", title: names }, names), bar, el("span", { class: "figure" }, signed(cause.effect)));
}

// The sentence as the generator read it, shaded where it was unsure of a token.
function tokens(list) {
  if (!list.length) return null;
  const spans = list.map((token) => {
    const unsure = token.entropy ?? -token.log_p;
    const level = UNSURE.filter((bound) => unsure >= bound).length;
    const told = token.entropy === null || token.entropy === undefined
      ? `log p ${token.log_p.toFixed(2)}` : `entropy ${token.entropy.toFixed(2)}, log p ${token.log_p.toFixed(2)}`;
    return el("span", { class: `u${level}`, title: `${told} nats` }, token.text);
  });
  return el("details", {}, el("summary", {}, "Where the generator was unsure"), el("p", { class: "tokens" }, spans));
}

const signed = (value) => `${value >= 0 ? "+" : "−"}${Math.abs(value).toFixed(1)}`;

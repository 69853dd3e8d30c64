// What is in the collection.

import { Failure } from "./api.js";
import { barOf, counted, el, replace } from "./dom.js";
import { missingShards, showFailure } from "./notices.js";
import { app, factsOf, forgetFacts, modelName } from "./state.js";

export class Facts {
  constructor(name) {
    this.name = name;
    this.root = el("section", { class: "facts", "aria-label": "Collection" });
  }

  shown() {
    forgetFacts();
    this.load();
  }

  focus() {}

  async load(tries = 0) {
    replace(this.root, el("p", { class: "status" }, el("span", { class: "dots" }), "Reading the collection"));
    try {
      replace(this.root, content(this.name, await factsOf(this.name)));
    } catch (error) {
      const box = el("div");
      replace(this.root, box);
      showFailure(box, error instanceof Failure ? error : new Failure("refused", "The collection's facts cannot be shown."),
        (n) => this.load(n), tries);
    }
  }
}

function content(name, facts) {
  const { counts } = facts;
  const missing = missingShards(facts.shards);
  return [
    el("h1", {}, name),
    missing && el("p", { class: "notice warn", role: "status" }, `${missing}: answers may lack the passages held there.`),
    facts.shards.problem && el("p", { class: "notice warn" }, facts.shards.problem),
    el("dl", { class: "figures" },
      figure("documents", facts.documents), figure("pages", counts.pages), figure("passages", counts.passages),
      figure("token vectors", counts.tokens)),
    el("div", { class: "columns" },
      el("section", {}, el("h2", {}, "Kinds of passages"), bars(Object.entries(facts.kinds))),
      el("section", {}, el("h2", {}, "Index"), table([
        ["Encoder", facts.encoder.name],
        ["Dimensions", facts.encoder.dim],
        ["Longest passage", `${facts.encoder.max_tokens} tokens`],
        ["Vectors", sized(counts.bytes)],
        ["Text and words", sized(counts.text_bytes)],
        ["Shards", `${facts.shards.open} of ${facts.shards.total} open`],
        ["Written by", facts.written_by],
      ])),
      facts.fields.length > 0 && el("section", {}, el("h2", {}, "Fields to filter by"), fields(facts.fields)),
      el("section", {}, el("h2", {}, "Not in the collection"), quarantine(facts)),
      el("section", { class: "whole" }, el("h2", {}, "From programs"), programs()),
    ),
  ];
}

const figure = (name, value) => el("div", {}, el("dt", {}, name), el("dd", {}, Number(value).toLocaleString("en")));

function table(rows) {
  return el("table", { class: "plain" }, el("tbody", {}, rows.map(([name, value]) => el("tr", {}, el("th", { scope: "row" }, name), el("td", {}, value)))));
}

function bars(entries) {
  const largest = Math.max(...entries.map(([, n]) => n), 1);
  return el("ul", { class: "kinds" }, entries.map(([kind, n]) => el("li", {},
    el("span", {}, kind), barOf(n / largest), el("span", { class: "figure" }, n.toLocaleString("en")))));
}

function fields(list) {
  return el("table", { class: "plain" }, el("tbody", {}, list.map((field) => el("tr", {}, el("th", { scope: "row" }, el("code", {}, field.name)), el("td", {}, values(field))))));
}

function values(field) {
  if (field.type === "number") return field.min === field.max ? String(field.min) : `${field.min} to ${field.max}`;
  if (field.type === "boolean") return "true or false";
  const some = field.values.slice(0, 4).map((one) => one.value).join(", ");
  return field.distinct > 4 ? `${some}, … (${field.distinct} values)` : some;
}

function quarantine(facts) {
  const total = facts.counts.quarantined;
  const twins = facts.duplicates ? el("p", { class: "soft" }, `${counted(facts.duplicates, "file")} left out as equal to another.`) : null;
  if (!total) return [el("p", { class: "soft" }, "Every input could be read."), twins];
  return [
    el("p", { class: "soft" }, `${counted(total, "input")} could not be read: `, Object.entries(facts.quarantine_by_reason).map(([why, n]) => `${why} ${n}`).join(", "), "."),
    el("details", {}, el("summary", {}, "Which"), el("ul", { class: "names" }, facts.quarantine.map((entry) => el("li", {}, entry.name, el("span", { class: "soft" }, ` ${entry.error}`))))),
    twins,
  ];
}

function programs() {
  const base = new URL("v1", document.baseURI).href;
  const code = `from openai import OpenAI\n\nclient = OpenAI(base_url="${base}", api_key="KEY")\nreply = client.chat.completions.create(\n    model="${modelName()}",\n    messages=[{"role": "user", "content": "…"}],\n)`;
  const copy = el("button", { type: "button", class: "small quiet", onclick: async () => {
    await navigator.clipboard.writeText(code);
    copy.textContent = "Copied";
  } }, "Copy");
  return [el("p", { class: "soft" }, "The service speaks OpenAI's API; ", el("code", {}, modelName()), app.collections.length > 1 ? " is this collection's model." : " is the model."),
    el("div", { class: "code" }, el("pre", { tabindex: "0" }, code), copy)];
}

function sized(bytes) {
  const units = ["bytes", "kB", "MB", "GB", "TB"];
  let value = bytes;
  let unit = 0;
  while (value >= 1000 && unit < units.length - 1) {
    value /= 1000;
    unit += 1;
  }
  return `${unit ? value.toFixed(value < 10 ? 1 : 0) : value} ${units[unit]}`;
}

// How to search, and in what: the same fields for asking and for searching.

import { el } from "./dom.js";
import { factsOf, keep, kept } from "./state.js";

const MOST_VALUES = 60;

// A fieldset for the collection `name`; `settings()` gives {quality, hybrid, where, k}, `count()` how many are set.
export function makeFilters(name, { ks, k, onchange }) {
  const key = `hiperrag-filters-${ks.join("-")}-${name}`;
  const saved = kept(key) || {};
  const prefix = `f${Math.random().toString(36).slice(2, 8)}`;
  const kinds = el("div", { class: "chips", role: "group", "aria-label": "Kinds of passages" });
  const fields = el("div", { class: "fields" });
  const years = el("div", { class: "pair", hidden: true });
  const from = number(`${prefix}-from`, saved.from);
  const to = number(`${prefix}-to`, saved.to);
  years.append(label("From year", from), label("to", to));
  const where = el("input", {
    type: "text", id: `${prefix}-where`, value: saved.where || "", spellcheck: "false", autocapitalize: "off",
    autocomplete: "off", placeholder: "contains(section, 'Methods') and page <= 3",
  });
  const hybrid = el("input", { type: "checkbox", id: `${prefix}-hybrid` });
  hybrid.checked = Boolean(saved.hybrid);
  const quality = choice(`${prefix}-quality`, [
    ["fast", "fast"], ["balanced", "balanced"], ["exact", "exact"],
  ], saved.quality || "balanced");
  const many = choice(`${prefix}-k`, ks.map((one) => [String(one), String(one)]), String(saved.k || k));
  const shown = el("output", { class: "condition" });
  const ending = el("div", { class: "ending", hidden: true }, shown,
    el("button", { type: "button", class: "small quiet", onclick: clear }, "Clear"));
  const root = el("div", { class: "filters" },
    kinds, years, fields,
    el("div", { class: "field grow" }, el("label", { for: where.id }, "Condition"), where),
    el("div", { class: "line" },
      label("Passages", many), label("Search", quality),
      el("label", { class: "check", for: hybrid.id }, hybrid, "with the words themselves (BM25)")),
    ending,
  );
  root.addEventListener("input", changed);
  factsOf(name).then(fill, () => {});

  function fill(facts) {
    const offered = Object.entries(facts.kinds || {});
    kinds.replaceChildren(...offered.map(([kind, n]) => {
      const box = el("input", { type: "checkbox", value: kind, id: `${prefix}-kind-${kind}` });
      box.checked = (saved.kinds || []).includes(kind);
      return el("label", { class: "chip", for: box.id }, box, el("span", {}, kind, el("small", {}, ` ${n}`)));
    }));
    const known = facts.fields || [];
    const year = known.find((field) => field.name === "year" && field.type === "number");
    if (year) {
      years.hidden = false;
      from.placeholder = String(year.min ?? "");
      to.placeholder = String(year.max ?? "");
    }
    const selectable = known.filter((field) => field.type === "text" && field.distinct > 1
      && field.distinct <= field.values.length && field.values.every((one) => one.value.length <= MOST_VALUES));
    fields.replaceChildren(...selectable.slice(0, 6).map((field) => {
      const options = [["", "any"], ...field.values.map((one) => [one.value, `${one.value} (${one.passages})`])];
      const box = choice(`${prefix}-field-${field.name}`, options, (saved.fields || {})[field.name] || "");
      box.dataset.field = field.name;
      return label(field.name, box);
    }));
    changed();
  }

  function state() {
    const chosen = {};
    for (const box of fields.querySelectorAll("select")) if (box.value) chosen[box.dataset.field] = box.value;
    return {
      kinds: [...kinds.querySelectorAll("input:checked")].map((box) => box.value),
      from: from.value.trim(), to: to.value.trim(), fields: chosen, where: where.value.trim(),
      hybrid: hybrid.checked, quality: quality.value, k: Number(many.value),
    };
  }

  function changed() {
    keep(key, state());
    const condition = conditionOf(state());
    shown.textContent = condition ? `Only passages with ${condition}` : "";
    ending.hidden = !condition && !hybrid.checked;
    onchange?.();
  }

  function clear() {
    for (const box of root.querySelectorAll("input")) {
      if (box.type === "checkbox") box.checked = false;
      else box.value = "";
    }
    for (const box of fields.querySelectorAll("select")) box.value = "";
    quality.value = "balanced";
    many.value = String(k);
    changed();
  }

  return {
    root,
    settings() {
      const now = state();
      const asked = { k: now.k, quality: now.quality, hybrid: now.hybrid };
      const condition = conditionOf(now);
      if (condition) asked.where = condition;
      return asked;
    },
    count() {
      const now = state();
      return now.kinds.length + Object.keys(now.fields).length + [now.from, now.to, now.where, now.hybrid].filter(Boolean).length;
    },
  };
}

// The filter expression (docs/searching.md) of what is chosen, "" for none.
export function conditionOf({ kinds, from, to, fields, where }) {
  const parts = [];
  if (kinds.length === 1) parts.push(`kind == ${quoted(kinds[0])}`);
  if (kinds.length > 1) parts.push(`kind in (${kinds.map(quoted).join(", ")})`);
  if (from) parts.push(`year >= ${Number(from)}`);
  if (to) parts.push(`year <= ${Number(to)}`);
  for (const [field, value] of Object.entries(fields)) parts.push(`${named(field)} == ${quoted(value)}`);
  if (where) parts.push(parts.length ? `(${where})` : where);
  return parts.join(" and ");
}

const quoted = (text) => `'${text.replace(/[\\']/g, "\\$&")}'`;
const named = (field) => (/^[A-Za-z_]\w*$/.test(field) ? field : `\`${field}\``);

function number(id, value) {
  return el("input", { type: "number", id, class: "year", value: value || "", step: "1", inputmode: "numeric" });
}

function choice(id, options, chosen) {
  const box = el("select", { id }, options.map(([value, text]) => el("option", { value }, text)));
  box.value = options.some(([value]) => value === chosen) ? chosen : options[0][0];
  return box;
}

function label(text, box) {
  return el("div", { class: "field" }, el("label", { for: box.id }, text), box);
}

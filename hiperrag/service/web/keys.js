// The keyboard: shortcuts that work wherever no text is being written.

import { byId, el, replace } from "./dom.js";
import { closeReader, readerIsOpen, stepReader } from "./reader.js";
import { compareSources, currentTurn, openSource } from "./sources.js";

const SHORTCUTS = [
  ["/", "Go to the question or the search box"],
  ["Enter", "Ask; Shift+Enter begins a new line"],
  ["1 … 9", "Open source 1 … 9 of the answer"],
  ["← →", "Source before, source after"],
  ["↑ ↓", "From source to source in a list"],
  ["b", "Cited sources side by side"],
  ["Esc", "Close the source; stop the answer"],
  ["t", "Colours: automatic, light, dark"],
  ["?", "This list"],
];

export function listenForKeys({ view, switchTheme }) {
  byId("help-button").addEventListener("click", showHelp);
  document.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return;
    if (document.querySelector("dialog[open]")) return;
    if (event.key === "Escape") return escape(view());
    if (isWriting(event.target)) return;
    const act = actionOf(event.key, view(), switchTheme);
    if (act) {
      event.preventDefault();
      act();
    }
  });
}

function actionOf(key, view, switchTheme) {
  if (key === "/") return () => view?.focus();
  if (key === "?") return showHelp;
  if (key === "t") return switchTheme;
  if (key === "b" && currentTurn()) return () => compareSources();
  if ((key === "ArrowLeft" || key === "ArrowRight") && readerIsOpen()) return () => stepReader(key === "ArrowRight" ? 1 : -1);
  if (/^[1-9]$/.test(key)) {
    const turn = currentTurn();
    if (turn) return () => openSource(turn, Number(key), null);
    if (view?.open) return () => view.open(Number(key), null);
  }
  return null;
}

function escape(view) {
  if (readerIsOpen()) closeReader();
  else if (view?.running) view.stop();
  else if (isWriting(document.activeElement)) document.activeElement.blur();
}

function isWriting(target) {
  return target.matches?.("input:not([type=checkbox]), textarea, select") || target.isContentEditable;
}

function showHelp() {
  const dialog = byId("help");
  replace(dialog, el("div", { class: "dialoghead" }, el("h2", { id: "help-title" }, "Keys"),
    el("button", { type: "button", class: "small quiet", onclick: () => dialog.close() }, "Close")),
  el("dl", { class: "keys" }, SHORTCUTS.map(([key, what]) => [el("dt", {}, el("kbd", {}, key)), el("dd", {}, what)])));
  dialog.showModal();
}

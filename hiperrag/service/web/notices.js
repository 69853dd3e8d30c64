// What went wrong or is missing, in words, and the countdown to the next try.

import { announce, byId, counted, el, replace } from "./dom.js";

const MAX_TRIES = 5;

// Fills `box` with the failure; where another try makes sense, counts down to it. `tries` counts those made so far.
export function showFailure(box, failure, retry, tries = 0) {
  box.hidden = false;
  box.className = `notice ${failure.kind === "busy" ? "warn" : "bad"}`;
  box.setAttribute("role", failure.kind === "busy" ? "status" : "alert");
  let timer = 0;
  const again = retry && el("button", { type: "button", class: "small", onclick: () => start() }, "Try again");
  const waits = retry && tries < MAX_TRIES && (failure.kind === "busy" || failure.kind === "lost");
  if (!waits) {
    replace(box, el("p", {}, sentence(failure.message)), again);
    return () => {};
  }
  const seconds = Math.max(1, Math.ceil(failure.kind === "lost" ? 3 * (tries + 1) : failure.seconds));
  let left = seconds;
  const clock = el("span", { class: "clock" });
  const stop = el("button", { type: "button", class: "small quiet", onclick: () => cancel() }, "Stop trying");
  const tell = () => replace(clock, ` Trying again in ${left} s.`);
  tell();
  replace(box, el("p", {}, sentence(failure.message), clock), el("div", { class: "row" }, again, stop));
  announce(`${sentence(failure.message)} Trying again in ${seconds} seconds.`);
  timer = setInterval(() => {
    left -= 1;
    if (left <= 0) start();
    else tell();
  }, 1000);
  function cancel() {
    clearInterval(timer);
    replace(clock);
    stop.remove();
  }
  function start() {
    clearInterval(timer);
    box.hidden = true;
    box.replaceChildren();
    retry(tries + 1);
  }
  return cancel;
}

function sentence(message) {
  const text = String(message || "Something went wrong").trim();
  const capital = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?…]$/.test(capital) ? capital : `${capital}.`;
}

// "2 of 5 shards missing", or "" where nothing is.
export function missingShards(shards) {
  if (!shards) return "";
  const named = Array.isArray(shards.missing) ? shards.missing.length : Number(shards.missing || 0);
  const missing = Math.max(named, Number(shards.total || 0) - Number(shards.open ?? shards.total ?? 0));
  return missing > 0 ? `${missing} of ${counted(shards.total, "shard")} missing` : "";
}

export function showBanner(text) {
  const banner = byId("banner");
  banner.hidden = !text;
  replace(banner, text);
}

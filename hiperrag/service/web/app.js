// The page: which view is shown, for which collection; keys, colours, and the state of the connection.

import { Failure, getJson } from "./api.js";
import { Conversation } from "./ask.js";
import { byId, el, replace } from "./dom.js";
import { Facts } from "./facts.js";
import { listenForKeys } from "./keys.js";
import { missingShards, showBanner, showFailure } from "./notices.js";
import { closeReader, openReader } from "./reader.js";
import { Search } from "./search.js";
import { forgetSources } from "./sources.js";
import { app } from "./state.js";

const VIEWS = { ask: ["Ask", Conversation], search: ["Search", Search], facts: ["Collection", Facts] };
const THEMES = { system: "light", light: "dark", dark: "system" };
const THEME_NAMES = { system: "Auto", light: "Light", dark: "Dark" };
const POLL_MS = 30_000;

const views = new Map();
let shown = null;

// "#/NAME", "#/NAME/search", "#/NAME/facts", "#/NAME/passages/ID?page=N"
function route() {
  const [path, query] = location.hash.replace(/^#\/?/, "").split("?");
  const [name, what, id] = path.split("/").map(decoded);
  const known = app.collections.some((one) => one.id === name);
  const page = Number(new URLSearchParams(query || "").get("page")) || 0;
  return { name: known ? name : app.collections[0]?.id, what: VIEWS[what] ? what : "ask", passage: known && what === "passages" ? id : "", page };
}

function decoded(step) {
  try {
    return decodeURIComponent(step);
  } catch {
    return "";
  }
}

function show() {
  const wanted = route();
  if (!wanted.name) return;
  app.name = wanted.name;
  const key = `${wanted.what}/${wanted.name}`;
  if (!views.has(key)) views.set(key, new VIEWS[wanted.what][1](wanted.name));
  if (shown !== views.get(key)) {
    closeReader({ restore: false });
    forgetSources();
    byId("side").hidden = true;
    byId("frame").classList.remove("beside", "reading");
    shown = views.get(key);
    replace(byId("main"), shown.root);
    shown.shown();
  }
  drawTabs(wanted);
  document.title = `${VIEWS[wanted.what][0]} · ${wanted.name} · HiPerRAG`;
  if (wanted.passage) {
    const source = { passage_id: wanted.passage, document: "", title: "Passage", pages: [], text: "" };
    openReader({ collection: wanted.name, source, n: 0, supports: [], page: wanted.page });
  }
}

function drawTabs({ name, what }) {
  replace(byId("tabs"), Object.entries(VIEWS).map(([key, [title]]) => el("a", {
    href: `#/${encodeURIComponent(name)}${key === "ask" ? "" : `/${key}`}`, "aria-current": key === what ? "page" : null,
  }, title)));
  const chooser = byId("chooser");
  if (app.collections.length < 2) return replace(chooser, el("span", { class: "only" }, name));
  const box = el("select", { id: "collection", "aria-label": "Collection", onchange: () => {
    location.hash = `#/${encodeURIComponent(box.value)}${what === "ask" ? "" : `/${what}`}`;
  } }, app.collections.map((one) => el("option", { value: one.id }, one.id)));
  box.value = name;
  return replace(chooser, box);
}

async function start(tries = 0) {
  try {
    const served = await getJson("v1/collections");
    app.collections = served.data;
    byId("logout").hidden = !served.signed_in;
  } catch (error) {
    const box = el("div");
    replace(byId("main"), el("section", { class: "welcome" }, box));
    showFailure(box, error instanceof Failure ? error : new Failure("refused", "The page could not be started."), start, tries);
    return;
  }
  if (!app.collections.length) {
    replace(byId("main"), el("p", { class: "empty" }, "Your key opens none of the collections that are served here."));
    return;
  }
  show();
  if (!matchMedia("(pointer: coarse)").matches) shown?.focus();
  watch();
}

// Whether the service can be reached, and whether all shards of the collection answer.
async function look() {
  if (document.hidden) return;
  try {
    app.collections = (await getJson("v1/collections")).data;
    const missing = missingShards(app.collections.find((one) => one.id === app.name)?.shards);
    showBanner(missing && `${missing}: passages held there are not found at the moment.`);
  } catch (error) {
    if (error.kind === "lost") showBanner("The connection to the service is lost.");
  }
}

function watch() {
  look();
  setInterval(look, POLL_MS);
  window.addEventListener("online", look);
  window.addEventListener("offline", () => showBanner("This computer is offline."));
  document.addEventListener("visibilitychange", look);
}

function drawTheme() {
  const now = document.documentElement.dataset.theme;
  const button = byId("theme-switch");
  button.textContent = THEME_NAMES[now] || THEME_NAMES.system;
  button.setAttribute("aria-label", `Colours: ${THEME_NAMES[now]}. Change`);
  button.title = "Colours: as the system has them, light, or dark";
}

function switchTheme() {
  const next = THEMES[document.documentElement.dataset.theme] || "system";
  document.documentElement.dataset.theme = next;
  try {
    localStorage.setItem("hiperrag-theme", next);
  } catch { /* it lasts as long as the page */ }
  drawTheme();
}

drawTheme();
byId("theme-switch").addEventListener("click", switchTheme);
byId("skip").addEventListener("click", (event) => {
  event.preventDefault();
  byId("main").focus();
});
window.addEventListener("hashchange", show);
listenForKeys({ view: () => shown, switchTheme });
start();

// What all views share.

import { getJson, enc } from "./api.js";

export const app = {
  collections: [],
  name: "",
};

const facts = new Map();

export function modelName() {
  const chosen = app.collections.find((one) => one.id === app.name);
  return chosen?.model || `hiperrag/${app.name}`;
}

export function factsOf(name) {
  if (!facts.has(name)) {
    const asked = getJson(`v1/collections/${enc(name)}`);
    asked.catch(() => facts.delete(name));
    facts.set(name, asked);
  }
  return facts.get(name);
}

export function forgetFacts() {
  facts.clear();
}

export function kept(key) {
  try {
    return JSON.parse(sessionStorage.getItem(key));
  } catch {
    return null;
  }
}

export function keep(key, value) {
  try {
    sessionStorage.setItem(key, JSON.stringify(value));
  } catch { /* storage is full or forbidden: the page works without */ }
}

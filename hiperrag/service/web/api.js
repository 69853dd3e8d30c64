// The service's HTTP interface: JSON calls, the stream of an answer, and what went wrong, in words.

const SILENCE_MS = 90_000;

export class Failure extends Error {
  // kind: "busy" (try again after `seconds`), "lost" (no connection), "broken" (stopped in mid-answer), "refused"
  constructor(kind, message, { status = 0, seconds = 0 } = {}) {
    super(message);
    this.kind = kind;
    this.status = status;
    this.seconds = seconds;
  }
}

const at = (path) => new URL(path, document.baseURI);
export const enc = encodeURIComponent;

async function call(path, options = {}) {
  let response;
  try {
    response = await fetch(at(path), { credentials: "same-origin", ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failure("lost", "The service cannot be reached.");
  }
  if (response.ok) return response;
  if (response.status === 401) {
    location.assign(at(`login${location.hash}`));
    throw new Failure("refused", "You are logged out.", { status: 401 });
  }
  throw await failureOf(response);
}

async function failureOf(response) {
  const status = response.status;
  let message = "";
  try {
    message = (await response.json()).error.message;
  } catch { /* not from the service itself, but from a proxy */ }
  const wait = Number(response.headers.get("Retry-After"));
  if (status === 429 || status === 502 || status === 503 || status === 504) {
    const told = message || (status === 429 ? "Too many requests." : "The service is busy.");
    return new Failure("busy", told, { status, seconds: wait > 0 ? Math.min(wait, 600) : 5 });
  }
  return new Failure("refused", message || `The service answered with status ${status}.`, { status });
}

export async function getJson(path, signal) {
  return (await call(path, { signal })).json();
}

export async function postJson(path, body, signal) {
  return (await call(path, posted(body, signal))).json();
}

export async function getPicture(path, signal) {
  const response = await call(path, { signal });
  return { blob: await response.blob(), drawnFrom: response.headers.get("X-Page-Drawn-From") || "source" };
}

function posted(body, signal) {
  return { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body), signal };
}

// Calls onChunk with every object of an OpenAI-style stream; resolves at [DONE].
export async function streamJson(path, body, signal, onChunk) {
  const response = await call(path, posted(body, signal));
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await nextPiece(reader, signal);
    if (done) throw new Failure("broken", "The connection was lost before the answer was finished.");
    const lines = (rest + value).split(/\r?\n/);
    rest = lines.pop();
    for (const line of lines) {
      if (!line.startsWith("data:")) continue;
      const data = line.slice(5).trim();
      if (data === "[DONE]") return;
      const chunk = JSON.parse(data);
      if (chunk.error) throw streamFailure(chunk.error);
      onChunk(chunk);
    }
  }
}

function streamFailure(error) {
  const seconds = Number(error.retry_after || 0);
  if (seconds > 0) return new Failure("busy", error.message, { seconds: Math.min(seconds, 600) });
  return new Failure("broken", error.message || "The answer broke off.");
}

async function nextPiece(reader, signal) {
  let timer;
  const silent = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Failure("broken", "The service has fallen silent.")), SILENCE_MS);
  });
  try {
    return await Promise.race([reader.read(), silent]);
  } catch (error) {
    if (error instanceof Failure) reader.cancel().catch(() => {});
    if (error instanceof Failure || signal?.aborted) throw error;
    throw new Failure("broken", "The connection was lost before the answer was finished.");
  } finally {
    clearTimeout(timer);
  }
}

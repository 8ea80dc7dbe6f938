// Requests to this server, with the key of the tab where the server has keys.

const KEY = "tandem-key";

export const keys = {
  get: () => sessionStorage.getItem(KEY),
  set: (key) => sessionStorage.setItem(KEY, key),
  forget: () => sessionStorage.removeItem(KEY),
};

/** Asks a person for a key; set by app.js. Resolves to true where there is a new one. */
let ask = async () => false;
let asking = null;

export function askKeysBy(dialog) {
  ask = dialog;
}

export class ApiError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** fetch, with the key; a refused key is asked for, once for all requests that wait. */
export async function request(path, options = {}) {
  for (;;) {
    const key = keys.get();
    const headers = { ...options.headers, ...(key ? { authorization: `Bearer ${key}` } : {}) };
    const response = await named(fetch(path, { ...options, headers }), "The server does not answer.");
    if (response.ok) return response;
    const error = new ApiError(response.status, await messageOf(response));
    if (response.status !== 401) throw error;
    if (keys.get() !== key) continue; // Another request got a new one meanwhile.
    asking ??= ask(key ? error.message : "").finally(() => (asking = null));
    if (!(await asking)) throw error;
  }
}

/** `work` of the network, with an error in one wording: those of browsers differ. */
async function named(work, message) {
  try {
    return await work;
  } catch (error) {
    throw error instanceof TypeError ? new ApiError(0, message) : error;
  }
}

async function messageOf(response) {
  const text = await response.text();
  try {
    const { error } = JSON.parse(text);
    return (typeof error === "string" ? error : error?.message) || text;
  } catch {
    return text.slice(0, 300) || `The server answered ${response.status}.`;
  }
}

export async function getJSON(path, signal) {
  return (await request(path, { signal })).json();
}

export function post(path, body, options = {}) {
  return request(path, {
    method: "POST",
    ...options,
    headers: { "content-type": "application/json", ...options.headers },
    body: JSON.stringify(body),
  });
}

/** The events of a stream of server-sent events, as {event, data}. */
export async function* eventsOf(response) {
  let rest = "";
  for await (const text of texts(response.body)) {
    const blocks = (rest + text).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const event = { event: "message", data: "" };
      for (const line of block.split("\n")) {
        if (line.startsWith("data: ")) event.data += line.slice(6);
        else if (line.startsWith("event: ")) event.event = line.slice(7);
      }
      if (event.data) yield event;
    }
  }
}

async function* texts(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  try {
    for (;;) {
      const { done, value } = await named(reader.read(), "The connection to the server was lost.");
      if (done) return;
      yield value;
    }
  } finally {
    reader.cancel().catch(() => {}); // An aborted request has no reader any more.
  }
}

/** Call `work` now and every `milliseconds` until the signal aborts, never twice at a time. */
export async function repeat(work, milliseconds, signal) {
  while (!signal.aborted) {
    if (!document.hidden) await work();
    await new Promise((done) => setTimeout(done, milliseconds));
  }
}

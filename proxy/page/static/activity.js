// What the server does now, from GET /api/events, for all views. One connection for each page.

import { eventsOf, request } from "./api.js";

const HISTORY = 200;
const SMOOTHING = 0.5;

class Activity extends EventTarget {
  running = [];
  ended = [];
  inspecting = false;
  version = "";
  connection = "Connecting…";
  denied = ""; // Why the events are not shown to this key.
  #counts = new Map();

  /** Follow the events until `signal` aborts; a lost connection is tried again. */
  async follow(signal) {
    for (let wait = 500; !signal.aborted; wait = Math.min(wait * 2, 10_000)) {
      try {
        const response = await request("/api/events", { signal });
        this.denied = "";
        this.ended = [];
        this.#say("Connected");
        for await (const { event, data } of eventsOf(response)) {
          if (event === "error") break;
          this.#take(JSON.parse(data));
          wait = 500;
        }
        this.#lost("Disconnected, trying again…");
      } catch (error) {
        if (signal.aborted) return;
        const denied = error.status === 401 || error.status === 403;
        this.denied = denied ? error.message : "";
        if (denied) this.ended = [];
        this.#lost(denied ? "Not allowed" : "The server does not answer, trying again…");
        if (denied) return;
      }
      await new Promise((done) => setTimeout(done, wait));
    }
  }

  #take({ at, version, running, ended, inspecting }) {
    this.version = version;
    this.inspecting = inspecting;
    this.running = running.map((each) => ({ ...each, speed: this.#speed(each, at) }));
    this.ended = [...ended.reverse(), ...this.ended].slice(0, HISTORY);
    const ids = new Set(running.map((each) => each.request_id));
    for (const id of this.#counts.keys()) if (!ids.has(id)) this.#counts.delete(id);
    this.dispatchEvent(new Event("change"));
  }

  /** Tokens per second since the event before, smoothed. */
  #speed({ request_id: id, written }, at) {
    const before = this.#counts.get(id);
    let speed = before?.speed ?? null;
    if (before && at > before.at) {
      const now = (written - before.written) / (at - before.at);
      speed = speed === null ? now : SMOOTHING * now + (1 - SMOOTHING) * speed;
    }
    this.#counts.set(id, { at, written, speed });
    return speed;
  }

  #say(text) {
    this.connection = text;
    this.dispatchEvent(new Event("change"));
  }

  #lost(text) {
    this.running = [];
    this.#counts.clear();
    this.#say(text);
  }
}

export const activity = new Activity();

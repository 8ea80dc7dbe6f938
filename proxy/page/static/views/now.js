// What runs now: each request with its client, engine, reason, and what it waits for.

import { activity } from "../activity.js";
import { getJSON, repeat } from "../api.js";
import { Keyed, h, setText } from "../dom.js";
import { bytes, client, count, seconds, speed } from "../format.js";

const HEALTH_MS = 5000;

export function now(main, signal) {
  const summary = h("p", { class: "dim" });
  const empty = h("p", { class: "empty" });
  const list = h("ul", { class: "cards", "aria-label": "Requests in progress" });
  const backends = h("ul", { class: "cards side-by-side", "aria-label": "Backends" });
  main.append(summary, empty, list, h("h2", {}, "Backends"), backends);

  const requests = new Keyed(list, (each) => each.request_id, requestCard);
  const show = () => {
    requests.show(activity.running);
    setText(empty, activity.denied || "Nothing runs. Requests appear here while they are answered.");
    empty.hidden = activity.running.length > 0;
    list.hidden = !empty.hidden;
    setText(summary, summaryOf(activity.running));
  };
  activity.addEventListener("change", show, { signal });
  show();

  const cards = new Keyed(backends, (each) => each.name, backendCard);
  repeat(async () => {
    try {
      const health = await getJSON("/health", signal);
      cards.show(backendsOf(health));
    } catch (error) {
      if (!signal.aborted) cards.show([{ name: "Health", ok: false, detail: error.message }]);
    }
  }, HEALTH_MS, signal);
}

function summaryOf(running) {
  const writing = running.filter((each) => each.state === "writing");
  const total = writing.reduce((sum, each) => sum + (each.speed ?? 0), 0);
  const waits = running.length - writing.length;
  return `${running.length} in progress, ${waits} of them not writing yet; ${speed(total)} in all.`;
}

/** What a request waits for, in words. */
export function stateOf(run) {
  switch (run.state) {
    case "preparing":
      return "Preparing: no backend is chosen yet";
    case "queued":
      return "Queued: waits for a place on the engine";
    case "loading":
      return run.loading === null ? "Loading the model" : `Loading the model: ${Math.round(100 * run.loading)} %`;
    case "waiting":
      return `Waiting for ${run.backend}, which queues it or reads the prompt`;
    case "reading":
      return run.prompt_tokens === null
        ? "Reading the prompt"
        : `Reading ${count(run.prompt_read)} of ${count(run.prompt_tokens)} tokens`;
    default:
      return run.speed === null ? "Writing" : `Writing at ${speed(run.speed)}`;
  }
}

function progressOf(run) {
  if (run.state === "loading") return run.loading;
  if (run.state === "reading" && run.prompt_tokens) return run.prompt_read / run.prompt_tokens;
  return null;
}

function requestCard(run) {
  const badge = h("span", {});
  const elapsed = h("span", { class: "end dim number" });
  const state = h("p", { class: "said" });
  const bar = h("progress", { max: 1, "aria-label": `Progress of ${run.model}` });
  const facts = h("dl", {});
  const element = h("li", { class: "card" }, h("header", {}, h("h2", {}, run.model), badge, elapsed), state, bar, facts);
  const texts = definitions(facts, ["Client", "Why there", "Tokens", "Request"]);
  const update = (each) => {
    setText(badge, each.backend === "none" ? "no backend yet" : `${each.backend}: ${each.engine_model ?? each.model}`);
    badge.className = `badge ${each.backend}`;
    setText(elapsed, seconds(each.elapsed_s));
    setText(state, stateOf(each));
    const progress = progressOf(each);
    bar.hidden = progress === null;
    if (progress !== null) bar.value = progress;
    setText(texts.Client, `${client(each.client)}${each.key ? `, key ${each.key}` : ""}, ${each.address || "this machine"}`);
    setText(texts["Why there"], whyOf(each));
    setText(texts.Tokens, tokensOf(each));
    setText(texts.Request, `${each.path}${each.streamed ? ", streamed" : ""}, ${each.request_id}`);
  };
  return { element, update };
}

function whyOf(each) {
  const fallback = each.fallback_from ? [`Fell back from ${each.fallback_from.replace("; reason=", ": ")}.`] : [];
  return [...each.why, ...fallback].join(" ") || "–";
}

function tokensOf(each) {
  const prompt = each.prompt_tokens === null ? "prompt not counted yet" : `prompt ${count(each.prompt_tokens)}, of them ${count(each.cached_tokens)} from the cache`;
  return each.written ? `${prompt}; about ${count(each.written)} written` : prompt;
}

/** Fill a definition list; returns the elements of its values by name. */
function definitions(list, names) {
  const values = Object.fromEntries(names.map((name) => [name, h("dd", {})]));
  for (const name of names) list.append(h("dt", {}, name), values[name]);
  return values;
}

function backendsOf({ backends, memory }) {
  return Object.entries(backends).map(([name, each]) => {
    const models = memory.models.filter((model) => model.backend === name);
    const used = models.reduce((sum, m) => sum + (m.weights ?? 0) + (m.context ?? 0) + m.cache, 0);
    return { name, ...each, models: models.length, used };
  });
}

function backendCard(backend) {
  const state = h("span", { class: "end" });
  const facts = h("p", { class: "dim" });
  const element = h("li", { class: "card" }, h("header", {}, h("h3", {}, backend.name), state), facts);
  const update = (each) => {
    setText(state, each.ok ? "well" : "not well");
    state.className = `end ${each.ok ? "good" : "bad"}`;
    const version = each.version ? `Version ${each.version}. ` : "";
    const memory = each.models ? `${each.models} loaded, ${bytes(each.used)}. ` : "";
    const active = each.counters?.active === undefined ? "" : `${each.counters.active} active. `;
    setText(facts, `${version}${memory}${active}${each.detail ?? ""}`);
  };
  return { element, update };
}

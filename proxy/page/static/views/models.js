// Models by backend with their memory: load, unload, pin.

import { getJSON, post, repeat } from "../api.js";
import { Keyed, h, setText, table } from "../dom.js";
import { bytes, count } from "../format.js";

const POLL_MS = 2000;
const COLUMNS = [
  { title: "Model" },
  { title: "Engine" },
  { title: "State" },
  { title: "Memory", number: true },
  { title: "File", number: true },
  { title: "Quantization" },
  { title: "Context", number: true },
  { title: "Can" },
  { title: "Actions" },
];

export function models(main, signal) {
  const used = h("p", {});
  const meter = h("meter", { min: 0, max: 1, "aria-label": "Memory of models" });
  const problem = h("p", { class: "bad", role: "alert" });
  const away = h("p", { class: "bad", role: "alert" }); // Ends with the next answer, an action's problem does not.
  const filter = h("input", { type: "search", oninput: () => show() });
  const rows = h("tbody", {});
  const unusable = h("ul", {});
  const others = h("div", { hidden: true }, h("h2", {}, "Not usable"), unusable);
  let listed = [];
  main.append(
    used,
    meter,
    h("label", {}, "Filter by name ", filter),
    problem,
    away,
    table("Models", COLUMNS, rows),
    others,
  );

  const act = async (action) => {
    setText(problem, "");
    try {
      await action();
      await refresh();
    } catch (error) {
      setText(problem, error.message);
    }
  };
  const keyed = new Keyed(rows, keyOf, (each) => row(each, act));
  const reasons = new Keyed(unusable, ({ key }) => key, ({ key, text }) => ({ element: h("li", {}, `${key}: ${text}`), update: () => {} }));
  const show = () => keyed.show(listed.filter(({ model_id: id, name }) => `${id} ${name}`.toLowerCase().includes(filter.value.toLowerCase())));
  const refresh = async () => {
    const [{ backends }, { memory }] = await Promise.all([getJSON("/api/models", signal), getJSON("/health", signal)]);
    listed = joined(backends, memory);
    show();
    const without = Object.entries(backends).flatMap(([name, each]) => Object.entries(each.unusable).map(([model, text]) => ({ key: `${model} on ${name}`, text })));
    reasons.show(without);
    others.hidden = without.length === 0;
    setText(used, `Models and caches use ${bytes(memory.used)} of ${bytes(memory.budget)}.`);
    meter.value = memory.budget ? memory.used / memory.budget : 0;
  };
  repeat(async () => {
    try {
      await refresh();
      setText(away, "");
    } catch (error) {
      if (!signal.aborted) setText(away, error.message);
    }
  }, POLL_MS, signal);
}

const keyOf = (each) => `${each.backend}/${each.name}`;

/** The models of all backends, each with its memory. */
function joined(backends, memory) {
  const uses = new Map(memory.models.map((each) => [`${each.backend}/${each.model}`, each]));
  const all = Object.values(backends).flatMap((each) => each.models);
  const withMemory = all.map((each) => ({ ...each, memory: uses.get(keyOf(each)) ?? null }));
  return withMemory.sort((a, b) => Number(b.loaded ?? false) - Number(a.loaded ?? false) || a.model_id.localeCompare(b.model_id));
}

function stateOf(each) {
  if (each.loading) {
    const { completed, total } = each.loading;
    return total ? `loading, ${Math.round((100 * completed) / total)} %` : "loading";
  }
  const busy = each.memory?.busy ? ", busy" : "";
  if (each.loaded) return `loaded${busy}${each.memory?.pinned ? ", pinned" : ""}`;
  return each.loaded === null ? "not known" : "not loaded";
}

function row(model, act) {
  const state = h("td", {});
  const [memory, context] = ["Memory", "Context"].map(() => h("td", { class: "number" }));
  const path = `/api/models/${encodeURIComponent(model.model_id)}`;
  const there = { headers: { "x-tandem-backend": model.backend } };
  const button = (title, action) => h("button", { type: "button", "aria-label": `${title} ${model.name} on ${model.backend}`, onclick: () => act(action) }, title);
  const load = button("Load", () => post(`${path}/load`, {}, there));
  const unload = button("Unload", () => post(`${path}/unload`, {}, there));
  const pin = button("Pin", () => post("/api/pin", { model: model.model_id, pinned: pin.getAttribute("aria-pressed") !== "true" }, there));
  const element = h(
    "tr",
    {},
    h("th", { scope: "row" }, model.model_id, model.name === model.model_id ? null : h("div", { class: "dim" }, model.name)),
    h("td", {}, h("span", { class: `badge ${model.backend}` }, model.backend)),
    state,
    memory,
    h("td", { class: "number" }, bytes(model.size_bytes)),
    h("td", {}, model.quantization ?? "–"),
    context,
    h("td", {}, model.capabilities.join(", ") || "–"),
    h("td", {}, h("div", { class: "actions" }, load, unload, pin)),
  );
  const update = (each) => {
    const used = each.memory;
    setText(state, stateOf(each));
    setText(memory, used ? bytes((used.weights ?? 0) + (used.context ?? 0) + used.cache) : "–");
    setText(context, count(each.loaded_context ?? each.context_length));
    load.disabled = Boolean(each.loaded || each.loading);
    unload.disabled = !each.loaded && !each.loading;
    pin.setAttribute("aria-pressed", String(used?.pinned ?? false));
    setText(pin, used?.pinned ? "Unpin" : "Pin");
  };
  return { element, update };
}

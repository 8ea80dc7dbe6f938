// Requests that have ended, and the inspector, which is off until it is switched on.

import { activity } from "../activity.js";
import { getJSON, post } from "../api.js";
import { Keyed, h, setText, table } from "../dom.js";
import { client, clock, count, seconds, speed } from "../format.js";

const COLUMNS = [
  { title: "Model" },
  { title: "Engine" },
  { title: "Client" },
  { title: "Outcome" },
  { title: "Ended", number: true },
  { title: "First token", number: true },
  { title: "Speed", number: true },
  { title: "Read", number: true },
  { title: "Cached", number: true },
  { title: "Written", number: true },
  { title: "In all", number: true },
  { title: "Details" },
];

export function history(main, signal) {
  const inspecting = h("input", { type: "checkbox", onchange: () => switchInspector(inspecting, problem) });
  const problem = h("p", { class: "bad", role: "alert" });
  const empty = h("p", { class: "empty" });
  const rows = h("tbody", {});
  const shown = table("Requests that have ended", COLUMNS, rows);
  const dialog = h("dialog", { "aria-labelledby": "inspected" });
  main.append(
    h("label", { class: "line" }, inspecting, "Inspector: keep prompts and answers of new requests"),
    h("p", { class: "dim" }, "Prompts are private. While this is on, the last 50 stay in the server's memory, and can be read by all with access to this page. Switching it off forgets them."),
    problem,
    empty,
    shown,
    dialog,
  );
  const keyed = new Keyed(rows, (each) => each.request_id, (each) => row(each, dialog));
  const show = () => {
    keyed.show(activity.ended);
    setText(empty, activity.denied || "No request has ended since the server started.");
    empty.hidden = activity.ended.length > 0;
    shown.hidden = !empty.hidden;
    inspecting.checked = activity.inspecting;
  };
  activity.addEventListener("change", show, { signal });
  show();
}

async function switchInspector(checkbox, problem) {
  setText(problem, "");
  try {
    await post("/api/inspector", { enabled: checkbox.checked });
  } catch (error) {
    checkbox.checked = !checkbox.checked;
    setText(problem, error.message);
  }
}

function outcomeOf(each) {
  return each.outcome === "ok" ? "ok" : `${each.outcome}${each.error ? `: ${each.error}` : ""}`;
}

function row(each, dialog) {
  const number = (text) => h("td", { class: "number" }, text);
  const inspect = h("button", { type: "button", "aria-label": `Details of ${each.request_id}`, onclick: () => open(each, dialog) }, "Details");
  const element = h(
    "tr",
    {},
    h("th", { scope: "row" }, each.model ?? "–"),
    h("td", {}, h("span", { class: `badge ${each.backend}` }, each.backend)),
    h("td", { class: "client" }, client(each.client)),
    h("td", { class: each.outcome === "ok" ? "good" : "bad" }, outcomeOf(each)),
    number(clock(each.ended_at)),
    number(seconds(each.ttft_s)),
    number(speed(each.tokens_per_second)),
    number(count(each.prompt_tokens)),
    number(count(each.cached_tokens)),
    number(count(each.completion_tokens)),
    number(seconds(each.total_s)),
    h("td", {}, inspect),
  );
  return { element, update: () => {} };
}

async function open(each, dialog) {
  const kept = h("div", {}, h("p", { class: "dim" }, "Looking for prompt and answer…"));
  const facts = h("dl", {});
  for (const [name, value] of factsOf(each)) facts.append(h("dt", {}, name), h("dd", {}, value));
  dialog.replaceChildren(
    h("h2", { id: "inspected" }, `${each.model} on ${each.backend}`),
    facts,
    kept,
    h("form", { method: "dialog" }, h("button", {}, "Close")),
  );
  dialog.showModal();
  try {
    kept.replaceChildren(...sections(await getJSON(`/api/requests/${each.request_id}`)));
  } catch (error) {
    kept.replaceChildren(h("p", { class: "dim" }, error.message));
  }
}

function factsOf(each) {
  return [
    ["Request", `${each.method} ${each.path}, ${each.request_id}`],
    ["Client", `${each.client || "unnamed"}, ${each.address || "this machine"}`],
    ["Outcome", `${outcomeOf(each)}, status ${each.status ?? "–"}`],
    ["Why there", each.why.join(" ") || "–"],
    ["Fallback", each.fallback_from ?? "none"],
    ["Model", each.cold ? "had to be loaded first" : "was loaded"],
    ["Tokens", `${count(each.prompt_tokens)} read, ${count(each.cached_tokens)} of them from the cache, ${count(each.completion_tokens)} written`],
    ["Times", `first token after ${seconds(each.ttft_s)}, ${speed(each.tokens_per_second)}, ${seconds(each.total_s)} in all`],
  ];
}

function sections({ body, text, reasoning, calls }) {
  const section = (title, content) => (content ? [h("h3", {}, title), h("pre", { tabIndex: 0, role: "region", "aria-label": title }, content)] : []);
  return [
    ...section("Prompt", pretty(body)),
    ...section("Reasoning", reasoning),
    ...section("Answer", text),
    ...section("Calls", calls.map(({ name, arguments: json }) => `${name}(${json})`).join("\n")),
  ];
}

function pretty(json) {
  try {
    return JSON.stringify(JSON.parse(json), null, 2);
  } catch {
    return json; // It was cut, or is no JSON.
  }
}

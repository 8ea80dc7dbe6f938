// The speed of each backend with the same model: answers since the start, and benchmarks.

import { getJSON } from "../api.js";
import { h, table } from "../dom.js";
import { bytes, count, seconds, speed } from "../format.js";
import { bars } from "../plot.js";

const COLUMNS = [
  { title: "Conditions" },
  { title: "Engine" },
  { title: "Answers", number: true },
  { title: "First token", number: true },
  { title: "Speed", number: true },
  { title: "Memory", number: true },
];

export async function compare(main, signal) {
  const content = h("div", {}, h("p", { class: "dim" }, "Reading measurements…"));
  const again = h("button", { type: "button", onclick: () => fill(content, signal) }, "Refresh");
  main.append(h("p", { class: "actions" }, again), content);
  await fill(content, signal);
}

async function fill(content, signal) {
  try {
    const { models } = await getJSON("/api/performance/comparison", signal);
    content.replaceChildren(...(models.length ? models.flatMap(section) : [nothing()]));
  } catch (error) {
    if (!signal.aborted) content.replaceChildren(h("p", { class: "bad", role: "alert" }, error.message));
  }
}

function nothing() {
  return h("p", { class: "empty" }, "Nothing is measured yet. Answers are measured as they come; `tandem bench MODEL` measures both engines under equal conditions.");
}

function section(model) {
  const verdicts = model.summary.map((each) => h("li", {}, inWords(each)));
  const weights = model.same_weights === null ? "" : model.same_weights ? "All backends have the same weights." : "The backends have different weights, so that their answers differ.";
  return [
    h("h2", {}, model.model_id),
    weights ? h("p", { class: "dim" }, weights) : null,
    verdicts.length ? h("ul", {}, verdicts) : h("p", { class: "dim" }, "No verdict: backends are compared where both were measured with prompts of one length and one load."),
    ...measured(model),
    ...model.benched.map(benched),
  ].filter(Boolean);
}

const inWords = (verdict) => `${conditions(verdict)} (${verdict.source}): ${verdict.text}.`;

const scenario = ({ scenario: { prompt, state, clients } }) => `${prompt} prompts, ${state}, ${clients} at once`;

const conditions = (row) =>
  `${row.prompt_tokens_to === null ? "longer prompts" : `to ${count(row.prompt_tokens_to)} tokens`}, ${row.answers_at_once_to === null ? "many" : `${row.answers_at_once_to}`} at once${row.cold ? ", cold" : ""}`;

/** Two plots of the same rows: `measures` are [title, key, text of a value]. */
function plots(name, rows, label, measures) {
  const series = [...new Set(rows.map((row) => row.backend))];
  const labels = [...new Set(rows.map(label))];
  const groups = (key, text) =>
    labels.map((each) => ({
      label: each,
      bars: rows
        .filter((row) => label(row) === each && row[key] !== null)
        .map((row) => ({ series: row.backend, value: row[key], text: text(row[key]) })),
    }));
  const figure = ([title, key, text]) => h("figure", { class: "card" }, h("figcaption", {}, title), bars(`${title}: ${name}`, groups(key, text), series));
  return h("div", { class: "side-by-side" }, measures.map(figure));
}

const LIVE = [
  ["Speed (longer is better)", "tokens_per_second", speed],
  ["Time to first token (shorter is better)", "ttft_s", seconds],
];
const BENCHED = [
  ["Speed of all answers together (longer is better)", "together", speed],
  ["Time to first token, median (shorter is better)", "ttft_p50_s", seconds],
];

function measured({ model_id: name, live }) {
  if (!live.length) return [];
  return [plots(name, live, conditions, LIVE), table(`Measurements of ${name}`, COLUMNS, h("tbody", {}, live.map((each) => row(each, conditions))))];
}

function row(each, label) {
  const number = (text) => h("td", { class: "number" }, text);
  return h(
    "tr",
    {},
    h("th", { scope: "row" }, label(each)),
    h("td", {}, h("span", { class: `badge ${each.backend}` }, each.backend)),
    number(count(each.answers)),
    number(seconds(each.ttft_s ?? each.ttft_p50_s)),
    number(speed(each.tokens_per_second)),
    number(bytes(each.memory_bytes)),
  );
}

function benched(result) {
  const day = new Date(result.measured_at * 1000).toLocaleString("en-GB");
  const title = `Benchmark of ${day}${result.stale ? ", stale: the weights have changed since" : ""}`;
  return h(
    "details",
    {},
    h("summary", {}, title),
    plots(result.model, result.rows, scenario, BENCHED),
    table(title, COLUMNS, h("tbody", {}, result.rows.map((each) => row(each, scenario)))),
  );
}

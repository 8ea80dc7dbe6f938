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
    ...plots(model.model_id, model.live),
    ...model.benched.map(benched),
  ].filter(Boolean);
}

const inWords = (verdict) => `${conditions(verdict)} (${verdict.source}): ${verdict.text}.`;

const conditions = (row) =>
  `${row.prompt_tokens_to === null ? "longer prompts" : `to ${count(row.prompt_tokens_to)} tokens`}, ${row.answers_at_once_to === null ? "many" : `${row.answers_at_once_to}`} at once${row.cold ? ", cold" : ""}`;

function plots(name, live) {
  if (!live.length) return [];
  const series = [...new Set(live.map((row) => row.backend))];
  const labels = [...new Set(live.map(conditions))];
  const groups = (value, text) =>
    labels.map((label) => ({
      label,
      bars: live
        .filter((row) => conditions(row) === label && row[value] !== null)
        .map((row) => ({ series: row.backend, value: row[value], text: text(row[value]) })),
    }));
  return [
    h("div", { class: "side-by-side" },
      h("figure", { class: "card" }, h("figcaption", {}, "Speed (longer is better)"), bars(`Tokens per second of ${name}`, groups("tokens_per_second", speed), series)),
      h("figure", { class: "card" }, h("figcaption", {}, "Time to first token (shorter is better)"), bars(`Time to first token of ${name}`, groups("ttft_s", seconds), series))),
    table(`Measurements of ${name}`, COLUMNS, h("tbody", {}, live.map(row))),
  ];
}

function row(each) {
  const number = (text) => h("td", { class: "number" }, text);
  return h(
    "tr",
    {},
    h("th", { scope: "row" }, conditions(each)),
    h("td", {}, h("span", { class: `badge ${each.backend}` }, each.backend)),
    number(count(each.answers)),
    number(seconds(each.ttft_s)),
    number(speed(each.tokens_per_second)),
    number(bytes(each.memory_bytes)),
  );
}

function benched(result) {
  const title = `Benchmark${result.stale ? ", stale: the weights have changed since" : ""}`;
  return h("details", {}, h("summary", {}, title), h("pre", { tabIndex: 0, role: "region", "aria-label": title }, JSON.stringify(result, null, 2)));
}

// A chat that streams: images, tools, schemas, and the same prompt on both engines side by side.

import { getJSON } from "../api.js";
import { chat, messageOf } from "../chat.js";
import { field, h, setText } from "../dom.js";
import { count, seconds, speed } from "../format.js";

const TOOLS = '[{"type": "function", "function": {"name": "get_weather", "description": "Weather of a city", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}}]';
const SCHEMA = '{"type": "object", "properties": {"answer": {"type": "string"}}, "required": ["answer"]}';

let kept = null; // Chats and drafts stay while other views are shown, and answers go on.

export function playground(main, signal) {
  kept ??= build();
  main.append(...kept.elements);
  fillModels(kept.form, kept.problem, signal);
}

function build() {
  const form = controls();
  const columns = h("div", { class: "side-by-side" });
  const status = h("p", { role: "status", class: "dim" });
  const problem = h("p", { class: "bad", role: "alert" });
  const send = h("button", { type: "submit", class: "main" }, "Send");
  const stop = h("button", { type: "button", disabled: true }, "Stop");
  const anew = h("button", { type: "button" }, "New chat");
  const element = h("form", { class: "card" }, form.element, h("p", { class: "actions" }, send, stop, anew, status));
  let panels = [];
  let running = null;

  form.model.addEventListener("change", () => fillEngines(form));
  anew.addEventListener("click", () => {
    running?.abort();
    panels = [];
    columns.replaceChildren();
    form.message.focus();
  });
  stop.addEventListener("click", () => running?.abort());
  form.message.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) element.requestSubmit();
  });
  element.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (send.disabled) return; // By keys a form is also submitted while its button is disabled.
    send.disabled = true;
    setText(problem, "");
    let body;
    try {
      body = await bodyOf(form);
    } catch (error) {
      setText(problem, error.message);
      send.disabled = false;
      return;
    }
    const targets = targetsOf(form);
    if (targets.length !== panels.length || targets.some((name, place) => name !== panels[place].backend)) {
      panels = targets.map(panelOf);
      columns.replaceChildren(...panels.map((panel) => panel.element));
    }
    running = new AbortController();
    stop.disabled = false;
    setText(status, "Waiting for the answer…");
    const complete = await Promise.all(panels.map((panel) => panel.ask(body, running.signal)));
    send.disabled = false;
    stop.disabled = true;
    setText(status, statusOf(complete, running.signal));
    if (!complete.includes(true)) return; // The message is there to be sent again.
    form.message.value = "";
    form.images.value = "";
    form.showImages();
  });
  return { form, problem, elements: [element, problem, columns] };
}

function statusOf(complete, { aborted }) {
  if (aborted) return "Stopped.";
  if (!complete.includes(false)) return "The answer is complete.";
  return complete.includes(true) ? "One answer is complete, and one failed." : "The request failed.";
}

function controls() {
  const model = h("select", { required: true });
  const engine = h("select", {});
  const message = h("textarea", { required: true, placeholder: "Ctrl+Enter sends" });
  const system = h("textarea", { rows: 2 });
  const images = h("input", { type: "file", accept: "image/*", multiple: true, onchange: () => showImages() });
  const thumbs = h("div", { class: "thumbs" });
  const tools = h("textarea", { class: "code", spellcheck: false, placeholder: TOOLS });
  const schema = h("textarea", { class: "code", spellcheck: false, placeholder: SCHEMA });
  const number = (step, placeholder) => h("input", { type: "number", step, min: 0, placeholder });
  const temperature = number("0.1", "the model's");
  const limit = number("1", "no limit");
  const seed = number("1", "random");
  const effort = h("select", {}, ["", "none", "low", "medium", "high"].map((name) => h("option", { value: name }, name || "the model's")));
  const showImages = () => {
    for (const image of thumbs.children) URL.revokeObjectURL(image.src);
    thumbs.replaceChildren(...[...images.files].map((file) => h("img", { src: URL.createObjectURL(file), alt: file.name })));
  };
  const element = h(
    "div",
    { class: "fields" },
    field("Model", model),
    field("Engine", engine),
    field("Message", message, { class: "wide" }),
    h("details", { class: "wide" },
      h("summary", {}, "Images, tools, schema and options"),
      h("div", { class: "fields" },
        field("System prompt", system, { class: "wide" }),
        field("Images", images, { class: "wide" }),
        h("div", { class: "wide" }, thumbs),
        field("Tools, as JSON", tools, { class: "wide" }),
        field("JSON schema of the answer", schema, { class: "wide" }),
        field("Temperature", temperature),
        field("Most tokens", limit),
        field("Seed", seed),
        field("Reasoning", effort))),
  );
  return { element, model, engine, message, system, images, showImages, tools, schema, temperature, limit, seed, effort, backends: new Map() };
}

async function fillModels(form, problem, signal) {
  try {
    const { data } = await getJSON("/v1/models", signal);
    const chats = data.filter(({ id, root, capabilities }) => id === root && (!capabilities.length || capabilities.includes("chat")));
    form.backends = new Map(chats.map(({ id, backends }) => [id, backends.map(({ backend }) => backend)]));
    refill(form.model, chats.map(({ id }) => h("option", {}, id)));
    fillEngines(form);
  } catch (error) {
    if (!signal.aborted) setText(problem, error.message);
  }
}

function fillEngines(form) {
  const names = form.backends.get(form.model.value) ?? [];
  const option = (value, text) => h("option", { value }, text);
  refill(form.engine, [
    option("", "the router decides"),
    ...names.map((name) => option(name, name)),
    ...(names.length > 1 ? [option("*", `${names.join(" and ")} side by side`)] : []),
  ]);
}

/** Replace the options; the chosen one stays where it is still there. */
function refill(select, options) {
  const chosen = select.value;
  select.replaceChildren(...options);
  if (options.some(({ value }) => value === chosen)) select.value = chosen;
}

function targetsOf({ engine, backends, model }) {
  return engine.value === "*" ? backends.get(model.value) : [engine.value];
}

/** The body of the request without earlier messages. Throws where a field is no JSON. */
async function bodyOf(form) {
  const number = ({ value }) => (value === "" ? undefined : Number(value));
  const schema = parsed(form.schema, "The schema");
  const files = await Promise.all([...form.images.files].map(dataURL));
  const text = form.message.value;
  const parts = files.map((url) => ({ type: "image_url", image_url: { url } }));
  return {
    model: form.model.value,
    system: form.system.value,
    message: { role: "user", content: parts.length ? [...parts, { type: "text", text }] : text },
    tools: parsed(form.tools, "The list of tools"),
    response_format: schema && { type: "json_schema", json_schema: { name: "answer", schema, strict: true } },
    temperature: number(form.temperature),
    max_completion_tokens: number(form.limit),
    seed: number(form.seed),
    reasoning_effort: form.effort.value || undefined,
  };
}

function parsed({ value }, what) {
  if (!value.trim()) return undefined;
  try {
    return JSON.parse(value);
  } catch (error) {
    throw new Error(`${what} is not valid JSON: ${error.message}`);
  }
}

function dataURL(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(new Error(`'${file.name}' cannot be read.`));
    reader.readAsDataURL(file);
  });
}

/** One column: a chat with one backend, or with the one that the router chooses. `ask` resolves to true where the answer is complete. */
function panelOf(backend) {
  const messages = [];
  const turns = h("div", {});
  const title = h("h2", {}, backend || "Answer");
  const element = h("section", { class: "card", "aria-label": backend || "Answer" }, title, turns);

  async function ask({ system, message, ...options }, signal) {
    const said = typeof message.content === "string" ? message.content : message.content.at(-1).text;
    const shown = answerElements();
    turns.append(h("p", { class: "said user" }, said), shown.element);
    const first = system ? [{ role: "system", content: system }] : [];
    try {
      const answer = await chat({ ...options, messages: [...first, ...messages, message] }, { backend, signal, onChange: shown.update });
      messages.push(message, messageOf(answer));
      return true;
    } catch (error) {
      shown.fail(signal.aborted ? "Stopped." : error.message);
      return false;
    }
  }
  return { backend, element, ask };
}

function answerElements() {
  const thought = h("p", { class: "said thought" });
  const thoughts = h("details", { hidden: true }, h("summary", {}, "Reasoning"), thought);
  const text = h("p", { class: "said" });
  const calls = h("pre", { hidden: true });
  const facts = h("p", { class: "dim" });
  const problem = h("p", { class: "bad", role: "alert" });
  const element = h("div", {}, thoughts, text, calls, facts, problem);
  const update = (answer) => {
    thoughts.hidden = !answer.reasoning;
    setText(thought, answer.reasoning);
    setText(text, answer.text);
    calls.hidden = !answer.calls.length;
    setText(calls, answer.calls.map(({ function: called }) => `${called.name}(${called.arguments})`).join("\n"));
    setText(facts, factsOf(answer));
  };
  return { element, update, fail: (message) => setText(problem, message) };
}

function factsOf(answer) {
  const { usage, firstAfter, endedAfter } = answer;
  const facts = [answer.backend && `on ${answer.backend}`, firstAfter !== null && `first token after ${seconds(firstAfter)}`];
  if (usage) {
    const cached = usage.prompt_tokens_details?.cached_tokens;
    facts.push(`${count(usage.prompt_tokens)} tokens read${cached ? `, ${count(cached)} from the cache` : ""}`, `${count(usage.completion_tokens)} written`);
    const writing = endedAfter - firstAfter;
    if (endedAfter !== null && usage.completion_tokens > 1 && writing > 0) facts.push(speed((usage.completion_tokens - 1) / writing));
  }
  if (answer.finish) facts.push(`ended by ${answer.finish}`);
  if (answer.ignored) facts.push(`ignored: ${answer.ignored}`);
  return facts.filter(Boolean).join(" · ");
}

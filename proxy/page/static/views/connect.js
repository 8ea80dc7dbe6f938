// Settings to copy for each client, with this server's address and a model of it.

import { getJSON } from "../api.js";
import { field, h } from "../dom.js";

const origin = location.origin;

/** name -> (model, key) -> text to copy. */
const CLIENTS = {
  "OpenAI SDK, Python": (model, key) => `from openai import OpenAI

client = OpenAI(base_url="${origin}/v1", api_key="${key}")
answer = client.chat.completions.create(
    model="${model}", messages=[{"role": "user", "content": "Hello"}]
)
print(answer.choices[0].message.content)`,
  "OpenAI SDK, JavaScript": (model, key) => `import OpenAI from "openai";

const client = new OpenAI({ baseURL: "${origin}/v1", apiKey: "${key}" });
const answer = await client.chat.completions.create({
  model: "${model}",
  messages: [{ role: "user", content: "Hello" }],
});
console.log(answer.choices[0].message.content);`,
  curl: (model, key) => `curl ${origin}/v1/chat/completions -H "Authorization: Bearer ${key}" -H "Content-Type: application/json" \\
  -d '{"model": "${model}", "messages": [{"role": "user", "content": "Hello"}]}'`,
  "Environment of OpenAI's tools": (model, key) => `export OPENAI_BASE_URL=${origin}/v1
export OPENAI_API_KEY=${key}`,
  "Claude Code": (model, key) => `export ANTHROPIC_BASE_URL=${origin}
export ANTHROPIC_AUTH_TOKEN=${key}
export ANTHROPIC_MODEL=${model}
export ANTHROPIC_SMALL_FAST_MODEL=${model}
claude`,
  "Codex (~/.codex/config.toml)": (model) => `model = "${model}"
model_provider = "tandem"

[model_providers.tandem]
name = "Tandem"
base_url = "${origin}/v1"
wire_api = "responses"
env_key = "TANDEM_API_KEY"`,
  "Clients of Ollama": () => `export OLLAMA_HOST=${origin}`,
  "Open WebUI": (model, key) => `OPENAI_API_BASE_URL=${origin}/v1
OPENAI_API_KEY=${key}`,
  "Continue (config.yaml)": (model, key) => `models:
  - name: Tandem
    provider: openai
    model: ${model}
    apiBase: ${origin}/v1
    apiKey: ${key}`,
  "LangChain": (model, key) => `from langchain_openai import ChatOpenAI

chat = ChatOpenAI(base_url="${origin}/v1", api_key="${key}", model="${model}")`,
};

export async function connect(main, signal) {
  const model = h("select", {});
  const key = h("input", { value: "x", spellcheck: false, autocomplete: "off" });
  const list = h("div", {});
  main.append(
    h("p", {}, "Base URL of OpenAI clients: ", h("code", {}, `${origin}/v1`), ". Of Anthropic's and Ollama's: ", h("code", {}, origin), "."),
    h("div", { class: "fields" }, field("Model", model), field("Key (any text, if the server has none)", key)),
    list,
  );
  const show = () => list.replaceChildren(...Object.entries(CLIENTS).flatMap(([name, text]) => settings(name, text(model.value || "MODEL", key.value))));
  model.addEventListener("change", show);
  key.addEventListener("input", show);
  show();
  try {
    const { data } = await getJSON("/v1/models", signal);
    model.replaceChildren(...[...new Set(data.map(({ id }) => id))].map((id) => h("option", {}, id)));
    show();
  } catch {
    show(); // The settings are right without the name of a model.
  }
}

function settings(name, text) {
  const code = h("pre", { tabIndex: 0, role: "region", "aria-label": name }, text);
  const copy = h("button", { type: "button", "aria-label": `Copy the settings of ${name}`, onclick: () => copyText(code, copy) }, "Copy");
  return [h("h2", {}, name), copy, code];
}

async function copyText(code, button) {
  try {
    await navigator.clipboard.writeText(code.textContent);
    button.textContent = "Copied";
  } catch {
    getSelection().selectAllChildren(code); // Without https on another machine there is no clipboard.
    button.textContent = "Selected";
  }
  setTimeout(() => (button.textContent = "Copy"), 2000);
}

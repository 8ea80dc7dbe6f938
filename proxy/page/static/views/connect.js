// Settings to copy for each client, as the server has them, with a key that stays in the page.

import { getJSON } from "../api.js";
import { field, h, setText } from "../dom.js";

const origin = location.origin;
const SPECIAL = /["'`\\$\s]/; // In JSON, in programs or in a shell.

export function connect(main, signal) {
  const model = h("select", {});
  const key = h("input", { spellcheck: false, autocomplete: "off" });
  const problem = h("p", { class: "bad", role: "alert" });
  const list = h("div", {});
  main.append(
    h("p", {}, "Base URL of OpenAI clients: ", h("code", {}, `${origin}/v1`), ". Of Anthropic's and Ollama's: ", h("code", {}, origin), "."),
    h("div", { class: "fields" }, field("Model", model), field("Key, if the server has keys", key)),
    problem,
    list,
  );
  let asked = 0;
  const show = async () => {
    const place = (asked += 1); // Only the latest answer is shown, whichever comes last.
    setText(problem, SPECIAL.test(key.value) ? "This key has a character that files and shells read otherwise: escape it in the settings below." : "");
    try {
      const query = new URLSearchParams({ url: origin, keyed: key.value !== "", ...(model.value && { model: model.value }) });
      const settings = await getJSON(`/api/connect?${query}`, signal);
      if (place === asked) list.replaceChildren(...settings.clients.flatMap((each) => sectionOf(each, (text) => text.replaceAll(settings.key, () => key.value))));
    } catch (error) {
      if (!signal.aborted && place === asked) setText(problem, error.message);
    }
  };
  model.addEventListener("change", show);
  key.addEventListener("input", show);
  offerModels(model, signal).catch(() => {}).finally(show); // Right also without the name of a model.
}

async function offerModels(select, signal) {
  const { data } = await getJSON("/v1/models", signal);
  const chats = (card) => Number(card.capabilities.includes("chat"));
  select.replaceChildren(...data.sort((a, b) => chats(b) - chats(a)).map(({ id }) => h("option", {}, id)));
}

function sectionOf({ title, proof, texts, next_step: step }, withKey) {
  const remark = proof ? "" : "These settings follow the client's documentation; they were not run. ";
  return [
    h("h2", {}, title),
    ...texts.flatMap((each) => settings(texts.length > 1 ? `${title}: ${each.title}` : title, each.title, withKey(each.text))),
    h("p", { class: "dim" }, remark, step ?? ""),
  ];
}

function settings(name, title, text) {
  const code = h("pre", { tabIndex: 0, role: "region", "aria-label": name }, text);
  const copy = h("button", { type: "button", "aria-label": `Copy the settings of ${name}`, onclick: () => copyText(code, copy) }, "Copy");
  return [h("p", {}, h("code", {}, title), " ", copy), code];
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

// Ollama's client for JavaScript: every method that a local server can serve.

import assert from "node:assert/strict";
import { test } from "node:test";
import { Ollama } from "ollama";

const { TANDEM_URL, TANDEM_MODEL: model, TANDEM_EMBEDDING_MODEL, TANDEM_CAPABLE, TANDEM_ENGINE } =
  process.env;
const client = new Ollama({ host: TANDEM_URL });
const messages = [{ role: "user", content: "Say hello." }];
const options = { num_predict: 8 };
const capable = { skip: TANDEM_CAPABLE ? false : "the model does not follow instructions" };
const isReal = TANDEM_ENGINE === "ollama" && !TANDEM_CAPABLE;
const real = { skip: isReal ? false : "only Ollama itself makes and copies models" };
const weather = {
  type: "function",
  function: {
    name: "get_weather",
    description: "Tells the weather of a city.",
    parameters: { type: "object", required: ["city"], properties: { city: { type: "string" } } },
  },
};

test("chat", async () => {
  const answer = await client.chat({ model, messages, options });
  assert.ok(answer.message.content);
  assert.ok(answer.done);
  assert.ok(answer.eval_count > 0);
});

test("streamed chat", async () => {
  let text = "";
  let last;
  for await (const part of await client.chat({ model, messages, options, stream: true })) {
    text += part.message.content;
    last = part;
  }
  assert.ok(text);
  assert.ok(last.done);
});

test("chat with a format", async () => {
  const format = {
    type: "object",
    properties: { city: { enum: ["Paris", "Rome"] } },
    required: ["city"],
  };
  const answer = await client.chat({ model, messages, format, options: { num_predict: 100 } });
  assert.ok(["Paris", "Rome"].includes(JSON.parse(answer.message.content).city));
});

test("tool loop", capable, async () => {
  const asked = [{ role: "user", content: "What is the weather in Paris?" }];
  const first = await client.chat({ model, messages: asked, tools: [weather] });
  const [call] = first.message.tool_calls;
  assert.equal(call.function.name, "get_weather");
  assert.deepEqual(call.function.arguments, { city: "Paris" });
  const result = { role: "tool", tool_name: "get_weather", content: "17 degrees" };
  const history = [...asked, first.message, result];
  const second = await client.chat({ model, messages: history, tools: [weather] });
  assert.match(second.message.content, /17 degrees/);
});

const plain = { skip: TANDEM_CAPABLE && TANDEM_ENGINE === "ollama" ? "scripted for chats" : false };

test("generate", plain, async () => {
  const answer = await client.generate({ model, prompt: "Once upon", options });
  assert.ok(answer.done);
  assert.ok(answer.eval_count > 0);
});

test("streamed generate", plain, async () => {
  let last;
  for await (const part of await client.generate({ model, prompt: "Once", options, stream: true }))
    last = part;
  assert.ok(last.done);
});

const inPieces = { skip: TANDEM_CAPABLE ? "the answer may come in one piece" : false };

test("abort", inPieces, async () => {
  const aborted = async () => {
    for await (const _ of await client.chat({ model, messages, stream: true })) client.abort();
  };
  await assert.rejects(aborted, { name: "AbortError" });
});

test("list, show, ps and version", async () => {
  const { models } = await client.list();
  const [found] = models.filter((each) => each.model.startsWith(model.split(":")[0]));
  assert.ok(found.details);
  const shown = await client.show({ model });
  assert.ok(shown.capabilities.includes("completion"));
  assert.ok(shown.model_info["general.architecture"]);
  assert.ok(Array.isArray((await client.ps()).models));
  assert.match((await client.version()).version, /^\d+\.\d+\.\d+/);
});

const skip = TANDEM_EMBEDDING_MODEL ? false : "the server has no model that embeds";
test("embed and embeddings", { skip }, async () => {
  const embedded = await client.embed({ model: TANDEM_EMBEDDING_MODEL, input: ["a", "b"] });
  assert.equal(embedded.embeddings.length, 2);
  const old = await client.embeddings({ model: TANDEM_EMBEDDING_MODEL, prompt: "a" });
  assert.equal(old.embedding.length, embedded.embeddings[0].length);
});

test("create, copy and delete", real, async () => {
  const made = await client.create({ model: "tandem-made", from: model, system: "Be terse." });
  assert.equal(made.status, "success");
  await client.copy({ source: "tandem-made", destination: "tandem-copied" });
  const names = (await client.list()).models.map((each) => each.model.split(":")[0]);
  assert.ok(names.includes("tandem-made") && names.includes("tandem-copied"));
  for (const name of ["tandem-made", "tandem-copied"])
    assert.equal((await client.delete({ model: name })).status, "success");
});

test("pull of a model that is not to be had", async () => {
  await assert.rejects(client.pull({ model: "no-such-model-at-all" }));
});

test("push has no place to go", async () => {
  await assert.rejects(client.push({ model: "no-such-model-at-all" }));
});

test("errors have Ollama's message", async () => {
  await assert.rejects(client.chat({ model: "no-such-model", messages }), (error) => {
    assert.equal(error.status_code, 404);
    return error.message.includes("no-such-model");
  });
});

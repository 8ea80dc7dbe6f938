// Anthropic's SDK for TypeScript.

import assert from "node:assert/strict";
import { test } from "node:test";
import Anthropic from "@anthropic-ai/sdk";
import { betaZodTool } from "@anthropic-ai/sdk/helpers/beta/zod";
import { z } from "zod";

const { TANDEM_URL, TANDEM_MODEL: model, TANDEM_CAPABLE } = process.env;
const client = new Anthropic({ baseURL: TANDEM_URL, apiKey: "x", maxRetries: 0 });
const messages = [{ role: "user", content: "Say hello." }];
const question = [{ role: "user", content: "What is the weather in Paris for 3 days?" }];
const Weather = z.object({ city: z.enum(["Paris", "Rome"]), days: z.literal([1, 2, 3]) });
const weather = {
  name: "get_weather",
  description: "Tells the weather of a city.",
  input_schema: z.toJSONSchema(Weather),
};
const capable = { skip: TANDEM_CAPABLE ? false : "the model does not follow instructions" };

test("message", async () => {
  const answer = await client.messages.create({ model, messages, max_tokens: 8 });
  assert.ok(answer.content[0].text);
  assert.ok(answer.usage.output_tokens > 0);
});

test("stream helper", async () => {
  const stream = client.messages.stream({ model, messages, max_tokens: 8 });
  let text = "";
  stream.on("text", (delta) => (text += delta));
  const final = await stream.finalMessage();
  assert.equal(text, await stream.finalText());
  assert.ok(final.usage.output_tokens > 0);
});

test("stream can be left", async () => {
  const stream = client.messages.stream({ model, messages, max_tokens: 1000 });
  for await (const event of stream) {
    assert.equal(event.type, "message_start");
    break;
  }
});

test("forced call", async () => {
  const answer = await client.messages.create({
    model,
    messages: question,
    tools: [weather],
    tool_choice: { type: "tool", name: "get_weather" },
    max_tokens: 200,
  });
  assert.equal(answer.stop_reason, "tool_use");
  const call = answer.content.find((block) => block.type === "tool_use");
  assert.ok(Weather.safeParse(call.input).success);
});

test("streamed call is put together", async () => {
  const pieces = [];
  const stream = client.messages
    .stream({
      model,
      messages: question,
      tools: [weather],
      tool_choice: { type: "any" },
      max_tokens: 200,
    })
    .on("inputJson", (piece) => pieces.push(piece));
  const final = await stream.finalMessage();
  const call = final.content.find((block) => block.type === "tool_use");
  assert.deepEqual(JSON.parse(pieces.join("")), call.input);
});

const tool = (called) =>
  betaZodTool({
    name: "get_weather",
    description: "Tells the weather of a city.",
    inputSchema: Weather,
    run: (given) => {
      called.push(given);
      return "17 degrees";
    },
  });

test("tool runner", capable, async () => {
  const called = [];
  const final = await client.beta.messages.toolRunner({
    model,
    messages: question,
    tools: [tool(called)],
    max_tokens: 200,
  });
  assert.match(final.content.map((block) => block.text ?? "").join(""), /17 degrees/);
  assert.deepEqual(called, [{ city: "Paris", days: 3 }]);
});

test("streaming tool runner", capable, async () => {
  const called = [];
  const runner = client.beta.messages.toolRunner({
    model,
    messages: question,
    tools: [tool(called)],
    max_tokens: 200,
    stream: true,
  });
  let last;
  for await (const stream of runner) last = await stream.finalMessage();
  assert.match(last.content.map((block) => block.text ?? "").join(""), /17 degrees/);
  assert.equal(called.length, 1);
});

test("counted tokens", async () => {
  const counted = await client.messages.countTokens({ model, messages });
  assert.ok(counted.input_tokens > 0);
});

test("models", async () => {
  const ids = [];
  for await (const card of client.models.list()) ids.push(card.id);
  assert.ok(ids.length > 0);
  assert.equal((await client.models.retrieve(ids[0])).type, "model");
});

test("errors are those of the SDK", async () => {
  const missing = client.messages.create({ model: "no-such-model", messages, max_tokens: 8 });
  await assert.rejects(missing, (error) => {
    assert.ok(error instanceof Anthropic.NotFoundError);
    return error.error.error.type === "not_found_error";
  });
});

// The Vercel AI SDK with the provider for Ollama's own API.

import assert from "node:assert/strict";
import { test } from "node:test";
import { embedMany, generateText, Output, stepCountIs, streamText, tool } from "ai";
import { createOllama } from "ai-sdk-ollama";
import { z } from "zod";

const { TANDEM_URL, TANDEM_MODEL, TANDEM_EMBEDDING_MODEL, TANDEM_CAPABLE } = process.env;
const ollama = createOllama({ baseURL: TANDEM_URL });
const model = ollama(TANDEM_MODEL);
const common = { model, maxRetries: 0, maxOutputTokens: 200 };
const capable = { skip: TANDEM_CAPABLE ? false : "the model does not follow instructions" };
const Weather = z.object({ city: z.enum(["Paris", "Rome"]), days: z.literal([1, 2, 3]) });
const question = "What is the weather in Paris for 3 days?";

test("text", async () => {
  const { text, usage } = await generateText({
    ...common,
    prompt: "Say hello.",
    maxOutputTokens: 8,
  });
  assert.ok(text);
  assert.ok(usage.inputTokens > 0);
  assert.ok(usage.outputTokens > 0);
});

test("stream", async () => {
  const errors = [];
  const result = streamText({
    ...common,
    prompt: "Say hello.",
    maxOutputTokens: 8,
    onError: ({ error }) => errors.push(error),
  });
  let text = "";
  for await (const delta of result.textStream) text += delta;
  assert.deepEqual(errors, []);
  assert.equal(text, await result.text);
  assert.ok((await result.usage).totalTokens > 0);
});

test("object", async () => {
  const { output } = await generateText({
    ...common,
    prompt: "The weather in Paris for 3 days.",
    output: Output.object({ schema: Weather }),
  });
  assert.ok(Weather.safeParse(output).success);
});

test("tool loop", capable, async () => {
  const called = [];
  const getWeather = tool({
    description: "Tells the weather.",
    inputSchema: Weather,
    execute: (input) => {
      called.push(input);
      return "17 degrees";
    },
  });
  const { text } = await generateText({
    ...common,
    prompt: question,
    tools: { getWeather },
    stopWhen: stepCountIs(3),
  });
  assert.deepEqual(called, [{ city: "Paris", days: 3 }]);
  assert.match(text, /17 degrees/);
});

const skip = TANDEM_EMBEDDING_MODEL ? false : "the server has no model that embeds";
test("embeddings", { skip }, async () => {
  const embedding = ollama.embedding(TANDEM_EMBEDDING_MODEL);
  const { embeddings } = await embedMany({ model: embedding, values: ["a", "b"], maxRetries: 0 });
  assert.equal(embeddings.length, 2);
});

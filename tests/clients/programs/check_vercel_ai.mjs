// The Vercel AI SDK, with its providers for OpenAI, for compatible servers and for Ollama's own API.

import assert from "node:assert/strict";
import { test } from "node:test";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { embedMany, generateText, Output, stepCountIs, streamText, tool } from "ai";
import { createOllama } from "ai-sdk-ollama";
import { z } from "zod";

const { TANDEM_URL, TANDEM_MODEL, TANDEM_EMBEDDING_MODEL, TANDEM_CAPABLE } = process.env;
const baseURL = `${TANDEM_URL}/v1`;
const openai = createOpenAI({ baseURL, apiKey: "x" });
const compatible = createOpenAICompatible({
  name: "tandem",
  baseURL,
  apiKey: "x",
  includeUsage: true,
  supportsStructuredOutputs: true,
});
const ollama = createOllama({ baseURL: TANDEM_URL });
const models = {
  openai: openai.chat(TANDEM_MODEL),
  compatible: compatible(TANDEM_MODEL),
  ollama: ollama(TANDEM_MODEL),
};
const common = { maxRetries: 0, maxOutputTokens: 200 };
const capable = { skip: TANDEM_CAPABLE ? false : "the model does not follow instructions" };
const Weather = z.object({ city: z.enum(["Paris", "Rome"]), days: z.literal([1, 2, 3]) });

for (const [name, model] of Object.entries(models)) {
  test(`${name}: text`, async () => {
    const { text, usage } = await generateText({
      model,
      prompt: "Say hello.",
      ...common,
      maxOutputTokens: 8,
    });
    assert.ok(text);
    assert.ok(usage.inputTokens > 0);
    assert.ok(usage.outputTokens > 0);
  });

  test(`${name}: stream`, async () => {
    const errors = [];
    const result = streamText({
      model,
      prompt: "Say hello.",
      ...common,
      maxOutputTokens: 8,
      onError: ({ error }) => errors.push(error),
    });
    let text = "";
    for await (const delta of result.textStream) text += delta;
    assert.deepEqual(errors, []);
    assert.equal(text, await result.text);
    assert.ok((await result.usage).totalTokens > 0);
  });

  const forces = { skip: name === "ollama" ? "Ollama's API has no tool_choice" : false };
  test(`${name}: forced call`, forces, async () => {
    const { toolCalls } = await generateText({
      model,
      prompt: "What is the weather in Paris for 3 days?",
      tools: { getWeather: tool({ description: "Tells the weather.", inputSchema: Weather }) },
      toolChoice: "required",
      ...common,
    });
    assert.equal(toolCalls[0].toolName, "getWeather");
    assert.ok(Weather.safeParse(toolCalls[0].input).success);
  });

  test(`${name}: object`, async () => {
    const { output } = await generateText({
      model,
      prompt: "The weather in Paris for 3 days.",
      output: Output.object({ schema: Weather }),
      ...common,
    });
    assert.ok(Weather.safeParse(output).success);
  });

  test(`${name}: tool loop`, capable, async () => {
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
      model,
      prompt: "What is the weather in Paris for 3 days?",
      tools: { getWeather },
      stopWhen: stepCountIs(3),
      ...common,
    });
    assert.deepEqual(called, [{ city: "Paris", days: 3 }]);
    assert.match(text, /17 degrees/);
  });
}

const skip = TANDEM_EMBEDDING_MODEL ? false : "the server has no model that embeds";
test("embeddings", { skip }, async () => {
  const embedders = [openai, compatible].map((provider) => provider.textEmbeddingModel);
  for (const embedder of [...embedders, ollama.embedding]) {
    const model = embedder(TANDEM_EMBEDDING_MODEL);
    const { embeddings } = await embedMany({ model, values: ["a", "b"], maxRetries: 0 });
    assert.equal(embeddings.length, 2);
  }
});

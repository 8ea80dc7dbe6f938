// LangChain.js with each of its packages: OpenAI (both APIs), Ollama, Anthropic.

import assert from "node:assert/strict";
import { test } from "node:test";
import { ChatAnthropic } from "@langchain/anthropic";
import { HumanMessage, ToolMessage } from "@langchain/core/messages";
import { tool } from "@langchain/core/tools";
import { ChatOllama, OllamaEmbeddings } from "@langchain/ollama";
import { ChatOpenAI, OpenAIEmbeddings } from "@langchain/openai";
import { z } from "zod";

const { TANDEM_URL: url, TANDEM_MODEL: model, TANDEM_EMBEDDING_MODEL, TANDEM_CAPABLE } = process.env;
const base = { model, apiKey: "x", maxRetries: 0 };
const configuration = { baseURL: `${url}/v1` };
const models = {
  "chat completions": (n) => new ChatOpenAI({ ...base, maxTokens: n, configuration }),
  responses: (n) => new ChatOpenAI({ ...base, maxTokens: n, configuration, useResponsesApi: true }),
  ollama: (n) => new ChatOllama({ model, baseUrl: url, numPredict: n, maxRetries: 0 }),
  anthropic: (n) => new ChatAnthropic({ ...base, maxTokens: n, anthropicApiUrl: url }),
};
const City = z.object({ name: z.string(), big: z.boolean() });
const weather = tool(async ({ city }) => `sunny in ${city}`, {
  name: "get_weather",
  description: "Tells the weather of a city.",
  schema: z.object({ city: z.string() }),
});
const capable = { skip: TANDEM_CAPABLE ? false : "the model does not follow instructions" };
const embeds = { skip: TANDEM_EMBEDDING_MODEL ? false : "the server has no model that embeds" };

for (const [name, create] of Object.entries(models)) {
  test(`${name}: answer`, async () => {
    const answer = await create(8).invoke("Say hello.");
    assert.ok(answer.text);
    assert.ok(answer.usage_metadata.output_tokens > 0);
  });

  test(`${name}: stream`, async () => {
    let text = "";
    for await (const chunk of await create(8).stream("Say hello.")) text += chunk.text;
    assert.ok(text);
  });

  test(`${name}: stream can be left`, async () => {
    const left = new AbortController();
    await assert.rejects(async () => {
      for await (const _ of await create(500).stream("Tell a story.", { signal: left.signal }))
        left.abort();
    });
  });

  test(`${name}: structured output`, async () => {
    const question = "Which city has the Eiffel tower?";
    const answer = await create(200)
      .withStructuredOutput(City, { method: "jsonSchema" })
      .invoke(question);
    assert.ok(City.safeParse(answer).success);
  });

  test(`${name}: tool loop`, capable, async () => {
    const able = create(200).bindTools([weather]);
    const messages = [new HumanMessage("What is the weather in Paris?")];
    const asked = await able.invoke(messages);
    messages.push(asked);
    for (const call of asked.tool_calls)
      messages.push(
        new ToolMessage({ content: await weather.invoke(call.args), tool_call_id: call.id }),
      );
    assert.match((await able.invoke(messages)).text, /sunny in Paris/);
  });
}

test("embeddings", embeds, async () => {
  const wanted = { model: TANDEM_EMBEDDING_MODEL, apiKey: "x", configuration, baseUrl: url };
  for (const embeddings of [new OpenAIEmbeddings(wanted), new OllamaEmbeddings(wanted)]) {
    const vectors = await embeddings.embedDocuments(["Hello", "Bye"]);
    assert.equal(vectors.length, 2);
  }
});

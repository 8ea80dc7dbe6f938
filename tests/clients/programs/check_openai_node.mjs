// The official OpenAI SDK for Node.

import assert from "node:assert/strict";
import { test } from "node:test";
import OpenAI from "openai";
import {
  zodFunction,
  zodResponseFormat,
  zodResponsesFunction,
  zodTextFormat,
} from "openai/helpers/zod";
import { ResponsesWS } from "openai/resources/responses/ws";
import { z } from "zod";

const { TANDEM_URL, TANDEM_MODEL: model, TANDEM_EMBEDDING_MODEL, TANDEM_CAPABLE } = process.env;
const client = new OpenAI({ baseURL: `${TANDEM_URL}/v1`, apiKey: "x", maxRetries: 0 });
const messages = [{ role: "user", content: "Say hello." }];
const Weather = z.object({ city: z.enum(["Paris", "Rome"]), days: z.literal([1, 2, 3]) });
const weather = zodFunction({ name: "get_weather", parameters: Weather });
const question = [{ role: "user", content: "What is the weather in Paris for 3 days?" }];
const capable = { skip: TANDEM_CAPABLE ? false : "the model does not follow instructions" };

test("answer", async () => {
  const answer = await client.chat.completions.create({ model, messages, max_tokens: 8 });
  assert.ok(answer.choices[0].message.content);
  assert.ok(answer.usage.completion_tokens > 0);
});

test("stream with usage", async () => {
  const stream = client.chat.completions.stream({
    model,
    messages,
    max_tokens: 8,
    stream_options: { include_usage: true },
  });
  let text = "";
  stream.on("content", (delta) => (text += delta));
  const final = await stream.finalChatCompletion();
  assert.equal(text, final.choices[0].message.content);
  assert.ok(final.usage.total_tokens > 0);
});

test("stream can be left", async () => {
  const stream = await client.chat.completions.create({ model, messages, stream: true });
  for await (const chunk of stream) {
    assert.equal(chunk.object, "chat.completion.chunk");
    break;
  }
});

test("forced call is parsed", async () => {
  const tool_choice = { type: "function", function: { name: "get_weather" } };
  const answer = await client.chat.completions.parse({
    model,
    messages: question,
    tools: [weather],
    tool_choice,
    max_tokens: 200,
  });
  const [call] = answer.choices[0].message.tool_calls;
  assert.ok(Weather.safeParse(call.function.parsed_arguments).success);
});

test("streamed call is put together", async () => {
  const stream = client.chat.completions.stream({
    model,
    messages: question,
    tools: [weather],
    tool_choice: "required",
    max_tokens: 200,
  });
  const final = await stream.finalChatCompletion();
  const [call] = final.choices[0].message.tool_calls;
  assert.ok(Weather.safeParse(call.function.parsed_arguments).success);
});

test("structured output", async () => {
  const response_format = zodResponseFormat(Weather, "weather");
  const answer = await client.chat.completions.parse({
    model,
    messages,
    response_format,
    max_tokens: 200,
  });
  assert.ok(Weather.safeParse(answer.choices[0].message.parsed).success);
});

test("tool loop", capable, async () => {
  const called = [];
  const runner = client.chat.completions.runTools({
    model,
    messages: question,
    tools: [
      {
        type: "function",
        function: {
          name: "get_weather",
          parameters: z.toJSONSchema(Weather),
          parse: JSON.parse,
          function: (given) => {
            called.push(given);
            return "17 degrees";
          },
        },
      },
    ],
  });
  assert.match(await runner.finalContent(), /17 degrees/);
  assert.deepEqual(called, [{ city: "Paris", days: 3 }]);
});

const input = "Say hello.";

test("response", async () => {
  const answer = await client.responses.create({ model, input, max_output_tokens: 24 });
  assert.ok(answer.output_text);
  assert.ok(answer.usage.output_tokens > 0);
  const next = await client.responses.create({
    model,
    input: "And again.",
    previous_response_id: answer.id,
    max_output_tokens: 24,
  });
  assert.equal(next.previous_response_id, answer.id);
  assert.equal((await client.responses.retrieve(answer.id)).output_text, answer.output_text);
  const items = await client.responses.inputItems.list(next.id);
  assert.equal(items.data.length, 3);
  await client.responses.delete(answer.id);
  await assert.rejects(client.responses.retrieve(answer.id), OpenAI.NotFoundError);
});

test("stream helper of responses", async () => {
  const stream = client.responses.stream({ model, input, max_output_tokens: 24 });
  let text = "";
  stream.on("response.output_text.delta", (event) => (text += event.delta));
  const final = await stream.finalResponse();
  assert.equal(text, final.output_text);
});

test("parsed response", async () => {
  const answer = await client.responses.parse({
    model,
    input,
    text: { format: zodTextFormat(Weather, "weather") },
    max_output_tokens: 200,
  });
  assert.ok(Weather.safeParse(answer.output_parsed).success);
});

test("forced call of a response is parsed", async () => {
  const answer = await client.responses.parse({
    model,
    input: question,
    tools: [zodResponsesFunction({ name: "get_weather", parameters: Weather })],
    tool_choice: "required",
    max_output_tokens: 200,
  });
  const call = answer.output.find((item) => item.type === "function_call");
  assert.ok(Weather.safeParse(call.parsed_arguments).success);
});

test("background response", async () => {
  const options = { model, input, max_output_tokens: 24, background: true };
  let answer = await client.responses.create(options);
  while (["queued", "in_progress"].includes(answer.status))
    answer = await client.responses.retrieve(answer.id);
  assert.ok(["completed", "incomplete"].includes(answer.status));
  assert.ok(answer.output_text);
});

test("followed background response", async () => {
  const stream = await client.responses.create({
    model,
    input,
    max_output_tokens: 24,
    background: true,
    stream: true,
  });
  let id, last;
  for await (const event of stream) {
    id ??= event.response?.id;
    last = event.sequence_number;
    if (event.type === "response.in_progress") break;
  }
  let text = "";
  for await (const event of await client.responses.retrieve(id, {
    stream: true,
    starting_after: last,
  })) {
    assert.equal(event.sequence_number, ++last);
    if (event.type === "response.output_text.delta") text += event.delta;
  }
  assert.equal(text, (await client.responses.retrieve(id)).output_text);
});

test("responses over a WebSocket", async () => {
  const socket = new ResponsesWS(client);
  const asked = { type: "response.create", model, input, store: false, max_output_tokens: 24 };
  const ends = ["response.completed", "response.incomplete", "response.failed"];
  const answered = () =>
    new Promise((resolve, reject) => {
      socket.on("error", reject);
      socket.on("event", (event) => ends.includes(event.type) && resolve(event.response));
    });
  const first = answered();
  socket.send(asked);
  const { id, status } = await first;
  assert.notEqual(status, "failed");
  const second = answered();
  socket.send({ ...asked, input: "And again.", previous_response_id: id });
  assert.equal((await second).previous_response_id, id);
  socket.close();
});

test("completion", async () => {
  const answer = await client.completions.create({ model, prompt: "Once upon", max_tokens: 4 });
  assert.ok(answer.usage.completion_tokens > 0);
});

test("models", async () => {
  const listed = await client.models.list();
  assert.ok(listed.data.length > 0);
  assert.equal((await client.models.retrieve(model)).object, "model");
});

const skip = TANDEM_EMBEDDING_MODEL ? false : "the server has no model that embeds";
test("embeddings", { skip }, async () => {
  const input = ["a", "b"];
  const encoded = await client.embeddings.create({ model: TANDEM_EMBEDDING_MODEL, input });
  assert.equal(encoded.data.length, 2);
  assert.equal(typeof encoded.data[0].embedding[0], "number");
});

test("errors are those of the SDK", async () => {
  const missing = client.chat.completions.create({ model: "no-such-model", messages });
  await assert.rejects(missing, (error) => {
    assert.ok(error instanceof OpenAI.NotFoundError);
    return error.code === "model_not_found";
  });
});

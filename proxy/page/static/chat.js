// One streamed chat completion, as a growing answer.

import { eventsOf, post } from "./api.js";

/** The state of an answer; `onChange(answer)` is called as it grows. Throws ApiError. */
export async function chat(body, { backend, signal, onChange }) {
  const began = performance.now();
  const answer = { text: "", reasoning: "", calls: [], usage: null, finish: null, backend: null, ignored: null, firstAfter: null, endedAfter: null };
  const response = await post(
    "/v1/chat/completions",
    { ...body, stream: true, stream_options: { include_usage: true } },
    { signal, headers: backend ? { "x-tandem-backend": backend } : {} },
  );
  answer.backend = response.headers.get("x-tandem-backend");
  answer.ignored = response.headers.get("x-tandem-ignored");
  for await (const { data } of eventsOf(response)) {
    if (data === "[DONE]") break;
    const chunk = JSON.parse(data);
    if (chunk.error) throw new Error(chunk.error.message);
    take(answer, chunk);
    if (answer.firstAfter === null && (answer.text || answer.reasoning || answer.calls.length)) answer.firstAfter = (performance.now() - began) / 1000;
    onChange(answer);
  }
  answer.endedAfter = (performance.now() - began) / 1000;
  onChange(answer);
  return answer;
}

function take(answer, chunk) {
  if (chunk.usage) answer.usage = chunk.usage;
  for (const { delta, finish_reason: finish } of chunk.choices) {
    answer.text += delta.content ?? "";
    answer.reasoning += delta.reasoning_content ?? "";
    for (const { index, id, function: called } of delta.tool_calls ?? []) {
      answer.calls[index] ??= { id, type: "function", function: { name: called.name, arguments: "" } };
      answer.calls[index].function.arguments += called.arguments ?? "";
    }
    answer.finish = finish ?? answer.finish;
  }
}

/** The message of the assistant, for the next turn. */
export function messageOf(answer) {
  return { role: "assistant", content: answer.text, ...(answer.calls.length ? { tool_calls: answer.calls } : {}) };
}

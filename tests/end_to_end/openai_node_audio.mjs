// The audio methods of the OpenAI SDK for Node: `node openai_node_audio.mjs URL FILE`.

import assert from "node:assert/strict";
import fs from "node:fs";
import OpenAI from "openai";

const [url, path] = process.argv.slice(2);
const { audio } = new OpenAI({ baseURL: `${url}/v1`, apiKey: "x", maxRetries: 0 });
const model = "whisper-1";
const file = () => fs.createReadStream(path);

const { text } = await audio.transcriptions.create({ model, file: file() });
const srt = await audio.transcriptions.create({ model, file: file(), response_format: "srt" });
assert.ok(srt.includes(text.split(". ")[0]));
const verbose = await audio.transcriptions.create({
  model,
  file: file(),
  response_format: "verbose_json",
  timestamp_granularities: ["word", "segment"],
});
assert.equal(verbose.words.length, text.split(" ").length);

const types = [];
let streamed = "";
for await (const event of await audio.transcriptions.create({ model, file: file(), stream: true })) {
  types.push(event.type);
  streamed += event.delta ?? "";
}
assert.equal(types.at(-1), "transcript.text.done");
assert.equal(streamed, text);
console.log(text);

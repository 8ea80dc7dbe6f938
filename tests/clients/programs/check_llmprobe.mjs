// llmprobe --quick: which surfaces exist, and what they must do.

import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { test } from "node:test";

const { TANDEM_URL, TANDEM_MODEL } = process.env;

test("no MUST of a surface fails", () => {
  const options = ["-m", TANDEM_MODEL, "--quick", "--no-bench", "--no-save", "--json"];
  const done = spawnSync("node_modules/.bin/llmprobe", [TANDEM_URL, ...options], {
    encoding: "utf8",
  });
  console.log(done.stdout, done.stderr);
  assert.equal(done.status, 0);
});

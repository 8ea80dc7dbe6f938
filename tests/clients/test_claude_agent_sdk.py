"""Anthropic's `@anthropic-ai/claude-agent-sdk`; the model is scripted."""

import json
from pathlib import Path

import pytest
from clients.agents import run_agent_sdk
from clients.calling_backend import SAID, CallingBackend, results_of

pytestmark = pytest.mark.clients


async def test_agent_calls_a_tool_of_its_program(tmp_path: Path):
    backend = CallingBackend("claude-local", ("mcp__numbers__add", {"a": 40, "b": 2}))
    sent = [json.loads(line) for line in (await run_agent_sdk(backend, tmp_path)).splitlines()]
    [result] = results_of(backend.requests[-1])
    assert result.text == "The sum is 42."
    last = sent[-1]
    assert (last["type"], last["subtype"], last["result"]) == ("result", "success", SAID)
    # The events of streamed answers reach the program, too.
    events = {message["event"]["type"] for message in sent if message["type"] == "stream_event"}
    assert {"message_start", "content_block_delta", "message_stop"} <= events

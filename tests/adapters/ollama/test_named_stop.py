"""Stop strings that have to be named: Tandem looks for them, because Ollama names none."""

import json
from typing import Any

import pytest
from fakes.recorded_ollama import Reply, StandIn, says_lines
from msgspec.structs import replace

from adapters.config import OllamaConfig
from adapters.events import (
    Event,
    Finished,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
    ToolCallStarted,
)
from adapters.ollama.backend import OllamaBackend
from adapters.request import GenerationRequest, JSONSchema, Message, Sampling, TextPart, Tool
from adapters.sink import events

CHAT = GenerationRequest(
    model="m",
    prompt=(Message(role="user", content=(TextPart("Hi"),)),),
    stop=("END", "\n\n"),
    names_stop=True,
)
TOOL = Tool("note", None, {"type": "object", "properties": {"text": {"type": "string"}}})
DONE = {"done": True, "done_reason": "stop", "prompt_eval_count": 5, "eval_count": 7}


def line(text: str, **others: Any) -> dict[str, Any]:
    return {"message": {"content": text, **others}, "done": False}


async def answer(
    backend: OllamaBackend, request: GenerationRequest = CHAT
) -> tuple[list[Event], Finished]:
    *before, finished = [event async for event in events(backend, request)]
    assert isinstance(finished, Finished)
    return before, finished


def text_of(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


async def test_ollama_is_not_told_and_is_left_at_the_string(
    backend: OllamaBackend, standin: StandIn
):
    async def endless(reply: Reply) -> None:
        await reply.head()
        for text in ("one ", "E", "ND two", " three"):
            await reply.chunk(json.dumps(line(text)).encode() + b"\n")
        await reply.gone()

    standin.says("/api/chat", endless)
    before, finished = await answer(backend)
    await standin.closed()
    assert text_of(before) == "one "
    assert (finished.reason, finished.stop_sequence) == ("stop", "END")
    assert finished.usage.completion_tokens == 3
    assert finished.usage.prompt_tokens > 0
    assert "stop" not in standin.bodies("/api/chat")[0]["options"]


async def test_end_of_its_own_has_ollamas_counts_and_all_of_the_text(
    backend: OllamaBackend, standin: StandIn
):
    standin.says("/api/chat", says_lines(line("one "), line("EN"), DONE))
    before, finished = await answer(backend)
    assert text_of(before) == "one EN"
    assert (finished.reason, finished.stop_sequence) == ("stop", None)
    assert (finished.usage.prompt_tokens, finished.usage.completion_tokens) == (5, 7)


async def test_string_in_the_first_line_ends_the_answer(backend: OllamaBackend, standin: StandIn):
    standin.says("/api/chat", says_lines(line("END of it"), line(" all"), DONE))
    before, finished = await answer(backend)
    assert text_of(before) == ""
    assert finished.stop_sequence == "END"


async def test_string_is_named_when_the_modelfile_has_it_too(
    backend: OllamaBackend, standin: StandIn
):
    """Ollama would end the answer there, and cut the string off."""
    parameters = 'stop    "END"\nstop    "\\t\\\\"\nstop    "\\n\\n"'
    standin.says("/api/show", says_lines({"template": "", "parameters": parameters}))
    standin.says("/api/chat", says_lines(line("one END two"), DONE))
    before, finished = await answer(backend)
    assert (text_of(before), finished.stop_sequence) == ("one ", "END")
    assert standin.bodies("/api/chat")[0]["options"]["stop"] == ["\t\\"]


async def test_reasoning_and_calls_are_not_searched(backend: OllamaBackend, standin: StandIn):
    call = {"function": {"name": "note", "arguments": {"text": "END"}}}
    said = (line("", thinking="END?"), line("a E"), line("", tool_calls=[call]), DONE)
    standin.says("/api/chat", says_lines(*said))
    before, finished = await answer(backend, replace(CHAT, tools=(TOOL,)))
    kinds = [type(event) for event in before[1:]]
    assert kinds == [ReasoningDelta, TextDelta, TextDelta, ToolCallStarted, ToolCallDelta]
    assert text_of(before) == "a E"
    assert (finished.reason, finished.stop_sequence) == ("tool_calls", None)


async def test_forced_call_is_not_cut(backend: OllamaBackend, standin: StandIn):
    text = '{"name": "note", "parameters": {"text": "END"}}'
    standin.replays("tags")
    standin.says("/api/chat", says_lines(line(text), DONE))
    before, finished = await answer(backend, replace(CHAT, tools=(TOOL,), tool_choice="required"))
    deltas = [event.arguments for event in before if isinstance(event, ToolCallDelta)]
    assert json.loads("".join(deltas)) == {"text": "END"}
    assert finished.reason == "tool_calls"


async def test_text_of_a_strict_schema_may_be_cut(backend: OllamaBackend, standin: StandIn):
    schema = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
    standin.says("/api/chat", says_lines(line('{"a": "x END'), line('"}'), DONE))
    strict = replace(CHAT, response_format=JSONSchema(schema, strict=True))
    before, finished = await answer(backend, strict)
    assert text_of(before) == '{"a": "x '
    assert finished.stop_sequence == "END"


@pytest.mark.ollama
@pytest.mark.parametrize("model", ["smollm2:135m", "smollm2-tools:135m", "smollm2-think:135m"])
async def test_real_ollama_with_go_and_jinja_templates(ollama_host: str, model: str):
    backend = OllamaBackend(OllamaConfig(host=ollama_host))
    question = Message(role="user", content=(TextPart("What is the capital of France?"),))
    request = replace(
        CHAT,
        model=model,
        prompt=(question,),
        max_tokens=24,
        reasoning_effort="none",
        sampling=Sampling(temperature=0),
    )
    before, finished = await answer(backend, replace(request, stop=("zzz", "France")))
    await backend.aclose()
    assert text_of(before).endswith("The capital of ")
    assert finished.stop_sequence == "France"

"""Conversations that become shorter: `truncation: auto` and `compaction_trigger`."""

from collections.abc import Sequence
from typing import Any

import openai
import pytest
from fakes.scripted_backend import DONE, HELLO, ScriptedBackend, Step, openai_client

from adapters.errors import ContextLengthError
from adapters.events import Started, TextDelta
from adapters.request import GenerationRequest

TURNS = [
    {"role": "user", "content": "one " * 10},
    {"role": "assistant", "content": "two " * 10},
    {"role": "user", "content": "three " * 10},
    {"role": "assistant", "content": "four " * 10},
    {"role": "user", "content": "five"},
]
TOOL = {"type": "function", "name": "f", "parameters": {"type": "object"}}


class Limited(ScriptedBackend):
    """Takes prompts of a number of characters."""

    def __init__(self, limit: int, *, tells: bool = True) -> None:
        super().__init__(HELLO)
        self.limit, self.tells = limit, tells

    def _steps(self, request: GenerationRequest) -> Sequence[Step]:
        size = sum([len(message.text) for message in request.prompt])  # type: ignore[union-attr]
        if size <= self.limit:
            return HELLO
        error = ContextLengthError("It is too long.", param="messages")
        if self.tells:
            error.prompt_tokens, error.limit = size, self.limit
        return [error]


def said(backend: ScriptedBackend) -> list[tuple[str, str]]:
    prompt: Any = backend.requests[-1].prompt
    return [(message.role, message.text[:5].strip()) for message in prompt]


# --- truncation ---


@pytest.mark.parametrize("tells", [True, False])
@pytest.mark.parametrize("stream", [True, False])
async def test_oldest_items_are_left_out_where_the_prompt_is_too_long(tells: bool, stream: bool):
    backend = Limited(130, tells=tells)
    async with openai_client(backend) as client:
        answer: Any = await client.responses.create(
            model="m",
            instructions="Be terse.",
            input=TURNS,  # type: ignore[arg-type]
            truncation="auto",
            stream=stream,
        )
        if stream:
            answer = [event async for event in answer][-1].response
    assert answer.output_text == "Hello"
    assert answer.truncation == "auto"
    kept = said(backend)
    assert kept[0] == ("system", "Be te")
    assert kept[-3:] == [("user", "three"), ("assistant", "four"), ("user", "five")]
    assert ("user", "one o") not in kept


async def test_call_stays_with_its_result_and_the_question_stays():
    backend = Limited(60)
    items: list[Any] = [{"role": "user", "content": "question"}]
    for call in ("a", "b"):
        items.append({"type": "function_call", "call_id": call, "name": "f", "arguments": "{}"})
        items.append({"type": "function_call_output", "call_id": call, "output": call * 40})
    async with openai_client(backend) as client:
        await client.responses.create(model="m", input=items, tools=[TOOL], truncation="auto")  # type: ignore[list-item]
    assert said(backend) == [("user", "quest"), ("assistant", ""), ("tool", "bbbbb")]


@pytest.mark.parametrize("truncation", ["disabled", "auto"])
async def test_prompt_that_cannot_become_short_enough_is_an_error(truncation: Any):
    async with openai_client(Limited(2)) as client:
        with pytest.raises(openai.BadRequestError) as caught:
            await client.responses.create(model="m", input=TURNS, truncation=truncation)  # type: ignore[arg-type]
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "input")


# --- compaction ---

SUMMARY: list[Step] = [Started(), TextDelta("They counted "), TextDelta("to five."), DONE]


@pytest.mark.parametrize("stream", [True, False])
async def test_compaction_trigger_is_answered_by_one_compaction(stream: bool):
    backend = ScriptedBackend(SUMMARY)
    backend.counted = backend.counted.__class__(400, exact=True)
    async with openai_client(backend) as client:
        answer: Any = await client.responses.create(
            model="m",
            input=[*TURNS, {"type": "compaction_trigger"}],  # type: ignore[list-item]
            stream=stream,
        )
        if stream:
            events = [event async for event in answer]
            assert [event.type for event in events] == [
                "response.created",
                "response.in_progress",
                "response.output_item.added",
                "response.output_item.done",
                "response.completed",
            ]
            answer = events[-1].response
        assert [item.type for item in answer.output] == ["compaction"]
        assert backend.requests[-1].max_tokens == 100
        again: Any = [*(item.to_dict() for item in answer.output), TURNS[-1]]
        await client.responses.create(model="m", input=again)
    assert [text for _, text in said(backend)] == ["Summa", "five"]


async def test_compaction_of_a_stored_conversation_includes_it():
    backend = ScriptedBackend(SUMMARY)
    async with openai_client(backend) as client:
        first = await client.responses.create(model="m", input="Count.")
        await client.responses.create(
            model="m",
            previous_response_id=first.id,
            input=[{"type": "compaction_trigger"}],  # type: ignore[list-item]
        )
    assert [role for role, _ in said(backend)] == ["user", "assistant", "user"]

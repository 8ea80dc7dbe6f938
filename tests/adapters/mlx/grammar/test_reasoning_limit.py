"""Reasoning that ends when its budget is spent: in the logits of one row, and in answers."""

import json
import math
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from fakes.scripted_model import answer, chat, told, usage_of
from fakes.tiny_model import END, TEMPLATE, config_for, write_tiny_model

from adapters.chat_template.thought_markers import HARMONY_START
from adapters.mlx.backend import MLXBackend
from adapters.mlx.grammar.reasoning_limit import ReasoningLimit
from adapters.mlx.output.detokenize import Vocabulary
from adapters.mlx.output.reasoning import Reasoning
from adapters.request import JSONSchema, Sampling

CITY = {
    "type": "object",
    "properties": {"big": {"type": "boolean"}},
    "required": ["big"],
    "additionalProperties": False,
}


class Row:
    """One row: its tokens, and what may follow them."""

    def __init__(self, tokenizer: Any, start: str, end: str, budget: int, *, is_open: bool) -> None:
        self.tokenizer = tokenizer
        ids = [tuple(tokenizer.encode(text, add_special_tokens=False)) for text in (start, end)]
        reasoning = Reasoning(start, end, *ids)
        self.limit = ReasoningLimit(reasoning, budget, Vocabulary(tokenizer), is_open)
        self.tokens = [1]

    def forced(self, text: str, banned: str = "") -> str:
        """Draw `text`, unless another token is forced; return what was forced."""
        forced = ""
        for wanted in self.tokenizer.encode(text, add_special_tokens=False):
            logits = mx.zeros((1, 258))
            if banned:
                logits[:, self.tokenizer.encode(banned)[0]] = -math.inf
            shaped: Any = self.limit(mx.array(self.tokens, dtype=mx.int32), logits).tolist()
            [*possible] = [token for token, value in enumerate(shaped[0]) if value > -math.inf]
            is_forced = len(possible) == 1
            self.tokens.append(possible[0] if is_forced else wanted)
            forced += self.tokenizer.decode(possible) if is_forced else ""
        return forced


def test_open_reasoning_is_ended_after_its_budget(tokenizer: Any) -> None:
    row = Row(tokenizer, "<t>", "</t>", 5, is_open=True)
    assert row.forced("12345") == ""
    assert row.forced("6789") == "</t>"
    assert row.forced("and then the answer, <t>") == ""
    assert row.limit.error is None


def test_reasoning_that_the_answer_opens_is_counted_from_there(tokenizer: Any) -> None:
    row = Row(tokenizer, "<t>", "</t>", 3, is_open=False)
    assert row.forced(" <t>123") == ""
    assert row.forced("4567 more") == "</t>"


def test_reasoning_that_ends_by_itself_is_left_alone(tokenizer: Any) -> None:
    row = Row(tokenizer, "<t>", "</t>", 9, is_open=True)
    assert row.forced("1</t> and an answer that is much longer than nine") == ""


def test_answer_that_only_mentions_the_marker_has_no_limit(tokenizer: Any) -> None:
    row = Row(tokenizer, "<t>", "</t>", 2, is_open=False)
    assert row.forced("The marker <t> is text here, whatever follows") == ""


def test_budget_of_nothing_ends_reasoning_at_once(tokenizer: Any) -> None:
    assert Row(tokenizer, "<t>", "</t>", 0, is_open=True).forced("1234 answer") == "</t>"


def test_marker_that_a_grammar_forbids_waits_for_a_place(tokenizer: Any) -> None:
    row = Row(tokenizer, "<t>", "</t>", 2, is_open=True)
    assert row.forced("12345", banned="<") == ""
    assert row.forced("6789") == "</t>"


def test_channel_that_opens_again_has_no_budget_left(tokenizer: Any) -> None:
    row = Row(tokenizer, HARMONY_START, "</t>", 3, is_open=False)
    assert row.forced(f"{HARMONY_START}123") == ""
    assert row.forced("4567") == "</t>"
    assert row.forced(f"{HARMONY_START}4567") == "</t>"


@pytest.fixture
async def backend(tmp_path: Path) -> AsyncGenerator[MLXBackend]:
    opening = TEMPLATE.replace("assistant\n", "assistant\n<think>\n")
    write_tiny_model(tmp_path / "thinker", template=f"{opening}{{# </think> #}}", context=2048)
    backend = MLXBackend(config_for(tmp_path))
    yield backend
    await backend.aclose()


ENDLESS = Sampling(temperature=1.0, seed=3, logit_bias={END: -100})


@pytest.mark.slow
async def test_answer_follows_reasoning_that_was_ended(backend: MLXBackend) -> None:
    events = await answer(
        backend,
        chat(model="thinker", reasoning_budget=12, sampling=ENDLESS, max_tokens=60),
    )
    said, usage = told(events), usage_of(events)
    assert said["text"]
    assert said["reasoning"]
    assert usage.reasoning_tokens == 12 + len("</think>")
    assert usage.completion_tokens == 60


@pytest.mark.slow
async def test_reasoning_without_a_budget_takes_the_whole_answer(backend: MLXBackend) -> None:
    events = await answer(backend, chat(model="thinker", sampling=ENDLESS, max_tokens=60))
    assert told(events)["text"] == ""


@pytest.mark.slow
async def test_schema_is_kept_after_reasoning_that_was_ended(backend: MLXBackend) -> None:
    request = chat(
        model="thinker",
        reasoning_budget=9,
        response_format=JSONSchema(CITY, strict=True),
        sampling=Sampling(temperature=1.0, seed=5),
    )
    said = told(await answer(backend, request))
    assert isinstance(json.loads(said["text"])["big"], bool)
    assert said["reason"] == "stop"

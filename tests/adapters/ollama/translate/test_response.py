"""Ollama's lines -> Tandem's events, from literal and from recorded JSON."""

import json
from typing import Any

import msgspec
import pytest

from adapters.errors import BadUpstreamError
from adapters.events import (
    Event,
    Finished,
    ReasoningDelta,
    TextDelta,
    Timings,
    TokenLogprob,
    ToolCallDelta,
    ToolCallStarted,
    Usage,
)
from adapters.ollama.translate.response import Answer
from adapters.ollama.wire import Line


def events_of(*lines: dict[str, Any]) -> list[Event]:
    answer, events = Answer(), list[Event]()
    answer.emit = events.append
    for line in lines:
        answer.read(msgspec.json.decode(json.dumps(line).encode(), type=Line))
        if line.get("done"):
            events.append(answer.finished)
    return events


def call(name: str, arguments: Any, **fields: Any) -> dict[str, Any]:
    function = {"index": 0, "name": name, "arguments": arguments}
    return {"message": {"content": "", "tool_calls": [{"function": function} | fields]}}


DONE = {"message": {"content": ""}, "done": True, "done_reason": "stop"}
NONE = Usage(prompt_tokens=0, completion_tokens=0)


def test_text_and_the_end():
    done = DONE | {"prompt_eval_count": 16, "eval_count": 8}
    assert events_of({"message": {"role": "assistant", "content": "Hi"}, "done": False}, done) == [
        TextDelta("Hi"),
        Finished("stop", Usage(prompt_tokens=16, completion_tokens=8)),
    ]


def test_counts_that_are_absent_are_zero():
    assert events_of(DONE) == [Finished("stop", NONE)]


NULLS = dict.fromkeys(
    (
        "done",
        "done_reason",
        "error",
        "logprobs",
        "response",
        "thinking",
        "prompt_eval_count",
        "eval_count",
        "load_duration",
        "prompt_eval_duration",
        "eval_duration",
    )
)
NO_MESSAGE = {"content": None, "thinking": None, "tool_calls": None, "images": None}


def test_null_is_the_same_as_absent():
    function = {"name": "a", "arguments": {}}
    started, *rest = events_of(
        NULLS | {"message": NO_MESSAGE | {"tool_calls": [{"id": None, "function": function}]}},
        NULLS | {"message": NO_MESSAGE | {"thinking": "Hm"}},
        NULLS | {"message": NO_MESSAGE | {"content": "Hi"}},
        NULLS | {"message": NO_MESSAGE, "logprobs": [{"token": "", "logprob": 0.0}]},
        NULLS | {"message": NO_MESSAGE, "done": True},
    )
    assert isinstance(started, ToolCallStarted)
    assert rest == [
        ToolCallDelta(0, "{}"),
        ReasoningDelta("Hm"),
        TextDelta("Hi"),
        TextDelta("", (TokenLogprob(token="", logprob=0.0),)),
        Finished("tool_calls", NONE),
    ]


def test_durations_are_ollamas_own():
    done = DONE | {"load_duration": 1, "prompt_eval_duration": 2, "eval_duration": 3}
    told = Timings(load=1, prompt=2, answer=3)
    assert events_of(done) == [Finished("stop", NONE, timings=told)]


def test_last_line_may_carry_text():
    assert events_of(DONE | {"message": {"content": "Hi"}}) == [
        TextDelta("Hi"),
        Finished("stop", NONE),
    ]


def test_raw_text():
    assert events_of({"response": " Paris"}, {"response": "", "done": True}) == [
        TextDelta(" Paris"),
        Finished("stop", NONE),
    ]


def test_thinking_comes_before_the_text_of_the_same_line():
    assert events_of({"message": {"thinking": "Hm", "content": "4"}}) == [
        ReasoningDelta("Hm"),
        TextDelta("4"),
    ]


@pytest.mark.parametrize("reason", ["stop", "", None, "something new"])
def test_reason_is_stop_unless_it_says_length(reason: str | None):
    assert events_of(DONE | {"done_reason": reason}) == [Finished("stop", NONE)]


def test_calls_are_counted_here_whatever_index_they_come_with():
    events = events_of(call("a", {"x": 1}, id="call_1"), call("b", {}, id="call_2"), DONE)
    assert events == [
        ToolCallStarted(0, "call_1", "a"),
        ToolCallDelta(0, '{"x": 1}'),
        ToolCallStarted(1, "call_2", "b"),
        ToolCallDelta(1, "{}"),
        Finished("tool_calls", NONE),
    ]


def test_call_without_an_id_gets_one_of_its_own():
    first, _, second, _ = events_of(call("a", {}), call("a", {}, id=""))
    assert isinstance(first, ToolCallStarted)
    assert isinstance(second, ToolCallStarted)
    assert first.id.startswith("call_")
    assert second.id.startswith("call_")
    assert first.id != second.id


def test_call_with_the_id_of_an_earlier_one_gets_one_of_its_own():
    first, _, second, _ = events_of(call("a", {"x": 1}, id="call_1"), call("a", {}, id="call_1"))
    assert isinstance(first, ToolCallStarted)
    assert isinstance(second, ToolCallStarted)
    assert first.id == "call_1"
    assert second.id.startswith("call_")
    assert second.id != first.id


def test_arguments_in_a_string_are_taken_out_of_it():
    assert events_of(call("a", '{"x": "é"}'))[1] == ToolCallDelta(0, '{"x": "é"}')


@pytest.mark.parametrize("arguments", [None, 3, [1], '{"x": ', "[1]", "", "3"])
def test_arguments_that_are_no_object_make_no_sense(arguments: Any):
    with pytest.raises(BadUpstreamError):
        events_of(call("a", arguments))


def test_answer_cut_after_a_call_is_not_passed_on_as_a_success():
    assert events_of(call("a", {}), DONE | {"done_reason": "length"})[-1] == Finished(
        "length", NONE
    )


def test_line_without_content_is_an_unexpected_response():
    with pytest.raises(BadUpstreamError):
        events_of({"status": "pulling manifest"})


def test_logprobs_stand_beside_their_text():
    other = {"token": "B", "logprob": -2.5, "bytes": [66]}
    token = {"token": "A", "logprob": -0.5, "bytes": [65], "top_logprobs": [other]}
    expected = TokenLogprob(
        token="A",
        logprob=-0.5,
        bytes=(65,),
        top=(TokenLogprob(token="B", logprob=-2.5, bytes=(66,)),),
    )
    assert events_of({"message": {"content": "A"}, "logprobs": [token]}) == [
        TextDelta("A", (expected,))
    ]


def piece(tokens: list[str], text: str = "", thinking: str = "") -> dict[str, Any]:
    """A line of Ollama with reported tokens; each is one character of Latin-1, which is a byte."""
    reported = [
        {"token": "�", "logprob": 0.0, "bytes": list(each.encode("latin-1"))} for each in tokens
    ]
    return {"message": {"content": text, "thinking": thinking}, "logprobs": reported}


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([piece(["\xc3"]), piece(["\xa4"], "ä")], [("ä", ["\xc3", "\xa4"])]),
        ([piece(["\xc3"]), DONE], [("", ["\xc3"])]),
        ([piece(["<"]), piece(["b"], "<b")], [("<b", ["<", "b"])]),
        ([piece(["\n"]), piece(["I"], thinking="\nI"), DONE], []),
        (
            [piece(["I"], thinking="I"), piece(["</think>"]), piece(["\n"]), piece(["A"], "A")],
            [("A", ["A"])],
        ),
        ([piece(["{"]), piece(["}"]), call("f", {}), DONE], []),
    ],
    ids=["character", "cut", "no marker", "thought", "end of a thought", "call"],
)
def test_tokens_without_text_are_reported_with_the_text_that_they_become(
    lines: list[dict[str, Any]], expected: list[tuple[str, list[str]]]
):
    texts = [event for event in events_of(*lines) if isinstance(event, TextDelta)]
    assert [
        (text.text, [bytes(token.bytes or ()).decode("latin-1") for token in text.logprobs or ()])
        for text in texts
    ] == expected


def test_logprobs_of_thinking_are_left_out():
    token = {"token": "Hm", "logprob": -0.5}
    events = events_of({"message": {"thinking": "Hm"}, "logprobs": [token]})
    assert events == [ReasoningDelta("Hm")]

"""Sinks of the server: the order of events, choices, restarts, turns for other tasks."""

import asyncio

import pytest
from fakes.scripted_backend import DONE, HELLO, EndlessBackend, ScriptedBackend
from msgspec.structs import replace

from adapters.errors import BadUpstreamError
from adapters.events import Event, PromptProgress, Restarted, Started, TextDelta
from adapters.request import GenerationRequest
from proxy.record import Attempt
from proxy.sinks import Answer, CheckedSink, Collector

REQUEST = GenerationRequest(model="m", prompt="Hi")
TWO = [
    Started(),
    TextDelta("b", choice=1),
    TextDelta("a"),
    DONE,
    TextDelta("B", choice=1),
    replace(DONE, choice=1),
]


async def collect(backend: ScriptedBackend, choices: int = 1) -> tuple[Answer, ...]:
    collector = Collector()
    checked = CheckedSink(collector, Attempt("scripted", "m", choices))
    await backend.generate(replace(REQUEST, n=choices), checked)
    checked.end()
    return collector.answers()


async def test_collector_joins_the_pieces():
    (answer,) = await collect(ScriptedBackend(HELLO[:]))
    assert (answer.text, answer.finished) == ("Hello", DONE)


@pytest.mark.parametrize(
    "script",
    [[], [DONE], [Started()], [Started(), Started()], [TextDelta("x")], [*HELLO, TextDelta("x")]],
)
async def test_events_out_of_order_are_the_backends_fault(script: list[Event]):
    backend = ScriptedBackend(script)
    with pytest.raises(BadUpstreamError):
        await collect(backend)
    assert backend.closed.is_set()


async def test_collector_keeps_choices_apart():
    answers = await collect(ScriptedBackend(TWO), 2)
    assert [(answer.text, answer.finished.choice) for answer in answers] == [("a", 0), ("bB", 1)]


@pytest.mark.parametrize(
    "script",
    [
        TWO[:-1],
        [*TWO, TWO[-1]],
        [Started(), DONE, TextDelta("late"), replace(DONE, choice=1)],
        [Started(), TextDelta("x", choice=2), DONE, replace(DONE, choice=1)],
    ],
    ids=["one has no end", "one ends twice", "one goes on", "one was not requested"],
)
async def test_choices_out_of_order_are_the_backends_fault(script: list[Event]):
    with pytest.raises(BadUpstreamError):
        await collect(ScriptedBackend(script), 2)


async def test_progress_of_a_prompt_goes_to_the_record_and_no_further():
    collector, attempt = Collector(), Attempt("scripted", "m")
    passed: list[Event] = []

    class Sink(Collector):
        def write(self, event: Event, /) -> bool:
            passed.append(event)
            return collector.write(event)

    checked = CheckedSink(Sink(), attempt)
    progress = PromptProgress(read=128, total=512, cached=64)
    for event in (Started(), progress, *HELLO[1:]):
        checked.write(event)
    checked.end()
    assert attempt.progress == progress
    assert passed == list(HELLO)
    assert attempt.pieces == 2


async def test_restarted_choice_is_collected_from_its_new_beginning():
    script = [Started(), TextDelta("lost"), Restarted(7), *HELLO[1:]]
    (answer,) = await collect(ScriptedBackend(script))
    assert answer.text == "Hello"


async def test_second_attempt_voids_what_the_first_has_written():
    collector = Collector()
    first = CheckedSink(collector, Attempt("one", "m"))
    for event in (Started(), TextDelta("lost")):
        first.write(event)
    second = CheckedSink(collector, Attempt("two", "m"), restarts=True)
    for event in HELLO:
        second.write(event)
    assert [answer.text for answer in collector.answers()] == ["Hello"]


async def test_backend_that_never_waits_leaves_turns_to_others():
    turns = 0

    async def other() -> None:
        nonlocal turns
        while turns < 50:
            turns += 1
            await asyncio.sleep(0)

    endless = asyncio.create_task(collect(EndlessBackend()))
    await other()
    endless.cancel()
    with pytest.raises(asyncio.CancelledError):
        await endless
    assert turns == 50

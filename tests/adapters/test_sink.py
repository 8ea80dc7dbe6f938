"""The iterator over events, and several writers on one sink."""

import asyncio
import gc

import pytest
from fakes.scripted_backend import DONE, HELLO, EndlessBackend, ScriptedBackend
from msgspec.structs import replace

from adapters.errors import BackendBusyError, GenerationError
from adapters.events import Event, Finished, Started, TextDelta
from adapters.request import GenerationRequest
from adapters.sink import Sink, events, write_together

REQUEST = GenerationRequest(model="m", prompt="Hi")


class Listing:
    """A sink that lists the events."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def write(self, event: Event, /) -> bool:
        self.events.append(event)
        return False

    async def drain(self) -> None:
        """Return at once."""


async def test_iterator_yields_all_events_in_order():
    assert [event async for event in events(ScriptedBackend(), REQUEST)] == list(HELLO)


async def test_iterator_raises_after_the_events_before_the_error():
    breaks = ScriptedBackend([Started(), TextDelta("a"), GenerationError("It broke.")])
    stream = events(breaks, REQUEST)
    assert [await anext(stream), await anext(stream)] == [Started(), TextDelta("a")]
    with pytest.raises(GenerationError):
        await anext(stream)


async def test_closed_iterator_stops_the_work():
    backend = EndlessBackend()
    stream = events(backend, REQUEST)
    assert await anext(stream) == Started()
    assert backend.running == 1
    await stream.aclose()
    assert backend.running == 0


async def test_slow_reader_holds_up_the_writer():
    backend = EndlessBackend()
    stream = events(backend, REQUEST)
    for _ in range(1000):
        await anext(stream)
    await stream.aclose()
    assert backend.running == 0


def writer(*script: Event | Exception) -> ScriptedBackend:
    return ScriptedBackend(script)


async def together(sink: Sink, *backends: ScriptedBackend, choices: int = 1) -> None:
    writers = [
        lambda inner, backend=backend: backend.generate(REQUEST, inner) for backend in backends
    ]
    await write_together(writers, sink, choices=choices)


async def test_choices_of_several_writers_are_numbered_through():
    listing = Listing()
    two = (Started(), replace(DONE, choice=0), replace(DONE, choice=1))
    await together(listing, writer(*two), writer(*two), choices=2)
    ends = [event.choice for event in listing.events if isinstance(event, Finished)]
    assert sorted(ends) == [0, 1, 2, 3]
    assert listing.events.count(Started()) == 1


async def test_first_error_ends_all_writers():
    hanging = ScriptedBackend([Started(), "hang"])
    with pytest.raises(BackendBusyError):
        await together(Listing(), hanging, writer(BackendBusyError("later")))
    assert hanging.running == 0


@pytest.mark.slow
async def test_errors_of_several_writers_leave_no_warning():
    failing = [writer(BackendBusyError("one")), writer(GenerationError("two"))]
    with pytest.raises(BackendBusyError, match="one"):
        await together(Listing(), *failing)
    gc.collect()  # A task with a failure that was not retrieved would warn now.
    await asyncio.sleep(0)

"""Several answers as one: what `/v1/completions` makes of several prompts."""

import asyncio
from collections.abc import AsyncGenerator, Sequence

from anyio import move_on_after
from msgspec.structs import replace

from adapters.events import Event, Started
from proxy.sinks import CLOSING, closing

_AT_ONCE = 8
"""Prompts of one request that are worked on together: the others' turns come first."""

_Item = Event | Exception | None


def merge(streams: Sequence[AsyncGenerator[Event]], choices: int) -> AsyncGenerator[Event]:
    """The events of all `streams`; choice c of stream s becomes `s * choices + c`.

    `Started` comes with the first that starts. One error ends all, and so does closing this.

    Raises:
        BackendError: the first that one of them raised.
    """
    return streams[0] if len(streams) == 1 else _merge(streams, choices)


async def _merge(streams: Sequence[AsyncGenerator[Event]], choices: int) -> AsyncGenerator[Event]:
    queue: asyncio.Queue[_Item] = asyncio.Queue(maxsize=len(streams))
    gate = asyncio.Semaphore(_AT_ONCE)
    tasks = [
        asyncio.create_task(_pump(events, at * choices, gate, queue))
        for at, events in enumerate(streams)
    ]
    try:
        async for event in _until_all_end(queue, len(streams)):
            yield event
    finally:
        for task in tasks:
            task.cancel()
        with move_on_after(CLOSING, shield=True):
            await asyncio.wait(tasks)


async def _pump(
    events: AsyncGenerator[Event], first: int, gate: asyncio.Semaphore, queue: asyncio.Queue[_Item]
) -> None:
    try:
        async with closing(events), gate:
            async for event in events:
                await queue.put(_moved(event, first))
    except Exception as exc:
        await queue.put(exc)
    else:
        await queue.put(None)


def _moved(event: Event, first: int) -> Event:
    if isinstance(event, Started) or not first:
        return event
    return replace(event, choice=event.choice + first)


async def _until_all_end(queue: asyncio.Queue[_Item], running: int) -> AsyncGenerator[Event]:
    started = False
    while running:
        item = await queue.get()
        if isinstance(item, Exception):
            raise item
        if item is None:
            running -= 1
        elif not (started and isinstance(item, Started)):
            started = True
            yield item

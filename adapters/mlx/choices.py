"""The answers of one request, read side by side."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from adapters.events import Event


async def interleave(streams: list[AsyncGenerator[Event]]) -> AsyncGenerator[Event]:
    """The events of all `streams` as they come; the order within each is kept.

    Closing it closes them. The first that raises ends all.
    """
    if len(streams) == 1:
        async with aclosing(streams[0]) as only:
            async for event in only:
                yield event
        return
    queue: asyncio.Queue[Event | Exception | None] = asyncio.Queue()
    tasks = [asyncio.create_task(_pump(stream, queue)) for stream in streams]
    try:
        left = len(tasks)
        while left:
            match await queue.get():
                case None:
                    left -= 1
                case Exception() as error:
                    raise error
                case event:
                    yield event
    finally:
        for task in tasks:
            task.cancel()


async def _pump(
    stream: AsyncGenerator[Event], queue: asyncio.Queue[Event | Exception | None]
) -> None:
    try:
        async with aclosing(stream) as events:
            async for event in events:
                queue.put_nowait(event)
    except Exception as error:
        queue.put_nowait(error)
    else:
        queue.put_nowait(None)

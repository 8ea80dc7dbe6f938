"""Background answers in progress: their events so far, and the streams that follow them."""

import asyncio
from collections.abc import AsyncGenerator, Sequence

_FRAME_END = b"\n\n"
_FRAMES_A_TURN = 64
"""Frames after which a backend that never waits has to yield."""


def to_frames(events: bytes) -> list[bytes]:
    """Split server-sent events; JSON has no line breaks, so no event contains an empty line."""
    return [frame + _FRAME_END for frame in events.split(_FRAME_END)[:-1]]


class Running:
    """The events of one answer. The event with the sequence number n is the frame n."""

    def __init__(self, streams: bool) -> None:
        self.streams = streams
        """True if the client wants the events, and not only the object at the end."""
        self.task: asyncio.Task[None] | None = None
        """The task that writes the answer."""
        self._cancelled = False
        self._frames: list[bytes] = []
        self._shown = 0
        """The frames that streams may have; the others wait until the answer was stored."""
        self._held = False
        self._ended = False
        self._news = asyncio.Event()

    def put(self, events: bytes) -> bool:
        """Add events; true where the writer should wait in `drain`."""
        before = len(self._frames)
        self._frames += to_frames(events)
        if not self._held:
            self._show()
        return before // _FRAMES_A_TURN != len(self._frames) // _FRAMES_A_TURN

    async def drain(self) -> None:
        """Give other tasks a turn; nothing limits how far an answer is ahead of its readers."""
        await asyncio.sleep(0)

    def hold(self) -> None:
        """Keep back what follows until the `release`."""
        self._held = True

    def release(self) -> None:
        self._held = False
        self._show()

    def end(self) -> None:
        """Show everything; nothing follows."""
        self._ended = True
        self.release()

    async def cancel(self) -> None:
        """Cancel the task, once, and wait for its end."""
        if self.task is None:
            return
        if not self._cancelled:
            self._cancelled = True
            await asyncio.sleep(0)  # A task that has not begun would end without its cleanup.
            self.task.cancel()
        await asyncio.wait((self.task,))

    @property
    def events(self) -> bytes:
        """All events so far, also those that are held back."""
        return b"".join(self._frames)

    async def frames(self, start: int) -> AsyncGenerator[Sequence[bytes]]:
        """Iterate over the frames from number `start` to the end of the answer, as they come."""
        while True:
            news = self._news
            if frames := self._frames[start : self._shown]:
                start += len(frames)
                yield frames
            elif self._ended:
                return
            else:
                await news.wait()

    def _show(self) -> None:
        self._shown = len(self._frames)
        self._news.set()
        self._news = asyncio.Event()


class RunningAnswers:
    """The background answers of this process, by caller and id."""

    def __init__(self) -> None:
        self._running: dict[tuple[str, str], Running] = {}

    def add(self, caller: str, key: str, *, streams: bool) -> Running:
        running = self._running[caller, key] = Running(streams)
        return running

    def remove(self, caller: str, key: str) -> None:
        del self._running[caller, key]

    def get(self, caller: str, key: str) -> Running | None:
        return self._running.get((caller, key))

    async def cancel(self, caller: str, key: str) -> None:
        """Cancel the answer, if it is in progress, and wait for its end."""
        running = self.get(caller, key)
        if running is not None:
            await running.cancel()

    async def ended(self) -> None:
        """Wait for the end of all answers."""
        tasks = [each.task for each in self._running.values() if each.task is not None]
        if tasks:
            await asyncio.wait(tasks)

"""What passes between the event loop and the engine's thread: one answer in the making."""

import asyncio
import secrets
from typing import Literal

from msgspec import Struct

from adapters.errors import BackendError
from adapters.request import Sampling

Finish = Literal["stop", "length"]


class Sampled(Struct, frozen=True):
    """One token. `finish` is "stop" where it is an end token, "length" where it is the last one."""

    token: int
    finish: Finish | None


class Sequence:
    """Token ids in, token ids out. Made and read on the event loop, advanced by the engine."""

    def __init__(self, model: str, prompt: list[int], max_tokens: int, sampling: Sampling) -> None:
        self.model = model
        self.prompt = prompt
        self.max_tokens = max_tokens
        self.sampling = sampling
        self.entropy = secrets.randbits(64)
        self.loop = asyncio.get_running_loop()
        self.cancelled = False
        self.ended = False
        self._mailbox: asyncio.Queue[Sampled | BackendError] = asyncio.Queue()

    def deliver(self, post: Sampled | BackendError) -> None:
        """On the event loop. The mailbox holds at most `max_tokens` small structs."""
        self.ended = isinstance(post, BackendError) or post.finish is not None
        self._mailbox.put_nowait(post)

    async def next(self) -> Sampled:
        """
        Raises:
            BackendError: the engine gave this sequence up.
        """
        post = await self._mailbox.get()
        if isinstance(post, BackendError):
            raise post
        return post

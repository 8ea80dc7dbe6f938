"""A client of the MLX engine below the text: sequences in, tokens out, no backend needed."""

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from adapters.errors import BackendError
from adapters.mlx.engine.engine import Engine
from adapters.mlx.models.load import LoadedModel
from adapters.mlx.models.load_progress import Extras, Loading
from adapters.mlx.sequence import ChunkRead, Post, PromptRead, Sampled, Sequence


class EngineClient:
    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._posts: dict[Sequence, asyncio.Queue[Post]] = {}

    async def load(self, path: Path, draft: Path | None = None) -> LoadedModel:
        """Load a folder under its own name; a model that is loaded already is returned."""
        loading = self.engine.load(path, Loading(path.name), Extras(draft=draft))
        return await asyncio.wrap_future(loading)

    def submit(self, *sequences: Sequence) -> None:
        """Submit each sequence as a request of its own."""
        for sequence in sequences:
            self._posts[sequence] = asyncio.Queue()
            self.engine.submit((sequence,), self._receive)

    def _receive(self, sequence: Sequence, post: Post) -> None:
        if isinstance(post, ChunkRead):
            return  # Progress is no part of an answer.
        if sequence in self._posts:  # Else it was released while the step ran.
            self._posts[sequence].put_nowait(post)

    def release(self, sequence: Sequence, *, answered: bool = False) -> None:
        del self._posts[sequence]
        self.engine.release(sequence, answered=answered)

    async def next(self, sequence: Sequence) -> Sampled | PromptRead | ChunkRead | None:
        """Return the next result; the first one of all is `None`, the admission."""
        post = await self._posts[sequence].get()
        if isinstance(post, BackendError):
            raise post
        return post

    async def sampled(self, sequence: Sequence) -> list[Sampled]:
        """Return all tokens, and release the sequence."""
        try:
            tokens: list[Sampled] = []
            while not tokens or tokens[-1].finish is None:
                post = await self.next(sequence)
                tokens += [post] if isinstance(post, Sampled) else []
            return tokens
        finally:
            self.release(sequence, answered=True)

    async def tokens(self, sequence: Sequence) -> list[int]:
        return [sampled.token for sampled in await self.sampled(sequence)]

    async def answer(self, *sequences: Sequence) -> list[Any]:
        """Answer all at once: the tokens or the error of each."""
        self.submit(*sequences)
        return await asyncio.gather(*map(self.tokens, sequences), return_exceptions=True)


async def rows(engine: Engine) -> int:
    """Count the rows after all commands sent before this call."""
    return await asyncio.wrap_future(engine.run(lambda: engine.counters()["rows"]))


@asynccontextmanager
async def paused(engine: Engine) -> AsyncGenerator[None]:
    """Hold the engine between two steps. What is submitted meanwhile arrives together."""
    entered, gate = threading.Event(), threading.Event()

    def hold() -> None:
        entered.set()
        if not gate.wait(30):
            raise TimeoutError("the test never let the engine go on")

    engine.run(hold)
    try:
        assert await asyncio.to_thread(entered.wait, 30)
        yield
    finally:
        gate.set()


Shape = tuple[int, int]
"""Rows and tokens of a forward pass: one token for a step of decoding, more for a prompt."""


class ForwardPasses:
    """Records the forward passes of the models of one class; `before` may hold or fail one."""

    def __init__(self, patch: pytest.MonkeyPatch, model_class: type) -> None:
        self.shapes: list[Shape] = []
        self.before: Callable[[Shape], None] = lambda _shape: None
        forward: Any = model_class.__call__

        def recorded(model: Any, inputs: mx.array, *args: Any, **kwargs: Any) -> mx.array:
            rows, tokens = inputs.shape
            self.before((rows, tokens))
            self.shapes.append((rows, tokens))
            return forward(model, inputs, *args, **kwargs)

        patch.setattr(model_class, "__call__", recorded)

    @property
    def prompts(self) -> list[Shape]:
        return [shape for shape in self.shapes if shape[1] > 1]


class HeldPass:
    """A `ForwardPasses.before` that holds the first pass that `wanted` is true for."""

    def __init__(self, wanted: Callable[[Shape], bool]) -> None:
        self._wanted = wanted
        self._reached, self._gate = threading.Event(), threading.Event()

    def __call__(self, shape: Shape) -> None:
        if self._wanted(shape) and not self._reached.is_set():
            self._reached.set()
            if not self._gate.wait(30):
                raise TimeoutError("the test never let this pass go on")

    async def reached(self) -> None:
        assert await asyncio.to_thread(self._reached.wait, 30)

    def go_on(self) -> None:
        self._gate.set()

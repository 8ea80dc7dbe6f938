"""Loaded embedding models: one engine job for each batch, so that decoding never waits long.

Runs on the event loop; all work on arrays is sent to the engine thread.
"""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, TypeVar

from adapters.backend import Embeddings
from adapters.errors import InvalidRequestError
from adapters.mlx.jobs import Pieces
from adapters.mlx.models.load_progress import Loading
from adapters.request import EmbeddingRequest

if TYPE_CHECKING:
    # Imports mlx and transformers, which an idle server does not load.
    from adapters.mlx.embedding.embedder import Embedder

T = TypeVar("T")

_BATCH_TOKENS = 1024
"""Padding included: tens of milliseconds on a GPU, a second on two slow cores."""
_BATCH_ROWS = 64
_MAX_PADDING = 0.25
"""Largest share of padding in a batch; above it a further batch costs less."""


class Thread(Protocol):
    """The part of the engine that is used here."""

    def run(self, job: Callable[[], T]) -> "Future[T]": ...
    def run_in_pieces(self, start: Callable[[], Pieces[T]]) -> "Future[T]": ...


class Embedders:
    def __init__(
        self, thread: Thread, tokenizing: Executor, dequantize: Literal["auto", "always", "never"]
    ) -> None:
        self._thread = thread
        self._tokenizing = tokenizing
        self._dequantize: Literal["auto", "always", "never"] = dequantize
        self._loaded: dict[str, Embedder] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._loaded

    async def load(self, path: Path, loading: Loading) -> None:
        """Load the model in `path` as `loading.name`.

        Raises:
            GenerationError: the model cannot be run here.
            BackendUnavailableError: no request waits for it any more.
        """
        self._loaded[loading.name] = await asyncio.wrap_future(
            self._thread.run_in_pieces(lambda: _load(path, self._dequantize, loading))
        )

    async def unload(self, name: str) -> None:
        if self._loaded.pop(name, None) is not None:
            from adapters.mlx.models.load import free_memory  # Imported by the first load.

            await asyncio.wrap_future(self._thread.run(free_memory))

    async def embed(self, request: EmbeddingRequest) -> Embeddings:
        """Compute the vectors of a request. The model has to be loaded.

        Raises:
            InvalidRequestError, ContextLengthError: see `Backend.embed`.
        """
        embedder = self._loaded[request.model]
        if not request.inputs:
            raise InvalidRequestError("There is no input.", param="input")
        loop = asyncio.get_running_loop()
        ids = await loop.run_in_executor(self._tokenizing, embedder.to_ids, request.inputs)
        vectors: dict[int, tuple[float, ...]] = {}
        for batch in to_batches([len(row) for row in ids], _BATCH_TOKENS):
            rows = [ids[index] for index in batch]
            # One job for each batch: between two of them the engine does a step of all others.
            job = self._thread.run(lambda rows=rows: embedder.embed(rows))
            full = await asyncio.wrap_future(job)
            cut = [_truncate(vector, request.dimensions) for vector in full]
            vectors.update(zip(batch, cut, strict=True))
        ordered = tuple(vectors[index] for index in range(len(ids)))
        return Embeddings(ordered, prompt_tokens=sum(map(len, ids)))


def _load(
    path: Path, dequantize: Literal["auto", "always", "never"], loading: Loading
) -> "Pieces[Embedder]":
    from adapters.mlx.embedding.embedder import load_embedder

    return (yield from load_embedder(path, dequantize, loading))


def to_batches(
    lengths: Sequence[int], max_tokens: int, max_rows: int = _BATCH_ROWS
) -> list[tuple[int, ...]]:
    """Group inputs of similar length: indices into `lengths`, each once, longest first.

    A batch has at most `max_tokens`, padding included; a longer input is a batch of its own.
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        last = [lengths[row] for row in batches[-1]] if batches else []
        area = last[0] * (len(last) + 1) if last else 0
        padding = area - sum(last) - lengths[index]
        has_space = area <= max_tokens and padding <= _MAX_PADDING * area
        if 0 < len(last) < max_rows and has_space:
            batches[-1].append(index)
        else:
            batches.append([index])
    return [tuple(batch) for batch in batches]


def _truncate(vector: tuple[float, ...], dimensions: int | None) -> tuple[float, ...]:
    """Keep the first `dimensions` components and scale them to length 1 again."""
    if dimensions is None or dimensions == len(vector):
        return vector
    if not 0 < dimensions < len(vector):
        raise InvalidRequestError(
            f"The vectors of this model have {len(vector)} dimensions, not {dimensions}.",
            param="dimensions",
        )
    first = vector[:dimensions]
    length = sum(value * value for value in first) ** 0.5
    return tuple(value / length for value in first) if length else first

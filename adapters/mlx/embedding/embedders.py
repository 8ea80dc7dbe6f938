"""The models that embed: loaded once, fed batch by batch, so that no row that decodes waits long.

Lives on the event loop; what touches arrays is sent to the engine's thread.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, TypeVar

from adapters.backend import Embeddings
from adapters.errors import InvalidRequestError
from adapters.mlx.embedding.batches import to_batches
from adapters.mlx.jobs import Pieces
from adapters.mlx.models.load_progress import Loading
from adapters.request import EmbeddingRequest

if TYPE_CHECKING:
    # Importing it loads mlx and transformers, which an idle server does without.
    from adapters.mlx.embedding.embedder import Embedder

T = TypeVar("T")

_BATCH_TOKENS = 1024
"""Padding included: a step of some tens of milliseconds on a GPU, of a second on two slow cores."""


class Thread(Protocol):
    """The engine, as far as it is needed here."""

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
        """
        Raises:
            GenerationError: the files are not a model that can be run here.
            BackendUnavailableError: nobody waits for it any more.
        """
        self._loaded[loading.name] = await asyncio.wrap_future(
            self._thread.run_in_pieces(lambda: _load(path, self._dequantize, loading))
        )

    async def unload(self, name: str) -> None:
        if self._loaded.pop(name, None) is not None:
            await asyncio.wrap_future(self._thread.run(_free))

    async def embed(self, request: EmbeddingRequest) -> Embeddings:
        """The model has to be loaded.

        Raises:
            InvalidRequestError, ContextLengthError: as `Backend.embed`.
        """
        embedder = self._loaded[request.model]
        if not request.inputs:
            raise InvalidRequestError("There is no input.", param="input")
        loop = asyncio.get_running_loop()
        ids = await loop.run_in_executor(self._tokenizing, embedder.to_ids, request.inputs)
        vectors: dict[int, tuple[float, ...]] = {}
        for batch in to_batches([len(each) for each in ids], _BATCH_TOKENS):
            rows = [ids[place] for place in batch]
            # One command each: between two of them the engine takes a step of everybody else.
            job = self._thread.run(lambda rows=rows: embedder.embed(rows))
            found = [_cut(each, request.dimensions) for each in await asyncio.wrap_future(job)]
            vectors.update(zip(batch, found, strict=True))
        ordered = tuple(vectors[place] for place in range(len(ids)))
        return Embeddings(ordered, prompt_tokens=sum(map(len, ids)))


def _load(
    path: Path, dequantize: Literal["auto", "always", "never"], loading: Loading
) -> "Pieces[Embedder]":
    from adapters.mlx.embedding.embedder import load_embedder

    return (yield from load_embedder(path, dequantize, loading))


def _free() -> None:
    from adapters.mlx.models.load import free_memory

    free_memory()


def _cut(vector: tuple[float, ...], dimensions: int | None) -> tuple[float, ...]:
    """The first `dimensions` components, scaled to length 1 again."""
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

"""Models in memory, by kind: how each kind is loaded, used and unloaded.

The objects live on the event loop; arrays are touched on the engine's thread only. A new kind is a
class here and a line of `kind_of`.
"""

import asyncio
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol, Self

from adapters.backend import Embeddings, Model
from adapters.errors import InvalidRequestError
from adapters.mlx.audio.speech import SpeechModel
from adapters.mlx.audio.transcription import TranscriptionModel
from adapters.mlx.embedding.batches import to_batches
from adapters.mlx.engine.engine import Engine
from adapters.mlx.jobs import Pieces
from adapters.mlx.models.load_progress import Extras, Loading
from adapters.request import EmbeddingRequest

if TYPE_CHECKING:
    # Importing these loads mlx and transformers, which an idle server does without.
    from adapters.mlx.embedding.embedder import Embedder
    from adapters.mlx.models.load import LoadedModel

Dequantize = Literal["auto", "always", "never"]

_BATCH_TOKENS = 1024
"""Padding included: tens of milliseconds on a GPU, a second on two slow cores."""


class Loaded(Protocol):
    """A model in memory."""

    purpose: ClassVar[str]
    """Completes "'NAME' is a model for ...", for the error of a request of another kind."""

    @classmethod
    async def load(
        cls, engine: Engine, path: Path, dequantize: Dequantize, loading: Loading, extras: Extras
    ) -> Self:
        """
        Raises:
            GenerationError: the files are not a model that can be run here; says why.
            BackendUnavailableError: the load was cancelled.
        """
        ...

    @property
    def lost(self) -> bool:
        """True if the engine has failed since: its arrays are gone."""
        ...

    def close(self) -> None:
        """Stop its threads. It cannot be used any more."""
        ...

    async def unload(self) -> None:
        """Close it and free its memory."""
        ...


class TextModel:
    purpose: ClassVar[str] = "text generation"

    def __init__(self, engine: Engine, model: "LoadedModel", losses: int) -> None:
        """`losses`: those of the engine when the load began."""
        self._engine = engine
        self._losses = losses
        self.model = model
        # Tokenizers are not made for two threads at once. One for each model, so that a slow
        # template delays requests for its own model only.
        self.tokenizing = ThreadPoolExecutor(1, thread_name_prefix="mlx-prompt")

    @classmethod
    async def load(
        cls, engine: Engine, path: Path, dequantize: Dequantize, loading: Loading, extras: Extras
    ) -> Self:
        # `Engine.load` knows `dequantize` from the configuration.
        losses = engine.losses
        return cls(engine, await asyncio.wrap_future(engine.load(path, loading, extras)), losses)

    @property
    def lost(self) -> bool:
        return self._engine.losses != self._losses

    def close(self) -> None:
        self.model.close()
        self.tokenizing.shutdown(wait=False, cancel_futures=True)

    async def unload(self) -> None:
        self.close()
        name = self.model.name
        del self.model  # The engine frees what has no reference left.
        await asyncio.wrap_future(self._engine.unload(name))


class EmbeddingModel:
    purpose: ClassVar[str] = "embeddings"

    def __init__(self, engine: Engine, embedder: "Embedder", losses: int) -> None:
        self._engine = engine
        self._losses = losses
        self._embedder = embedder

    @classmethod
    async def load(
        cls, engine: Engine, path: Path, dequantize: Dequantize, loading: Loading, extras: Extras
    ) -> Self:
        def start() -> "Pieces[Embedder]":
            from adapters.mlx.embedding.embedder import load_embedder

            return (yield from load_embedder(path, dequantize, loading))

        losses = engine.losses
        return cls(engine, await asyncio.wrap_future(engine.run_in_pieces(start)), losses)

    @property
    def lost(self) -> bool:
        return self._engine.losses != self._losses

    def close(self) -> None:
        """Nothing to stop: it has no thread."""

    async def unload(self) -> None:
        del self._embedder
        await asyncio.wrap_future(self._engine.free_memory())

    async def embed(self, request: EmbeddingRequest, tokenizing: Executor) -> Embeddings:
        """Embed batch by batch, so that the engine takes a step of every model in between.

        Raises:
            InvalidRequestError, ContextLengthError: see `Backend.embed`.
        """
        if not request.inputs:
            raise InvalidRequestError("There is no input.", param="input")
        embedder, loop = self._embedder, asyncio.get_running_loop()
        to_ids = partial(
            embedder.to_ids, request.inputs, truncate=request.truncate, num_ctx=request.num_ctx
        )
        ids = await loop.run_in_executor(tokenizing, to_ids)
        vectors: dict[int, tuple[float, ...]] = {}
        for batch in to_batches([len(row) for row in ids], _BATCH_TOKENS):
            rows = [ids[place] for place in batch]
            job = self._engine.run(lambda rows=rows: embedder.embed(rows))
            cut = [_cut(vector, request.dimensions) for vector in await asyncio.wrap_future(job)]
            vectors.update(zip(batch, cut, strict=True))
            self._engine.note_success()
        ordered = tuple(vectors[place] for place in range(len(ids)))
        return Embeddings(ordered, prompt_tokens=sum(map(len, ids)))


def kind_of(model: Model) -> type[Loaded]:
    if "speech" in model.capabilities:
        return SpeechModel
    if "transcription" in model.capabilities:
        return TranscriptionModel
    return EmbeddingModel if "embedding" in model.capabilities else TextModel


def _cut(vector: tuple[float, ...], dimensions: int | None) -> tuple[float, ...]:
    """Return the first `dimensions` components, scaled to length 1 again."""
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

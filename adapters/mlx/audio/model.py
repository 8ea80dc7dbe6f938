"""A model of mlx-audio in memory: what speech and transcription share."""

import asyncio
import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from adapters.errors import GenerationError
from adapters.mlx.audio.jobs import AudioJobs
from adapters.mlx.audio.kinds import AudioKind, audio_kind
from adapters.mlx.engine.engine import Engine
from adapters.mlx.models.catalog import read_config
from adapters.mlx.models.load_progress import Extras, Loading

if TYPE_CHECKING:
    from adapters.mlx.jobs import Pieces


class AudioModel:
    def __init__(self, engine: Engine, name: str, kind: AudioKind, model: Any, losses: int) -> None:
        """`losses`: those of the engine when the load began."""
        self._engine = engine
        self._name = name
        self._losses = losses
        self.kind = kind
        self._model = model
        self._takes = frozenset(inspect.signature(model.generate).parameters)
        self.jobs = AudioJobs(engine, name, engine.max_queue)

    @classmethod
    async def load(
        cls,
        engine: Engine,
        path: Path,
        dequantize: Literal["auto", "always", "never"],
        loading: Loading,
        extras: Extras,
    ) -> Self:
        """Load a model; see `Loaded.load`."""
        kind, losses = audio_kind(loading.name, read_config(path) or {}), engine.losses
        if kind is None:
            raise GenerationError(f"'{loading.name}' is no model of audio.", lasting=True)

        def start() -> "Pieces[Any]":
            from adapters.mlx.audio.load import load_audio

            return (yield from load_audio(path, kind, dequantize, loading))

        model = await asyncio.wrap_future(engine.run_in_pieces(start))
        return cls(engine, loading.name, kind, model, losses)

    @property
    def lost(self) -> bool:
        return self._engine.losses != self._losses

    def close(self) -> None:
        """Nothing to stop: it has no thread."""

    async def unload(self) -> None:
        del self._model
        await asyncio.wrap_future(self._engine.free_memory())

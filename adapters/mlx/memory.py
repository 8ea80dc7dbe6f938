"""Memory accounting of MLX: weights, rows of answers, prefix caches."""

import asyncio
import logging
import platform
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from adapters.backend import Model
from adapters.config import MLXConfig
from adapters.errors import ModelNotFoundError
from adapters.memory import Footprint, MemoryBudget, Resident, UnlimitedMemory
from adapters.mlx.engine.engine import Engine
from adapters.mlx.models.capabilities import AUDIO
from adapters.mlx.models.catalog import ModelFolder, read_config
from adapters.mlx.models.disk import Disk
from adapters.mlx.models.idle_unload import IdleUnload
from adapters.mlx.models.load_progress import Extras
from adapters.mlx.models.memory_estimate import Weights, context_bytes, lora_bytes, read_weights
from adapters.mlx.sequence import Sequence, usual_length

_AUDIO_BYTES = 512 * 1024**2
"""Half a minute of audio in a large encoder or vocoder, roughly."""
logger = logging.getLogger(__name__)
T = TypeVar("T")


class MLXMemory:
    elastic = True

    def __init__(
        self,
        config: MLXConfig,
        engine: Engine,
        idle: IdleUnload,
        disk: Disk,
        find: Callable[[str], Awaitable[ModelFolder]],
        unload: Callable[[str], Awaitable[None]],
    ) -> None:
        self._config = config
        self._engine = engine
        self._idle = idle
        self._disk = disk
        self._find = find
        self._unload = unload
        self._budget: MemoryBudget = UnlimitedMemory()
        self._weights: dict[str, int] = {}
        """Bytes of each loaded model."""

    def share_budget(self, room: MemoryBudget) -> None:
        self._budget = room

    async def recommended(self) -> int | None:
        # Only Apple's GPUs share the machine's memory; asking costs the import of mlx.
        if platform.system() != "Darwin":
            return None
        try:
            return await self._on_thread(_recommended)
        except (
            ImportError
        ) as error:  # Requests for its models report it too; Ollama works without mlx.
            logger.warning("mlx cannot be imported: %s", error)
            return None

    async def footprint(self, model: str) -> Footprint | None:
        """Estimate a model; an empty footprint if it has to be converted or downloaded first."""
        try:
            folder = await self._find(model)
        except ModelNotFoundError:
            return None
        extras = Extras(folder.lora, folder.draft.path if folder.draft is not None else None)
        if folder.path is None or (folder.draft is not None and extras.draft is None):
            return Footprint()
        return await self._footprint(folder.model, folder.path, extras)

    async def _footprint(self, model: Model, path: Path, extras: Extras) -> Footprint:
        """Estimate a model of these files."""
        paths = [path] if extras.draft is None else [path, extras.draft]
        read, config, lora = await self._disk.run(
            lambda: (
                [read_weights(path) for path in paths],
                read_config(path) or {},
                lora_bytes(extras.lora),
            )
        )
        weights = [part for part in read if part is not None]
        if len(weights) < len(paths):
            return Footprint()
        unpacked = await self._on_thread(lambda: [_unpacks(w, self._config) for w in weights])
        nbytes = sum(
            w.unpacked if is_unpacked else w.stored
            for w, is_unpacked in zip(weights, unpacked, strict=True)
        )
        itemsize = 4 if unpacked[0] else weights[0].itemsize
        context = self._context(model, config, itemsize)
        return Footprint(weights=nbytes + lora, context=context)

    def _context(self, model: Model, config: dict[str, Any], itemsize: int) -> int | None:
        """Estimate the cache of one answer; 0 for embeddings, which keep nothing."""
        if "embedding" in model.capabilities:
            return 0
        if not AUDIO.isdisjoint(model.capabilities):
            return _AUDIO_BYTES
        tokens, limit = usual_length(model.context_length), self._config.kv_budget_bytes
        try:
            nbytes = context_bytes(config, tokens, itemsize, self._config.kv_bits)
        except (TypeError, ValueError, ArithmeticError):
            return None  # Settings of wrong types: the load explains them.
        return nbytes if nbytes is None or limit is None else min(nbytes, limit)

    async def resident(self, *, fresh: bool = False) -> list[Resident]:
        return [
            Resident(
                name=name,
                footprint=Footprint(weights=weights, context=self._engine.pool.share(name)),
                cache=status.prefix_bytes if (status := self._engine.status(name)) else 0,
                busy=self._idle.users(name) > 0,
                used_at=self._idle.used_at.get(name, 0.0),
            )
            for name, weights in self._weights.items()
        ]

    async def unload_for_memory(self, model: str) -> None:
        await self._unload(model)

    async def confine(self, nbytes: int) -> int:
        if not self._weights:
            self._engine.pool.limit = nbytes
            return 0
        return await asyncio.wrap_future(self._engine.confine(nbytes))

    @asynccontextmanager
    async def loading(
        self, name: str, folder: ModelFolder, path: Path, extras: Extras
    ) -> AsyncGenerator[None]:
        """Reserve memory for the weights and one answer while a model is loaded.

        Raises:
            InsufficientMemoryError: it does not fit.
        """
        if self._budget.budget is None:
            yield
            return
        async with self._budget.hold(name, await self._footprint(folder.model, path, extras)):
            yield

    @asynccontextmanager
    async def answering(self, sequence: Sequence) -> AsyncGenerator[None]:
        """Reserve memory for an answer that is longer than the one reserved for its model.

        Raises:
            InsufficientMemoryError: it does not fit.
        """
        name = sequence.model
        row = self._engine.row_bytes(name, sequence.expected) + sequence.image_bytes
        if self._budget.budget is None or row <= self._engine.pool.least.get(name, 0):
            yield
            return
        async with self._budget.hold(name, Footprint(weights=self._weights.get(name), context=row)):
            yield

    def loaded(self, name: str, weights: int) -> None:
        self._weights[name] = weights

    def unloaded(self, name: str) -> None:
        self._weights.pop(name, None)

    async def _on_thread(self, job: Callable[[], T]) -> T:
        return await asyncio.wrap_future(self._engine.run(job))


def _recommended() -> int | None:
    from adapters.mlx.device import recommended_memory

    return recommended_memory()


def _unpacks(weights: Weights, config: MLXConfig) -> bool:
    from adapters.mlx.device import unpacks

    return unpacks(weights.unpacked // 4, config.dequantize)

"""Apple's MLX in this process: mlx-lm's generation loop behind Tandem's contract."""

import asyncio
import logging
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from adapters.backend import Embeddings, Health, Model, Progress, refuse_unsupported
from adapters.config import MLXConfig
from adapters.errors import (
    BackendBusyError,
    InvalidRequestError,
    UnsupportedParameterError,
)
from adapters.events import Event, Finished, Started
from adapters.features import MLX
from adapters.mlx.choices import interleave
from adapters.mlx.embedding.embedders import Embedders
from adapters.mlx.engine.batching_window import ExpectedRequest
from adapters.mlx.engine.engine import Engine
from adapters.mlx.memory import MLXMemory
from adapters.mlx.models import bundled
from adapters.mlx.models.catalog import ModelFolder, absent_models, find_model, find_models
from adapters.mlx.models.hub_download import pull
from adapters.mlx.models.idle_unload import IdleUnload
from adapters.mlx.models.load_progress import Extras, Loading, Loads
from adapters.mlx.prompt.raw import reject_conflicts
from adapters.request import EmbeddingRequest, GenerationRequest

if TYPE_CHECKING:
    # Importing it loads mlx and transformers, which an idle server does without.
    from adapters.mlx.models.load import LoadedModel
    from adapters.mlx.prompt.prepare import Prepared

logger = logging.getLogger(__name__)


class MLXBackend:
    kind = "mlx"
    honours = MLX

    def __init__(self, config: MLXConfig) -> None:
        self._config = config
        self._engine = Engine(config)
        self._loaded: dict[str, LoadedModel] = {}
        self._warned: dict[str, str] = {}
        self._loads = Loads(self._load, self._load_ended)
        # Tokenizers are not made for two threads at once; one is enough to keep the loop free.
        self._tokenizing = ThreadPoolExecutor(1, thread_name_prefix="mlx-prompt")
        self._embedders = Embedders(self._engine, self._tokenizing, config.dequantize)
        self._keeping = IdleUnload(config, self._is_loaded, self.unload)
        self.memory_user = MLXMemory(config, self._engine, self._keeping, self.unload)

    def check(self, request: GenerationRequest) -> None:
        reject_conflicts(request)

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Event]:
        refuse_unsupported(request, self.honours, self.kind)
        reject_conflicts(request)
        with self._keeping.using(request.model, request.keep_alive):
            cold = not self._is_loaded(request.model)
            loaded = await self._ready_to_generate(request.model)
            from adapters.mlx.prompt.prepare import prepare

            with self._engine.arrivals.expect() as arrival:
                prepared = await prepare(request, loaded, self._tokenizing)
                async with (
                    self.memory_user.answering(prepared.sequences[0]),
                    aclosing(self._answer(prepared, arrival, request.patience, cold)) as events,
                ):
                    async for event in events:
                        yield event

    async def _answer(
        self, prepared: "Prepared", arrival: ExpectedRequest, patience: float | None, cold: bool
    ) -> AsyncGenerator[Event]:
        from adapters.mlx.output.assemble import read

        sequences = prepared.sequences
        self._engine.submit(*sequences)
        arrival.over()
        unfinished = dict(enumerate(sequences))
        try:
            await sequences[0].admitted(patience)
            yield Started(prepared.context, cold)
            answers = interleave([read(each, prepared.reading) for each in sequences])
            async with aclosing(answers) as events:
                async for event in events:
                    if isinstance(event, Finished):
                        # A stop string ends one choice while the others go on.
                        self._engine.release(unfinished.pop(event.choice), answered=True)
                    yield event
        finally:
            for sequence in unfinished.values():
                self._engine.release(sequence, answered=False)

    async def embed(self, request: EmbeddingRequest) -> Embeddings:
        refuse_unsupported(request, self.honours, self.kind)
        with self._keeping.using(request.model, request.keep_alive):
            await self._ready(request.model)
            if request.model not in self._embedders:
                raise InvalidRequestError(
                    f"'{request.model}' generates text; it does not embed.", param="model"
                )
            return await self._embedders.embed(request)

    async def pull(self, model: str) -> AsyncGenerator[Progress]:
        if not self._config.huggingface_cache:
            raise UnsupportedParameterError(
                "Models come into the Hugging Face cache, which `huggingface_cache: false` leaves "
                "out.",
                param="model",
            )
        async with aclosing(pull(model)) as steps:
            async for progress in steps:
                yield progress

    async def list_models(self) -> list[Model]:
        folders = await asyncio.to_thread(find_models, self._config)
        self._warn(absent_models(self._config, folders))
        return [
            msgspec.structs.replace(folder.model, loaded=self._is_loaded(name))
            for name, folder in folders.items()
        ]

    def _warn(self, absent: dict[str, str]) -> None:
        """Once for each reason: lists are asked for all the time."""
        for name, why in absent.items():
            if self._warned.get(name) != why:
                logger.warning("backends.mlx.models: '%s' is not listed: %s", name, why)
        self._warned = absent

    async def load(self, model: str, keep_alive: float | None = None) -> None:
        with self._keeping.using(model, keep_alive):
            await self._ready(model)

    def is_well(self, model: str) -> bool:
        return self._engine.is_well(model)

    def loading(self) -> dict[str, Progress]:
        return self._loads.progress()

    async def unload(self, model: str) -> None:
        await self._loads.cancel(model)
        if not self._is_loaded(model):
            return
        if users := self._keeping.users(model):
            raise BackendBusyError(f"'{model}' is answering {users} requests.")
        self._keeping.forget(model)
        if model in self._embedders:
            await self._embedders.unload(model)
            self.memory_user.unloaded(model)
        # Who comes while it is unloaded has it loaded anew, by a command that comes after.
        elif (loaded := self._loaded.pop(model, None)) is not None:
            loaded.grammars.close()
            del loaded
            await asyncio.wrap_future(self._engine.unload(model))
            self.memory_user.unloaded(model)

    async def health(self) -> Health:
        trouble = self._engine.trouble()
        return Health(
            ok=trouble is None,
            detail=trouble,
            breaker="closed" if trouble is None else "open",
            counters=self._engine.counters(),
        )

    async def aclose(self) -> None:
        self._keeping.close()
        self._loads.close()
        for loaded in self._loaded.values():
            loaded.grammars.close()
        await asyncio.to_thread(self._engine.close)
        self._tokenizing.shutdown(wait=False, cancel_futures=True)

    async def _ready_to_generate(self, name: str) -> "LoadedModel":
        """
        Raises:
            InvalidRequestError: the model embeds, and says nothing.
        """
        await self._ready(name)
        if (loaded := self._loaded.get(name)) is None:
            raise InvalidRequestError(
                f"'{name}' embeds text; it does not generate any.", param="model"
            )
        return loaded

    def _is_loaded(self, name: str) -> bool:
        return name in self._loaded or name in self._embedders

    async def _ready(self, name: str) -> None:
        """The model, loaded by whoever asked first."""
        if not self._is_loaded(name):
            await self._loads.join(name)

    def _load_ended(self, name: str) -> None:
        self._keeping.loaded(name)

    async def _load(self, loading: Loading) -> None:
        name = loading.name
        folder = await asyncio.to_thread(find_model, self._config, name)
        path = await self._path_of(folder)
        draft = await self._path_of(folder.draft) if folder.draft is not None else None
        extras = Extras(folder.lora, draft)
        loading.check()
        async with self.memory_user.loading(name, folder, path, extras):
            try:
                await self._read(folder, path, loading, extras)
            finally:
                if loading.cancelled:
                    await asyncio.wrap_future(self._engine.tidy())

    async def _read(
        self, folder: ModelFolder, path: Path, loading: Loading, extras: Extras
    ) -> None:
        if "embedding" in folder.model.capabilities:
            await self._embedders.load(path, loading)
        else:
            loaded = await asyncio.wrap_future(self._engine.load(path, loading, extras))
            self._loaded[loading.name] = loaded
        self.memory_user.loaded(loading.name, loading.total or 0)

    async def _path_of(self, folder: ModelFolder) -> Path:
        """Converted or fetched now, if it has to be."""
        name = folder.base or folder.model.name
        return folder.path or await bundled.ensure_available(name, self._config.cache_folder)

"""The backend for Apple's MLX, in this process."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, asynccontextmanager
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TypeVar

import msgspec

from adapters.audio import (
    AudioSink,
    SpeechEvent,
    SpeechRequest,
    TranscriptEvent,
    TranscriptionRequest,
    Voice,
)
from adapters.backend import (
    Description,
    Embeddings,
    Health,
    Model,
    Progress,
    RunningModel,
    TokenCount,
    refuse_unsupported,
)
from adapters.config import MLXConfig
from adapters.errors import (
    BackendBusyError,
    BackendUnavailableError,
    GenerationError,
    InvalidRequestError,
    UnsupportedParameterError,
)
from adapters.events import Started
from adapters.features import MLX
from adapters.memory import Resident
from adapters.mlx.audio.kinds import audio_kind
from adapters.mlx.audio.voices import check_clip, find_speaker, list_voices
from adapters.mlx.engine.engine import Engine
from adapters.mlx.loaded import (
    EmbeddingModel,
    Loaded,
    SpeechModel,
    TextModel,
    TranscriptionModel,
    kind_of,
)
from adapters.mlx.memory import MLXMemory
from adapters.mlx.models import bundled
from adapters.mlx.models.capabilities import BackgroundDescriptions, Describe
from adapters.mlx.models.catalog import (
    Catalog,
    ModelFolder,
    find_model,
    read_catalog,
    read_config,
)
from adapters.mlx.models.description import describe
from adapters.mlx.models.disk import Disk
from adapters.mlx.models.failed_loads import FailedLoads
from adapters.mlx.models.file_changes import LoadedFiles
from adapters.mlx.models.hub_download import pull
from adapters.mlx.models.idle_unload import IdleUnload
from adapters.mlx.models.load_progress import Extras, Loading, Loads
from adapters.mlx.models.removal import remove, to_removable
from adapters.mlx.prompt.raw import reject_conflicts
from adapters.mlx.stall_guard import StallGuard
from adapters.request import EmbeddingRequest, Feature, GenerationRequest
from adapters.sink import Sink

_EMBEDDING_TOKENS: frozenset[Feature] = frozenset({"embedding_tokens"})
logger = logging.getLogger(__name__)
L = TypeVar("L", TextModel, EmbeddingModel, SpeechModel, TranscriptionModel)


@cache
def engine_version() -> str | None:
    """Name the versions of MLX and mlx-lm, as `0.32.4-0.32.2`; `None` if one is not installed."""
    try:
        return f"{version('mlx')}-{version('mlx-lm')}"
    except PackageNotFoundError:
        return None


class MLXBackend:
    kind = "mlx"
    naming = MLXConfig.naming
    honours: frozenset[Feature] = MLX
    """The features of MLX; `embedding_tokens` only if the settings allow them."""

    def __init__(self, config: MLXConfig, *, engine: Engine | None = None) -> None:
        """`engine`: one made for this backend alone, which closes it."""
        self._config = config
        if config.embedding_token_ids:
            self.honours = MLX.union(_EMBEDDING_TOKENS)
        self._engine = engine or Engine(config)
        self._loaded: dict[str, Loaded] = {}
        self._disk = Disk(config.stall_seconds)
        self._files = LoadedFiles(self._disk)
        self._warned: dict[str, str] = {}
        self._unusable: dict[str, str] = {}
        self._failed_loads = FailedLoads()
        self._descriptions = BackgroundDescriptions()
        self._idle = IdleUnload(config, self._loaded.__contains__, self.unload)
        self._loads = Loads(self._load, self._idle.loaded)
        self._stalls = StallGuard(self._engine.stall, config.stall_seconds)
        # For inputs of embeddings: one thread is enough to keep the loop free.
        self._tokenizing = ThreadPoolExecutor(1, thread_name_prefix="mlx-prompt")
        self.memory_user = MLXMemory(
            config, self._engine, self._idle, self._disk, self._find, self.unload
        )

    @property
    def version(self) -> str | None:
        return engine_version()

    def check(self, request: GenerationRequest) -> None:
        reject_conflicts(request)

    async def generate(self, request: GenerationRequest, sink: Sink) -> None:
        refuse_unsupported(request, self.honours, self.kind)
        reject_conflicts(request)
        async with self._using(request.model, request.keep_alive):
            loaded, cold = await self._ready(request.model, TextModel)
            from adapters.mlx.output.assemble import Answers
            from adapters.mlx.prompt.prepare import prepare

            with self._engine.arrivals.expect() as arrival:
                prepared = await prepare(request, loaded.model, loaded.tokenizing)
                ignored = (*prepared.ignored, *[f"options.{name}" for name in request.options])
                started = Started(prepared.context, cold, ignored, prepared.rewritten)
                async with self.memory_user.answering(prepared.sequences[0]):
                    answers = Answers(
                        self._engine, prepared.sequences, prepared.reading, started, sink.write
                    )
                    answers.submit()
                    arrival.over()
                    await answers.wait(request.patience)

    async def count_tokens(self, request: GenerationRequest) -> TokenCount:
        """Render and encode the prompt as for an answer, so that the count is exact."""
        refuse_unsupported(request, self.honours, self.kind)
        async with self._using(request.model, request.keep_alive):
            loaded, _ = await self._ready(request.model, TextModel)
            from adapters.mlx.prompt.images import render_prompt

            prompt = await render_prompt(loaded.model, request, loaded.tokenizing)
            return TokenCount(len(prompt.ids), exact=True)

    async def embed(self, request: EmbeddingRequest) -> Embeddings:
        refuse_unsupported(request, self.honours, self.kind)
        async with self._using(request.model, request.keep_alive):
            loaded, _ = await self._ready(request.model, EmbeddingModel)
            return await loaded.embed(request, self._tokenizing)

    async def speak(self, request: SpeechRequest, sink: AudioSink[SpeechEvent]) -> None:
        voices = await self.list_voices(request.model)
        speaker = find_speaker(request.voice, request.model, voices, self._config.voices)
        if (clip := speaker.clip) is not None:
            await self._disk.run(lambda: check_clip(clip, request.voice))
        async with self._using(request.model, request.keep_alive):
            loaded, cold = await self._ready(request.model, SpeechModel)
            await loaded.speak(request, speaker, sink, cold=cold)

    async def list_voices(self, model: str) -> list[Voice]:
        folder = await self._find(model)
        if (path := folder.path) is None or "speech" not in folder.model.capabilities:
            raise InvalidRequestError(f"'{model}' is no model for speech.", param="model")
        return await self._disk.run(lambda: self._voices(model, path))

    def _voices(self, model: str, path: Path) -> list[Voice]:
        kind = audio_kind(model, read_config(path) or {})
        return list_voices(kind, path, self._config.voices) if kind is not None else []

    async def transcribe(
        self, request: TranscriptionRequest, sink: AudioSink[TranscriptEvent]
    ) -> None:
        async with self._using(request.model, request.keep_alive):
            loaded, cold = await self._ready(request.model, TranscriptionModel)
            await loaded.transcribe(request, sink, cold=cold)

    async def pull(self, model: str) -> AsyncGenerator[Progress]:
        if not self._config.huggingface_cache:
            raise UnsupportedParameterError(
                "Models cannot be downloaded: the Hugging Face cache is switched off by "
                "`huggingface_cache: false`.",
                param="model",
            )
        async with aclosing(pull(model)) as steps:
            async for progress in steps:
                yield progress

    async def list_known(self) -> tuple[list[Model], bool]:
        catalog = await self._read_catalog(self._descriptions.known)
        return await self._listed(catalog), catalog.is_complete

    async def list_models(self) -> list[Model]:
        return await self._listed(await self._read_catalog(self._descriptions.complete))

    async def _read_catalog(self, describe: Describe) -> Catalog:
        return await self._disk.run_without_deadline(lambda: read_catalog(self._config, describe))

    async def _find(self, name: str) -> ModelFolder:
        return await self._disk.run(
            lambda: find_model(self._config, name, self._descriptions.known)
        )

    async def _listed(self, catalog: Catalog) -> list[Model]:
        failed = await self._disk.run_without_deadline(
            lambda: self._failed_loads.reasons(catalog.folders)
        )
        self._unusable = catalog.unusable | failed
        self._warn()
        return [
            msgspec.structs.replace(
                folder.model, loaded=self._has(name), notes=self._notes_of(name)
            )
            for name, folder in catalog.folders.items()
            if name not in failed
        ]

    def _notes_of(self, name: str) -> tuple[str, ...]:
        loaded = self._loaded.get(name)
        return loaded.model.notes if isinstance(loaded, TextModel) else ()

    def withheld(self) -> dict[str, str]:
        return self._config.withheld()

    def unusable(self) -> dict[str, str]:
        return dict(self._unusable)

    def _warn(self) -> None:
        """Log each reason for a model of the configuration once: models are listed often."""
        configured = {n: why for n, why in self._unusable.items() if n in self._config.models}
        for name, why in configured.items():
            if self._warned.get(name) != why:
                logger.warning("backends.mlx.models: '%s' is not listed: %s", name, why)
        self._warned = configured

    async def describe(self, model: str, *, verbose: bool = False) -> Description:
        folder = await self._find(model)
        if (path := folder.path) is None:
            return Description()
        return await self._disk.run(
            lambda: describe(model, path, read_config(path) or {}, verbose=verbose)
        )

    async def list_running(self) -> list[RunningModel]:
        resident = await self.memory_user.resident()
        return [await self._to_running(each) for each in resident]

    async def _to_running(self, resident: Resident) -> RunningModel:
        folder = self._files.folder(resident.name) or await self._find(resident.name)
        nbytes = resident.footprint.known + resident.cache
        expires_at = self._idle.expires_at(resident.name)
        ahead = None if expires_at is None else expires_at - asyncio.get_running_loop().time()
        return RunningModel(
            name=resident.name,
            size_bytes=nbytes,
            # Unified memory: all of it is a GPU's, where MLX has one.
            gpu_bytes=nbytes if await self.memory_user.recommended() else 0,
            context_length=folder.model.context_length,
            expires_at=None if ahead is None else time.time() + ahead,
        )

    async def delete(self, model: str) -> None:
        folder = await self._find(model)
        path = to_removable(folder, self._config)
        await self.unload(model)
        try:
            await self._disk.run_without_deadline(lambda: remove(path, self._config))
        except OSError as error:
            raise GenerationError(
                f"The files of '{model}' cannot be removed: {error.strerror}."
            ) from error

    async def load(self, model: str, keep_alive: float | None = None) -> None:
        async with self._using(model, keep_alive):
            if not self._has(model):
                await self._loads.join(model)

    async def set_pinned(self, model: str, pinned: bool) -> None:
        self._idle.set_pinned(model, pinned)

    def is_well(self, model: str) -> bool:
        return self._engine.is_well(model)

    def is_stalled(self) -> bool:
        """Return true while a step, or a piece of a load, takes longer than `stall_seconds`."""
        return self._engine.is_stalled()

    def loading(self) -> dict[str, Progress]:
        return self._loads.progress()

    async def unload(self, model: str) -> None:
        async with self._stalls.guarded():
            await self._loads.cancel(model)
            if not self._has(model):
                return
            if users := self._idle.users(model):
                raise BackendBusyError(f"'{model}' is answering {users} requests.")
            self._idle.forget(model)
            # A request that comes while it is unloaded loads it anew, by a later command.
            await self._loaded.pop(model).unload()
            self.memory_user.unloaded(model)

    @asynccontextmanager
    async def _using(self, model: str, keep_alive: float | None) -> AsyncGenerator[None]:
        """Count a user of `model`, which gets an error where the engine hangs."""
        with self._idle.using(model, keep_alive):
            async with self._stalls.guarded():
                yield

    async def health(self) -> Health:
        trouble = self._engine.trouble()
        return Health(
            ok=trouble is None,
            detail=trouble,
            breaker=self._engine.breaker(),
            counters=self._engine.counters(),
        )

    async def aclose(self) -> None:
        self._idle.close()
        self._loads.close()
        self._descriptions.close()
        self._disk.close()
        for loaded in self._loaded.values():
            loaded.close()
        await asyncio.to_thread(self._engine.close)
        self._tokenizing.shutdown(wait=False, cancel_futures=True)

    def _has(self, name: str) -> bool:
        """Return whether a model is in memory; one that was lost with the engine is forgotten."""
        loaded = self._loaded.get(name)
        if loaded is not None and loaded.lost:
            self._loaded.pop(name).close()
            self.memory_user.unloaded(name)
        return name in self._loaded

    async def _ready(self, name: str, kind: type[L]) -> tuple[L, bool]:
        """Return a model, and whether this request had to wait for its load.

        Raises:
            InvalidRequestError: it is of another kind.
        """
        await self._unload_replaced(name)
        if cold := not self._has(name):
            await self._loads.join(name, for_request=True)
        if (loaded := self._loaded.get(name)) is None:
            raise BackendUnavailableError(f"'{name}' was unloaded meanwhile.")
        if not isinstance(loaded, kind):
            raise InvalidRequestError(
                f"'{name}' is a model for {loaded.purpose}, not for {kind.purpose}.", param="model"
            )
        return loaded, cold

    async def _unload_replaced(self, name: str) -> None:
        """Unload a model with files that changed since its load, unless it answers others too."""
        loaded = self._loaded.get(name)
        if loaded is None or self._idle.users(name) > 1:
            return
        with self._engine.arrivals.expect():  # Prompts that arrive together are read together.
            changed = await self._files.have_changed(name)
        if changed and self._loaded.get(name) is loaded and self._idle.users(name) <= 1:
            logger.info("%s is loaded anew: its files have changed", name)
            await self._loaded.pop(name).unload()
            self.memory_user.unloaded(name)

    async def _load(self, loading: Loading) -> None:
        """Load a model, converted or downloaded first if it has to be."""
        name = loading.name
        folder = await self._find(name)
        await asyncio.wrap_future(self._engine.import_libraries())
        await self._files.note(name, folder)
        path = await self._path_of(folder)
        draft = await self._path_of(folder.draft) if folder.draft is not None else None
        extras = Extras(folder.lora, draft)
        loading.check()
        async with self.memory_user.loading(name, folder, path, extras):
            try:
                self._loaded[name] = await kind_of(folder.model).load(
                    self._engine, path, self._config.dequantize, loading, extras
                )
                self.memory_user.loaded(name, loading.total or 0)
            except GenerationError as error:
                self._failed_loads.note(name, folder, error)
                raise
            finally:
                if loading.cancelled:
                    await asyncio.wrap_future(self._engine.free_memory())

    async def _path_of(self, folder: ModelFolder) -> Path:
        cache = self._config.cache_folder
        converted = await self._disk.run(lambda: bundled.converted_folder(cache))
        if folder.path is not None and folder.path != converted:
            return folder.path
        # Also if it is there: a damaged conversion is made anew.
        name = bundled.EMBEDDED if folder.path is not None else folder.base or folder.model.name
        return await bundled.ensure_available(name, cache)

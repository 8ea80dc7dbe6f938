"""The models of one Ollama server: the list, the details of each, and which are loaded.

They are fetched when needed and cached for a while; callers of the list share one request.
"""

import asyncio
from datetime import datetime
from functools import lru_cache

import msgspec

from adapters.backend import Capability, Model, ModelDetails
from adapters.errors import BackendError, BackendUnavailableError
from adapters.ollama.client import OllamaClient
from adapters.ollama.model_info import (
    ControlTokens,
    ModelInfo,
    context_length,
    is_primed,
    origin,
    runner,
    to_control_tokens,
    to_model_info,
)
from adapters.ollama.wire import Details, Show, ShowBody, ShownVocabulary, Tag, Tags
from adapters.request import Feature
from adapters.upstream.behind import CIRCLE, SERVER_ID
from adapters.upstream.limits import Limits

TOOLS_AS_TEXT = "tools-as-text"
"""The note of a model that is told of tools in words."""
_SECONDS = 5.0
_SHOWS_AT_ONCE = 4

_CAPABILITIES: dict[str, Capability] = {
    "completion": "chat",
    "tools": "tools",
    "vision": "vision",
    "embedding": "embedding",
    "insert": "fim",
    "thinking": "reasoning",
}


_NEEDED: dict[Feature, Capability] = {
    "embeddings": "embedding",
    "images": "vision",
    "reasoning_effort": "reasoning",
    "reasoning_budget": "reasoning",
    "suffix": "fim",
}
"""Feature -> the capability that the model itself needs for it."""

_MLX_RUNNER: frozenset[Feature] = frozenset(
    {"embeddings", "response_format", "stop", "tool_choice"}
)
"""Features that Ollama's own runner for safetensors accepts and ignores: it reads neither `format`
nor `stop`. A forced tool is a format."""


class Catalog:
    def __init__(self, client: OllamaClient, believed: float, limits: Limits) -> None:
        """`believed`: seconds that a list stays valid."""
        self._client = client
        self._lookup = limits.lookup
        self._clock = limits.clock
        self._believed = believed
        self.behind: tuple[str, ...] = ()
        """The ids of the servers of Tandem that the last list has named."""
        self.is_circle = False
        """This server was among them."""
        self._models: list[Model] = []
        self._until = 0.0
        self._listing: asyncio.Task[list[Model]] | None = None
        self._shown: dict[str, Show] = {}
        self._tags: dict[str, Tag] = {}
        self._runners: dict[str, str] = {}
        """Digest -> runner; only of models with known runner options."""
        self._runner_by_name: dict[str, str] = {}
        """Name -> runner, until the next list."""
        self._facts: dict[tuple[str, str], ModelInfo] = {}
        self._control: dict[tuple[str, str], ControlTokens] = {}
        self._notes: dict[tuple[str, str], tuple[str, ...]] = {}
        """Name and digest -> see `Model.template`."""
        self._running: dict[str, Tag] = {}
        self._tells = False
        """True once `/api/ps` has responded."""
        self._looked_until = 0.0
        self._changed_at = 0.0
        """Responses to earlier requests are out of date."""

    async def models(self) -> list[Model]:
        """Return the list, at most `believed` seconds old. Concurrent calls share one request.

        Raises:
            BackendError: Ollama is not there, or its response is not a list; the next call asks
                again.
        """
        if self._clock() < self._until:
            return list(self._models)
        if self._listing is None:
            self._listing = asyncio.create_task(self._list())
            self._listing.add_done_callback(self._on_listed)
        # Shielded: a caller that leaves takes nothing from the others.
        return list(await asyncio.shield(self._listing))

    def doubt(self) -> None:
        """Fetch the list again at the next call."""
        self._until = 0.0

    def forget(self) -> None:
        """Fetch the list and the loaded models again at the next call: they have changed."""
        self._until = 0.0
        self._looked_until = 0.0
        self._changed_at = self._clock()

    def last(self) -> list[Model]:
        """Return the last list, of any age."""
        return list(self._models)

    def has(self, name: str) -> bool | None:
        """Look `name` up in the last list; `None` before the first."""
        return full_name(name) in self._tags if self._until or self._tags else None

    def digest(self, name: str) -> str:
        """Return the digest in the last list; empty where it is not known."""
        tag = self._tags.get(full_name(name))
        return "" if tag is None else tag.digest

    def smallest(self) -> str | None:
        """Return the model that answers soonest: one that is loaded, otherwise the smallest; never
        an embedding model."""
        sizes = {
            model.name: model.size_bytes or 0
            for model in self._models
            if model.capabilities != frozenset[Capability]({"embedding"})
        }
        return min(sizes, key=lambda name: (name not in self._running, sizes[name]), default=None)

    async def facts(self, name: str) -> ModelInfo:
        """Return what is known of `name`, fetched once for each digest.

        Raises:
            BackendUnavailableError: Ollama is not there. Every other failure is "not known".
        """
        name = full_name(name)
        tag = self._tags.get(name) or Tag(name=name)
        key = (name, tag.digest)
        if key not in self._facts:
            try:
                shown = await self._client.post("/api/show", ShowBody(name), Show, self._lookup)
            except BackendUnavailableError:
                raise
            except BackendError:
                return ModelInfo()
            self._facts[key] = to_model_info(shown, tag.size)
        return self._facts[key]

    async def control_tokens(self, name: str) -> ControlTokens:
        """Return the control tokens of `name`, fetched once for each digest; it is a long response.

        Raises:
            BackendUnavailableError: Ollama is not there. Every other failure is "none known".
        """
        name = full_name(name)
        key = (name, self.digest(name))
        if key not in self._control:
            body = ShowBody(name, verbose=True)
            try:
                shown = await self._client.post("/api/show", body, ShownVocabulary, _SECONDS)
                self._control[key] = await asyncio.to_thread(to_control_tokens, shown)
            except BackendUnavailableError:
                raise
            except (BackendError, msgspec.MsgspecError):
                return ControlTokens()
        return self._control[key]

    def note_template(self, name: str, notes: tuple[str, ...]) -> None:
        """Keep what was found out about the template of `name`, for the lists from now on."""
        name = full_name(name)
        self._notes[name, self.digest(name)] = notes
        self.doubt()

    def runner(self, name: str) -> str:
        """Return the runner of `name`, the same for all models that share it, as far as known."""
        runner = self._runner_by_name.get(name)
        if runner is None:
            full = full_name(name)
            tag = self._tags.get(full)
            if tag is None:  # Not kept: clients may send any number of such names.
                return full
            runner = self._runner_by_name[name] = self._runners.get(tag.digest, full)
        return runner

    def is_loaded(self, name: str) -> bool:
        """True where `name` was loaded at the last look, also under another name. No I/O."""
        return self._as_loaded(name) is not None

    def must_load(self, name: str, context: int) -> bool:
        """True where an answer with `context` needs a load, by the last look; false where Ollama
        does not report what is loaded."""
        if not self._tells:
            return False
        tag = self._as_loaded(name)
        return tag is None or tag.context_length not in (None, context)

    async def loaded(self, name: str) -> Tag | None:
        """Return `name` as it is loaded, by a look at most `believed` seconds old."""
        if self._is_old:
            await self._look(self._lookup)
        return self._as_loaded(name)

    def _as_loaded(self, name: str) -> Tag | None:
        runner = self.runner(name)
        tag = self._running.get(full_name(name))
        if tag is not None and self._runner_of(tag) == runner:
            return tag
        return next((tag for tag in self._running.values() if self._runner_of(tag) == runner), None)

    def sharing(self, tag: Tag) -> frozenset[str]:
        """Return the other models that share the runner of `tag`, which is loaded."""
        same = self._runner_of(tag)
        return frozenset(n for n in self._tags if n != tag.name and self.runner(n) == same)

    def _runner_of(self, tag: Tag) -> str:
        """Return the runner of a loaded model, which need not be listed any more."""
        return self._runners.get(tag.digest) or self.runner(tag.name)

    async def running(self, *, fresh: bool = False) -> list[Tag]:
        """Return the loaded models, by a look at most `believed` seconds old, or a `fresh` one.

        Where Ollama does not respond: what the last look saw.
        """
        if fresh or self._is_old:
            await self._look(self._lookup)
        return list(self._running.values())

    @property
    def _is_old(self) -> bool:
        return self._clock() >= self._looked_until

    def note_loaded(self, name: str, context: int) -> None:
        """Note that a request runs with `context`, which is newer than the last look."""
        self._changed_at = self._clock()
        loaded = self._as_loaded(name)
        if loaded is not None and loaded.context_length != context:
            del self._running[loaded.name]
            loaded = None
        if loaded is None:
            self._running[name] = Tag(name=name, context_length=context)

    async def _look(self, seconds: float) -> bool:
        requested_at = self._clock()
        try:
            running = await self._client.get("/api/ps", Tags, seconds)
        except BackendUnavailableError:  # No server, no loaded models.
            self._running = {}
            return False
        except BackendError:  # Good to know, and no more.
            return False
        if requested_at < self._changed_at:
            return await self._look(seconds)
        self._running = {tag.name: tag for tag in running.known}
        self._changed_at, self._looked_until = requested_at, requested_at + self._believed
        self._tells = True
        return True

    async def aclose(self) -> None:
        """Wait for the request in progress, which ends when the client is closed."""
        if self._listing is not None:
            await asyncio.wait([self._listing])

    def _on_listed(self, task: asyncio.Task[list[Model]]) -> None:
        self._listing = None
        if not task.cancelled():
            task.exception()  # Retrieved here: every caller may have left.

    async def _list(self) -> list[Model]:
        requested_at = self._clock()
        listed = await self._client.get("/api/tags", Tags, _SECONDS)
        self.is_circle = SERVER_ID in listed.servers
        # A server that takes itself out of a circle has none behind it: the other may go on.
        self.behind = () if self.is_circle else listed.servers
        if self.is_circle:
            raise BackendUnavailableError(CIRCLE)
        tags = listed.known
        # `/api/tags` lacks properties, the origin above all; they are fetched once for each digest.
        missing = {tag.digest: tag for tag in tags if tag.digest not in self._shown}
        gate = asyncio.Semaphore(_SHOWS_AT_ONCE)
        await asyncio.gather(*(self._show(tag, gate) for tag in missing.values()))
        has_running = await self._look(_SECONDS)
        self._tags = {tag.name: tag for tag in tags}
        self._runner_by_name.clear()
        self._models = [self._to_model(tag, has_running) for tag in tags]
        self._until = requested_at + self._believed
        return self._models

    async def _show(self, tag: Tag, gate: asyncio.Semaphore) -> None:
        async with gate:
            try:
                shown = await self._client.post("/api/show", ShowBody(tag.name), Show, _SECONDS)
            except BackendError:  # One broken model must not hide the others.
                return
        self._shown[tag.digest] = shown
        if tag.digest and (started_with := runner(shown)):
            self._runners[tag.digest] = "; ".join(started_with)

    def _to_model(self, tag: Tag, has_running: bool) -> Model:
        """`has_running`: `/api/ps` has responded."""
        details = tag.details or Details()
        shown = self._shown.get(tag.digest, Show())
        names = _capability_names(tag, shown)
        capabilities: frozenset[Capability] = frozenset(
            _CAPABILITIES[name] for name in names if name in _CAPABILITIES
        )
        # A Tandem runs its own MLX models, which can do all of that.
        is_mlx = details.format == "safetensors" and not self.behind
        file = origin(shown)
        running = self._as_loaded(tag.name)
        notes = self._notes.get((tag.name, tag.digest), ())
        if "chat" in capabilities and "tools" not in capabilities:
            notes = (*(note for note in notes if note != TOOLS_AS_TEXT), TOOLS_AS_TEXT)
        return Model(
            name=tag.name,
            context_length=details.context_length or context_length(shown),
            capabilities=capabilities,
            lacks=_lacks(capabilities).union(_MLX_RUNNER if is_mlx else ()),
            size_bytes=tag.size,
            quantization=details.quantization_level or None,
            digest=tag.digest or None,
            origin=file,
            exact=None if file is None else True,
            primed=is_primed(shown),
            template=notes,
            created=_seconds_since_1970(tag.modified_at),
            loaded=running is not None if has_running else None,
            loaded_context=running.context_length if has_running and running else None,
            details=ModelDetails(
                format=details.format,
                family=details.family,
                families=details.families,
                parameter_size=details.parameter_size,
                parent=details.parent_model,
                embedding_length=details.embedding_length,
            ),
        )


def _capability_names(tag: Tag, shown: Show) -> frozenset[str]:
    """Return the capabilities that `/api/tags` or `/api/show` reports.

    `/api/tags` leaves out tools and reasoning where the template is in the weights, and reports
    `completion` for every model that it knows nothing about, embedding models among them: there
    `/api/show` alone counts.
    """
    listed = frozenset(tag.capabilities or ())
    return (
        listed.difference(["completion"]).union(shown.capabilities)
        if shown.capabilities
        else listed
    )


def _lacks(capabilities: frozenset[Capability]) -> frozenset[Feature]:
    """Return the features a model lacks; none where Ollama reports no capabilities."""
    if not capabilities:
        return frozenset()
    return frozenset(feature for feature, needed in _NEEDED.items() if needed not in capabilities)


@lru_cache(1024)
def full_name(name: str) -> str:
    """Return `name` with its tag, as lists have it."""
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"


def _seconds_since_1970(moment: str) -> int:
    try:
        return int(datetime.fromisoformat(moment).timestamp())
    except ValueError:
        return 0

"""Which models an Ollama has: asked for when needed, believed for a while, asked by one."""

import asyncio
import time
from collections.abc import Iterable
from datetime import datetime
from functools import lru_cache

from adapters.backend import Capability, Model
from adapters.errors import BackendError, BackendUnavailableError
from adapters.ollama.client import OllamaClient
from adapters.ollama.model_info import (
    ModelInfo,
    context_length,
    is_primed,
    origin,
    runner,
    to_model_info,
)
from adapters.ollama.wire import Details, Show, ShowBody, Tag, Tags
from adapters.request import Feature

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
    "suffix": "fim",
    "tools": "tools",
}
"""What a feature asks of the model itself."""

_MLX_RUNNER: frozenset[Feature] = frozenset(
    {"embeddings", "response_format", "stop", "tool_choice"}
)
"""What Ollama's own runner for safetensors takes and does not do: it reads neither `format` nor
`stop`. A forced tool is a format."""


class Catalog:
    def __init__(self, client: OllamaClient, believed: float, lookup: float) -> None:
        """`believed`: seconds that a list stays valid; `lookup`: seconds for facts that are good to
        know before a request is sent, and no more."""
        self._client = client
        self._lookup = lookup
        self._believed = believed
        self._models: list[Model] = []
        self._until = 0.0
        self._asking: asyncio.Task[list[Model]] | None = None
        self._shown: dict[str, Show] = {}
        self._tags: dict[str, Tag] = {}
        self._runners: dict[str, str] = {}
        """By digest; without those of which nobody knows what their runner is started with."""
        self._runner_by_name: dict[str, str] = {}
        """As long as the list stays as it is."""
        self._facts: dict[tuple[str, str], ModelInfo] = {}
        self._running: dict[str, Tag] = {}
        self._tells = False
        """Whether it has ever told what is loaded."""
        self._looked_until = 0.0
        self._changed_at = 0.0
        """A look that was begun before tells of what was."""

    async def models(self) -> list[Model]:
        """The list, at most `believed` seconds old. Callers that meet share one question.

        Raises:
            BackendError: Ollama is not there, or makes no sense; the next call asks anew.
        """
        if time.monotonic() < self._until:
            return list(self._models)
        if self._asking is None:
            self._asking = asyncio.create_task(self._ask())
            self._asking.add_done_callback(self._asked)
        # Shielded: a caller that leaves takes nothing from the others.
        return list(await asyncio.shield(self._asking))

    def doubt(self) -> None:
        """The list is for somebody who wants to know how it is now: ask at the next call."""
        self._until = 0.0

    def forget(self) -> None:
        """The list was wrong: ask at the next call."""
        self._until = 0.0
        self._looked_until = 0.0
        self._changed_at = time.monotonic()

    def last(self) -> list[Model]:
        """The last list, however old."""
        return list(self._models)

    def has(self, name: str) -> bool | None:
        """By the last list; `None` before the first."""
        return full_name(name) in self._tags if self._until or self._tags else None

    def digest(self, name: str) -> str:
        """By the last list; empty where it is not known."""
        tag = self._tags.get(full_name(name))
        return "" if tag is None else tag.digest

    def smallest(self) -> str | None:
        """The model that says something soonest: one that is loaded, else the smallest; none that
        embeds only."""
        sizes = {
            each.name: each.size_bytes or 0
            for each in self._models
            if each.capabilities != frozenset[Capability]({"embedding"})
        }
        return min(sizes, key=lambda name: (name not in self._running, sizes[name]), default=None)

    async def facts(self, name: str) -> ModelInfo:
        """What is known of `name`, asked for once as long as it stays the same model.

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

    def runner(self, name: str) -> str:
        """The same for all models that one runner answers for; as far as is known."""
        runner = self._runner_by_name.get(name)
        if runner is None:
            full = full_name(name)
            tag = self._tags.get(full)
            if tag is None:  # Of such names there is no end.
                return full
            runner = self._runner_by_name[name] = self._runners.get(tag.digest, full)
        return runner

    def is_loaded(self, name: str) -> bool:
        """By the last look, which asks nobody; be it under another name."""
        return self._as_loaded(name) is not None

    def must_load(self, name: str, context: int) -> bool:
        """Whether it will, to answer with that context, by the last look; never where Ollama does
        not tell what is loaded."""
        if not self._tells:
            return False
        tag = self._as_loaded(name)
        return tag is None or tag.context_length not in (None, context)

    async def loaded(self, name: str) -> Tag | None:
        """`name` as it is loaded, by the last look, which is made anew where it is old."""
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
        """The other models that the runner of `tag`, which is loaded, answers for."""
        same = self._runner_of(tag)
        return frozenset(n for n in self._tags if n != tag.name and self.runner(n) == same)

    def _runner_of(self, tag: Tag) -> str:
        """Of one that is loaded, which need not be listed any more."""
        return self._runners.get(tag.digest) or self.runner(tag.name)

    async def running(self, *, fresh: bool = False) -> list[Tag]:
        """The loaded models, by the last look, which is made anew where it is old or not `fresh`.

        Where Ollama does not answer: what the last look saw.
        """
        if fresh or self._is_old:
            await self._look(self._lookup)
        return list(self._running.values())

    @property
    def _is_old(self) -> bool:
        """What the last look saw."""
        return time.monotonic() >= self._looked_until

    def note_loaded(self, name: str, context: int) -> None:
        """A request runs with `context`: that is newer than the last look."""
        self._changed_at = time.monotonic()
        loaded = self._as_loaded(name)
        if loaded is not None and loaded.context_length != context:
            del self._running[loaded.name]
            loaded = None
        if loaded is None:
            self._running[name] = Tag(name=name, context_length=context)

    async def _look(self, seconds: float) -> bool:
        asked_at = time.monotonic()
        try:
            running = await self._client.get("/api/ps", Tags, seconds)
        except BackendUnavailableError:  # It is gone, and its models with it.
            self._running = {}
            return False
        except BackendError:  # Which of them are loaded is good to know, no more.
            return False
        if asked_at < self._changed_at:
            return await self._look(seconds)
        self._running = {tag.name: tag for tag in running.known}
        self._changed_at, self._looked_until = asked_at, asked_at + self._believed
        self._tells = True
        return True

    async def aclose(self) -> None:
        """Wait for the question in progress, which ends when the client is closed."""
        if self._asking is not None:
            await asyncio.wait([self._asking])

    def _asked(self, task: asyncio.Task[list[Model]]) -> None:
        self._asking = None
        if not task.cancelled():
            task.exception()  # Where every caller has left, nobody else looks at it.

    async def _ask(self) -> list[Model]:
        asked_at = time.monotonic()
        tags = (await self._client.get("/api/tags", Tags, _SECONDS)).known
        await self._show_all(tags)
        is_told = await self._look(_SECONDS)
        self._tags = {tag.name: tag for tag in tags}
        self._runner_by_name.clear()
        self._models = [self._to_model(tag, is_told) for tag in tags]
        self._until = asked_at + self._believed
        return self._models

    async def _show_all(self, tags: Iterable[Tag]) -> None:
        """Ask for what `/api/tags` does not tell, the origin above all, once for each digest."""
        missing = {tag.digest: tag for tag in tags if tag.digest not in self._shown}
        gate = asyncio.Semaphore(_SHOWS_AT_ONCE)
        await asyncio.gather(*(self._show(tag, gate) for tag in missing.values()))

    async def _show(self, tag: Tag, gate: asyncio.Semaphore) -> None:
        async with gate:
            try:
                shown = await self._client.post("/api/show", ShowBody(tag.name), Show, _SECONDS)
            except BackendError:  # One broken model must not hide the others.
                return
        self._shown[tag.digest] = shown
        if tag.digest and (started_with := runner(shown)):
            self._runners[tag.digest] = "; ".join(started_with)

    def _to_model(self, tag: Tag, is_told: bool) -> Model:
        """`is_told`: which are loaded."""
        details = tag.details or Details()
        shown = self._shown.get(tag.digest, Show())
        told = (None if _is_told(tag) else shown.capabilities) or tag.capabilities or ()
        capabilities = _to_capabilities(told)
        is_mlx = details.format == "safetensors"
        file = origin(shown)
        running = self._as_loaded(tag.name)
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
            created=_seconds_since_1970(tag.modified_at),
            loaded=running is not None if is_told else None,
            loaded_context=running.context_length if is_told and running else None,
        )


def _to_capabilities(told: Iterable[str]) -> frozenset[Capability]:
    return frozenset(_CAPABILITIES[each] for each in told if each in _CAPABILITIES)


def _lacks(capabilities: frozenset[Capability]) -> frozenset[Feature]:
    """A model that tells nothing of itself is trusted with everything."""
    if not capabilities:
        return frozenset()
    return frozenset(feature for feature, needed in _NEEDED.items() if needed not in capabilities)


def _is_told(tag: Tag) -> bool:
    # Servers that tell no capabilities are old. One that tells no context length takes an
    # embedding model for a chat model: its capabilities are a guess.
    return bool(tag.capabilities and tag.details and tag.details.context_length)


@lru_cache(1024)
def full_name(name: str) -> str:
    """With its tag, as lists name it."""
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"


def _seconds_since_1970(moment: str) -> int:
    try:
        return int(datetime.fromisoformat(moment).timestamp())
    except ValueError:
        return 0

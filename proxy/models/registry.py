"""Which models exist where: asked in the background, remembered, found by name.

A model that two backends have is one entry, and each name that either gives it leads there.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from msgspec import Struct
from msgspec.structs import replace

from adapters import open_backend
from adapters.backend import Backend, Model
from adapters.config import BackendConfig
from adapters.errors import BackendError
from adapters.memory import MemoryUser
from proxy.config import ModelConfig
from proxy.models.counterparts import FOUND, DeclaredCounterparts

log = logging.getLogger("tandem")

_AWAY_SECONDS = 2.0
"""Between two looks for a backend that is away: who comes back is to be used at once."""


class Deployment(Struct, frozen=True, kw_only=True):
    """A model on one backend."""

    backend: str
    """The backend's name."""
    name: str
    """The backend's own."""
    model: Model | None = None
    """What the backend tells of it; `None` if it is only known from the config."""


class RegisteredModel(Struct, frozen=True, kw_only=True):
    """A model as clients see it: on one backend or on several, by one name or more."""

    id: str
    """The user's own name; else what the first backend that has it calls it."""
    deployments: tuple[Deployment, ...]
    names: tuple[str, ...] = ()
    """All that lead here in full, `id` first. Short ones do as well, where they are unique."""
    prefer: str = "auto"
    """The backend that is asked first, or `auto`."""

    @property
    def same_weights(self) -> bool | None:
        """Whether all places compute with the same numbers, to the last bit; `None`: there is one
        place only, or nobody knows. Equal names of quantisations prove nothing."""
        return same_weights([deployment.model for deployment in self.deployments])

    def among(self, kinds: Iterable[str]) -> "RegisteredModel":
        """As far as `kinds` have it."""
        there = frozenset(kinds)
        return replace(
            self, deployments=tuple(each for each in self.deployments if each.backend in there)
        )


class BackendModels:
    """One backend and the models it had when it was last asked."""

    def __init__(self, backend: Backend, asked: Callable[[], None]) -> None:
        """`asked` hears of every answer, and of every question that had none."""
        self.backend = backend
        self._asked = asked
        self.models: dict[str, Model] = {}
        self.reached: bool | None = None
        """Whether the last question was answered; `None` before the first."""
        self._asking: asyncio.Task[None] | None = None

    def full(self, name: str) -> str:
        """`name` as the backend lists it: a config may leave `:latest` out."""
        latest = f"{name}:latest"
        return latest if name not in self.models and latest in self.models else name

    def may_have(self, name: str) -> bool:
        """A folder need not be listed, nor need anything while the backend is away."""
        return not self.reached or name in self.models or name.startswith(("/", "~", "."))

    def is_away(self, name: str) -> bool:
        """It did not answer when it was last asked, or keeps failing at that model. It may be well
        again: who has no other may try."""
        return self.reached is False or not self.backend.is_well(name)

    async def refresh(self, patience: float | None = None) -> None:
        """Ask, or join a question on its way; after `patience` seconds it goes on by itself."""
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask())
        await asyncio.wait((self._asking,), timeout=patience)

    async def _ask(self) -> None:
        try:
            models = await self.backend.list_models()
        except BackendError:
            self.reached = False
        except Exception as exc:
            if self.reached is not False:
                log.error("Listing the models of %s: %s", self.backend.kind, type(exc).__name__)
            self.reached = False
        else:
            self.models = {model.name: model for model in models}
            self.reached = True
        finally:
            self._asked()

    async def stop(self) -> None:
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.wait((self._asking,))


class Registry:
    def __init__(self, aliases: Mapping[str, ModelConfig], period: float) -> None:
        self._aliases = aliases
        self._declared = DeclaredCounterparts(config.names() for config in aliases.values())
        self._period = period
        self._warned: set[str] = set()
        self._found: dict[tuple[str, frozenset[str]], RegisteredModel] = {}
        """What names lead to on some kinds, until a backend was asked again."""
        self.backends: dict[str, BackendModels] = {}
        """By kind, in order of preference."""

    @asynccontextmanager
    async def open(
        self, configs: Mapping[str, BackendConfig], given: Mapping[str, Backend] | None = None
    ) -> AsyncGenerator[None]:
        """Open the backends (unless they are given) and keep asking them for their models."""
        async with AsyncExitStack() as stack:
            backends = given if given is not None else await _open_all(configs, stack)
            self.backends = {
                k: BackendModels(backend, self._found.clear) for k, backend in backends.items()
            }
            await stack.enter_async_context(self._watching())
            yield

    @asynccontextmanager
    async def _watching(self) -> AsyncGenerator[None]:
        backends = list(self.backends.values())
        tasks = [asyncio.create_task(self._watch(listed)) for listed in backends]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, *(s.stop() for s in backends), return_exceptions=True)

    async def _watch(self, listed: BackendModels) -> None:
        while True:
            await listed.refresh()
            self._warn(listed)
            away = listed.reached is False
            await asyncio.sleep(min(self._period, _AWAY_SECONDS) if away else self._period)

    def _warn(self, listed: BackendModels) -> None:
        """Once of each name of the user's own that does not lead where the config says."""
        found = {**self._taken(listed), **self._missing(listed)}
        for said in sorted(found.keys() - self._warned):
            log.warning("models: '%s' %s", *found[said])
        self._warned |= found.keys()

    def _taken(self, listed: BackendModels) -> dict[str, tuple[str, str]]:
        what = f"is {listed.backend.kind}'s own name of a model, and leads to that one."
        taken = self._aliases.keys() & listed.models
        return {own: (own, what) for own in taken if own not in self._known(own).values()}

    def _missing(self, listed: BackendModels) -> dict[str, tuple[str, str]]:
        kind = listed.backend.kind
        named = {own: self._known(own).get(kind) for own in self._aliases}
        return {
            f"{kind}/{own}": (own, f"names {name!r}, which {kind} does not have.")
            for own, name in named.items()
            if name is not None and not listed.may_have(name)
        }

    def memory_users(self) -> dict[str, MemoryUser]:
        """The backends that take of this machine's memory, by kind."""
        backends = {kind: listed.backend for kind, listed in self.backends.items()}
        return {
            k: backend.memory_user
            for k, backend in backends.items()
            if backend.memory_user is not None
        }

    async def refresh(self, patience: float, *, only_new: bool = False) -> None:
        """Ask all backends at once, or those that never answered yet; `patience` is in seconds."""
        asked = [s for s in self.backends.values() if not only_new or s.reached is None]
        await asyncio.gather(*(listed.refresh(patience) for listed in asked))

    def entries(self) -> list[RegisteredModel]:
        """What can answer now: the models of the backends that are there, and the own names."""
        there = {kind for kind, listed in self.backends.items() if listed.reached}
        found: dict[str, RegisteredModel] = {}
        for name in (*self._aliases, *self._names(there)):
            entry = self.named(name, there)
            if entry.deployments:
                known = found.get(entry.id, entry)
                names = dict.fromkeys((*known.names, *entry.names))
                found[entry.id] = replace(known, names=tuple(names))
        return list(found.values())

    def _names(self, kinds: Iterable[str]) -> list[str]:
        """Every model's name once, a name of the user's own not among them."""
        names = dict.fromkeys(name for k in kinds for name in self.backends[k].models)
        return sorted(name for name in names if name not in self._aliases)

    def names(self) -> list[str]:
        """All that can be asked for, for "did you mean"."""
        return [*self._aliases, *self._names(self.backends)]

    def named(self, name: str, kinds: Iterable[str]) -> RegisteredModel:
        """The model of just that name, as far as `kinds` have it: one that a backend calls so,
        then one that the user does. Without places where they have none."""
        key = (name, frozenset(kinds))
        found = self._found.get(key)
        if found is None:
            found = self._find(*key)
            if found.deployments:  # Of names that lead nowhere there is no end.
                self._found[key] = found
        return found

    def _find(self, name: str, kinds: frozenset[str]) -> RegisteredModel:
        for match in (self._exact, self._alias):
            entry = match(name, kinds)
            if entry.deployments:
                return entry
        return RegisteredModel(id=name, deployments=())

    def short(self, name: str, kinds: Iterable[str]) -> list[RegisteredModel]:
        """The models whose name without its owner and `:latest` is `name`; best matches only."""
        there = frozenset(kinds)
        names = [full for kind in there for full in self.backends[kind].models]
        exactly = [full for full in names if name in short_names(full)]
        alike = exactly or [full for full in names if name.lower() in short_names(full.lower())]
        found = (self.named(full, there) for full in sorted(alike))
        return list({entry.id: entry for entry in found if entry.deployments}.values())

    def _exact(self, name: str, kinds: frozenset[str]) -> RegisteredModel:
        """What a backend calls just that is asked of it first: the other's weights may be packed
        otherwise."""
        called = {kind: name for kind, listed in self.backends.items() if name in listed.models}
        prefer = next(iter(called)) if len(called) == 1 else "auto"
        own = self._known(name)
        if name in own.values():  # The user adds to what a backend calls so.
            called, prefer = own, self._aliases[name].prefer
        return replace(self._entry(self._completed(called), kinds), prefer=prefer)

    def _alias(self, name: str, kinds: frozenset[str]) -> RegisteredModel:
        if name not in self._aliases:
            return RegisteredModel(id=name, deployments=())
        entry = self._entry(self._known(name), kinds)
        names = entry.names if entry.id == name else (name,)
        return replace(entry, id=name, names=names, prefer=self._aliases[name].prefer)

    def _known(self, own: str) -> dict[str, str]:
        """What the backends call a model of the config, by kind."""
        config = self._aliases.get(own)
        names = config.names() if config is not None else {}
        return {k: self.backends[k].full(n) for k, n in names.items() if k in self.backends}

    def _completed(self, called: Mapping[str, str]) -> dict[str, str]:
        """`called`, a model's names by kind, with what other backends call it."""
        others = self.backends.keys() - called.keys()
        found = {kind: self._counterpart(called, kind) for kind in others}
        return dict(called) | {k: name for k, name in found.items() if name is not None}

    def _counterpart(self, called: Mapping[str, str], other: str) -> str | None:
        there = self.backends[other]
        for kind, name in called.items():
            # The config may leave `:latest` out on both sides.
            for each in (name, name.removesuffix(":latest")):
                if (said := self._declared.counterpart((kind, each), other)) is not None:
                    return there.full(said)
            for rule in FOUND:
                if found := rule(name, self.backends[kind].models, there.models):
                    return found
        return None

    def _entry(self, called: Mapping[str, str], kinds: frozenset[str]) -> RegisteredModel:
        """The model that the backends call so, by kind, on those of `kinds`; without those that are
        known to lack it, where another has it."""
        backends = self.backends
        order = [kind for kind in backends if kind in called]
        able = [kind for kind in order if backends[kind].may_have(called[kind])] or order
        asked = [kind for kind in order if kind in kinds]
        having = [kind for kind in asked if kind in able] or asked
        named = dict.fromkeys((*self._titles(called), *(called[kind] for kind in able)))
        deployments = (
            Deployment(
                backend=kind, name=called[kind], model=backends[kind].models.get(called[kind])
            )
            for kind in having
        )
        return RegisteredModel(
            id=next(iter(named), ""), deployments=tuple(deployments), names=tuple(named)
        )

    def _titles(self, called: Mapping[str, str]) -> list[str]:
        """The user's own name for the whole of it, if there is one: one that is a backend's as
        well, else the first."""
        known = {own: self._known(own) for own in self._aliases}
        whole = [own for own, names in known.items() if names.items() <= called.items()]
        named = [own for own in whole if own in known[own].values()]
        pairs = [own for own in whole if len(known[own]) > 1]
        return [*named, *pairs][:1]


def same_weights(models: Sequence[Model | None]) -> bool | None:
    """As `RegisteredModel.same_weights`."""
    digests = {model.digest if model is not None else None for model in models}
    origins = {model.origin if model is not None else None for model in models}
    if len(models) < 2:
        return None
    if len(digests) == 1 and None not in digests:
        return True
    if len(origins) > 1 or None in origins:
        return None
    return all(model is not None and model.exact for model in models)


async def _open_all(
    configs: Mapping[str, BackendConfig], stack: AsyncExitStack
) -> dict[str, Backend]:
    return {
        kind: await stack.enter_async_context(open_backend(config))
        for kind, config in configs.items()
    }


def short_names(name: str) -> frozenset[str]:
    """`hf.co/org/tiny:latest` -> itself, `tiny:latest`, `tiny`, `hf.co/org/tiny`."""
    bare = name.removesuffix(":latest")
    return frozenset({name, bare, name.rpartition("/")[2], bare.rpartition("/")[2]})

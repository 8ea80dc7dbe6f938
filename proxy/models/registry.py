"""Registry of models: lists each backend's models in the background and resolves names.

A model that several backends have is one entry, and every name that any of them gives it resolves
to that entry.
"""

import asyncio
import hashlib
import logging
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from msgspec import Struct
from msgspec.structs import replace

from adapters import open_backend
from adapters.backend import Backend, ExplainsUnusable, ListsAtOnce, Model, WithholdsModels
from adapters.config import BackendConfig
from adapters.errors import BackendError
from adapters.memory import MemoryUser
from proxy.config import ModelConfig
from proxy.models.counterparts import INFERRED, DeclaredCounterparts

log = logging.getLogger("tandem")

DEFAULT_TAG = ":latest"
_RETRY_SECONDS = 2.0
"""Between two listings of an unreachable backend, so that it is used soon after it recovers."""
_FIRST_LISTING_SECONDS = 10.0
"""Time for which a request waits for the first listing of a backend, which takes longest: Ollama
describes each of its models by a request of its own."""


class Deployment(Struct, frozen=True, kw_only=True):
    """A model on one backend."""

    backend: str
    """The backend's configured name."""
    name: str
    """The backend's own name of the model."""
    model: Model | None = None
    """The backend's description; `None` if the model is only known from the config."""


class RegisteredModel(Struct, frozen=True, kw_only=True):
    """A model as clients see it: on one backend or several, under one name or several."""

    id: str
    """The alias; without one, the name on the first backend that has the model."""
    deployments: tuple[Deployment, ...]
    names: tuple[str, ...] = ()
    """All full names of the model, `id` first. Unique short names resolve to it as well."""
    prefer: str = "auto"
    """The backend to try first, or `auto`."""

    @property
    def same_weights(self) -> bool | None:
        """True if all deployments compute with the same numbers, to the last bit; `None`: there is
        only one, or it is not known. Equal names of quantisations prove nothing."""
        return same_weights([deployment.model for deployment in self.deployments])

    @property
    def all_names(self) -> tuple[frozenset[str], frozenset[tuple[str, str]]]:
        """All names by which a key may allow the model, and its backends with the names there;
        those without the default tag are included."""
        names = {self.id, *self.names}
        places = {(d.backend, d.name) for d in self.deployments}
        return (
            frozenset(names | {name.removesuffix(DEFAULT_TAG) for name in names}),
            frozenset(places | {(on, name.removesuffix(DEFAULT_TAG)) for on, name in places}),
        )

    def among(self, backends: Iterable[str]) -> "RegisteredModel":
        """The same model, restricted to its deployments on `backends`."""
        there = frozenset(backends)
        return replace(self, deployments=tuple(d for d in self.deployments if d.backend in there))


class BackendModels:
    """One backend and the models of its last listing."""

    def __init__(self, name: str, backend: Backend, on_listed: Callable[[], None]) -> None:
        """`on_listed` is called after each listing, successful or not."""
        self.name = name
        self.backend = backend
        self._on_listed = on_listed
        self.models: dict[str, Model] = {}
        self.reached: bool | None = None
        """True if the last listing succeeded; `None` before the first."""
        self.is_listed = False
        """True after the first listing, successful or not, with full descriptions."""
        self._listing: asyncio.Task[None] | None = None

    def full(self, name: str) -> str:
        """`name` as the backend lists it: a config may omit the default tag, and write the parts
        that are left out otherwise."""
        bare = self.backend.naming.bare(name)
        spellings = (name, bare, bare + self.backend.naming.default_tag)
        return next((each for each in spellings if each in self.models), name)

    def written_out(self, name: str) -> str:
        """The model that `name` has with its default parts, such as `library/`; else `name`."""
        parts = self.backend.naming.default_parts
        return self.full(name) if name.startswith(parts) else name

    def fingerprint(self, name: str) -> str:
        """Name engine, version and weights of the model `name`, as `fp_ollama_0.33.0_8eeb52dfb3bb`.

        A seed repeats an answer only where these are equal.
        """
        version = self.backend.version or "unknown"
        weights = hashlib.sha256(self._weights(name).encode()).hexdigest()[:12]
        return f"fp_{self.backend.kind}_{version}_{weights}"

    def weights_digest(self, name: str) -> str:
        """64 hexadecimal digits that identify the weights of the model `name`."""
        model = self.models.get(name)
        if model is not None and model.digest:
            return model.digest.removeprefix("sha256:")
        return hashlib.sha256(self._weights(name).encode()).hexdigest()

    def _weights(self, name: str) -> str:
        """Identify weights by their digest, or by what is known of them without one: also the same
        before and after the first load of the bundled model, which converts it."""
        model = self.models.get(name) or Model(name=name)
        file = model.origin or model.size_bytes
        return model.digest or repr((name, file, model.quantization))

    def unusable(self) -> dict[str, str]:
        """The models that the backend has and cannot use, and why."""
        backend = self.backend
        return backend.unusable() if isinstance(backend, ExplainsUnusable) else {}

    def withheld(self, name: str) -> str | None:
        """The setting by which the backend would offer the missing model `name`, as a clause."""
        if name in self.models or not isinstance(self.backend, WithholdsModels):
            return None
        return self.backend.withheld().get(name)

    def may_have(self, name: str) -> bool:
        """False if the backend was listed without `name`, which is no path of a folder."""
        return not self.reached or name in self.models or name.startswith(("/", "~", "."))

    def is_away(self, name: str) -> bool:
        """True if the last listing failed or the backend keeps failing with `name`. It may have
        recovered: a request without an alternative still tries it."""
        return self.reached is False or not self.backend.is_well(name)

    async def refresh(self, seconds: float | None = None) -> None:
        """List the models, or join a listing in progress; after `seconds`, or the longer time of a
        first listing, it continues in the background."""
        if self._listing is None or self._listing.done():
            self._listing = asyncio.create_task(self._list())
        if seconds is not None and not self.is_listed:
            seconds = max(seconds, _FIRST_LISTING_SECONDS)
        await asyncio.wait((self._listing,), timeout=seconds)

    async def _list(self) -> None:
        try:
            await self._publish_all()
        except BackendError:
            self.reached = False
        except Exception:  # A defect of one backend leaves the others as they are.
            if self.reached is not False:
                log.exception("The models of %s cannot be listed.", self.name)
            self.reached = False
        finally:
            self.is_listed = True
            self._on_listed()

    async def _publish_all(self) -> None:
        """Publish what is known at once, and the full descriptions when they are there."""
        if isinstance(self.backend, ListsAtOnce):
            models, is_complete = await self.backend.list_known()
            self._publish(models)
            if is_complete:
                return
        self._publish(await self.backend.list_models())

    def _publish(self, models: Iterable[Model]) -> None:
        self.models = {model.name: model for model in models}
        self.reached = True
        self._on_listed()

    async def stop(self) -> None:
        if self._listing is not None:
            self._listing.cancel()
            await asyncio.wait((self._listing,))


class Registry:
    def __init__(self, aliases: Mapping[str, ModelConfig], period: float) -> None:
        """`period`: seconds between two listings of a backend."""
        self._period = period
        self._warned: set[str] = set()
        self._resolved: dict[tuple[str, frozenset[str]], RegisteredModel] = {}
        """Names and the backends they were looked up on -> the result, until the next listing."""
        self.rename(aliases)
        self.backends: dict[str, BackendModels] = {}
        """All backends by name, in order of preference."""
        self._changed = asyncio.Event()
        """Set, and replaced, when models were listed."""

    def rename(self, aliases: Mapping[str, ModelConfig]) -> None:
        """Use these aliases from now on."""
        self._aliases = aliases
        self._declared = DeclaredCounterparts(config.names for config in aliases.values())
        self._resolved.clear()

    @asynccontextmanager
    async def open(
        self, configs: Mapping[str, BackendConfig], backends: Mapping[str, Backend] | None = None
    ) -> AsyncGenerator[None]:
        """Open the backends and list their models periodically. `backends`, if there are any, are
        used instead of `configs` and not closed."""
        async with AsyncExitStack() as stack:
            if backends is None:
                backends = {
                    name: await stack.enter_async_context(open_backend(config))
                    for name, config in configs.items()
                }
            self.backends = {
                name: BackendModels(name, backend, self._note_listing)
                for name, backend in backends.items()
            }
            listed_backends = list(self.backends.values())
            tasks = [asyncio.create_task(self._watch(listed)) for listed in listed_backends]
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()
                stops = (listed.stop() for listed in listed_backends)
                await asyncio.gather(*tasks, *stops, return_exceptions=True)

    async def _watch(self, listed: BackendModels) -> None:
        while True:
            await listed.refresh()
            self._warn(listed)
            away = listed.reached is False
            await asyncio.sleep(min(self._period, _RETRY_SECONDS) if away else self._period)

    def _warn(self, listed: BackendModels) -> None:
        """Log, once each, the aliases that do not resolve as the config says."""
        shadowed = self._aliases.keys() & listed.models
        warnings = self._missing(listed) | {
            alias: f"'{alias}' is the name of a model on {listed.name}, which is used instead of "
            "the alias; rename the alias."
            for alias in shadowed
            if alias not in self._names_of(alias).values()
        }
        for key in sorted(warnings.keys() - self._warned):
            log.warning("models: %s", warnings[key])
        self._warned |= warnings.keys()

    def _missing(self, listed: BackendModels) -> dict[str, str]:
        backend = listed.name
        names = {alias: self._names_of(alias).get(backend) for alias in self._aliases}
        return {
            f"{backend}/{alias}": f"'{alias}' names {name!r}, which {backend} does not have"
            + (f": {reason}." if (reason := listed.withheld(name)) else ".")
            for alias, name in names.items()
            if name is not None and not listed.may_have(name)
        }

    def memory_users(self) -> dict[str, MemoryUser]:
        """The backends that use this machine's memory, by name."""
        users = {name: listed.backend.memory_user for name, listed in self.backends.items()}
        return {name: user for name, user in users.items() if user is not None}

    def listed(self, backend: str, name: str) -> tuple[str, str] | None:
        """The kind of `backend` and `name`, its own name of a model; `None` if it lists no such
        model."""
        there = self.backends.get(backend)
        return (there.backend.kind, name) if there and name in there.models else None

    def name_of(self, kind: str) -> str | None:
        """The name of the first backend of `kind`."""
        return next((n for n, listed in self.backends.items() if listed.backend.kind == kind), None)

    def _note_listing(self) -> None:
        self._resolved.clear()
        self._changed.set()
        self._changed = asyncio.Event()

    async def refresh(self, seconds: float, *, only_new: bool = False) -> None:
        """List all backends, or only those that were never listed; wait for `seconds`, and longer
        for the first listing of a backend."""
        backends = [s for s in self.backends.values() if not only_new or not s.is_listed]
        await asyncio.gather(*(listed.refresh(seconds) for listed in backends))

    async def refresh_until(self, is_found: Callable[[], bool], seconds: float) -> None:
        """List all backends, as `refresh`, but wait no longer than until `is_found` is true."""
        refreshing = asyncio.create_task(self.refresh(seconds))
        try:
            while not (is_found() or refreshing.done()):
                changing = asyncio.create_task(self._changed.wait())
                await asyncio.wait((refreshing, changing), return_when=asyncio.FIRST_COMPLETED)
                changing.cancel()
        finally:
            refreshing.cancel()  # The listings continue.

    def entries(self) -> list[RegisteredModel]:
        """All models that can answer now: those of the reachable backends, and the aliases."""
        there = {name for name, listed in self.backends.items() if listed.reached}
        entries: dict[str, RegisteredModel] = {}
        for name in (*self._aliases, *self._listed(there)):
            entry = self.named(name, there)
            if entry.deployments:
                known = entries.get(entry.id, entry)
                names = dict.fromkeys((*known.names, *entry.names))
                entries[entry.id] = replace(known, names=tuple(names))
        return list(entries.values())

    def _listed(self, backends: Iterable[str]) -> list[str]:
        """The names of all models on `backends`, without those that are aliases as well."""
        names = dict.fromkeys(name for b in backends for name in self.backends[b].models)
        return sorted(name for name in names if name not in self._aliases)

    def names(self) -> list[str]:
        """All names that a request can use, for "did you mean"."""
        return [*self._aliases, *self._listed(self.backends)]

    def named(self, name: str, backends: Iterable[str]) -> RegisteredModel:
        """The model called exactly `name` by one of `backends`, else by an alias, restricted to its
        deployments on `backends`. Without deployments if there is none."""
        key = (name, frozenset(backends))
        entry = self._resolved.get(key)
        if entry is None:
            entry = self._exact(*key)
            if not entry.deployments:
                entry = self._alias(*key)
            if entry.deployments:  # Unknown names are unlimited in number.
                self._resolved[key] = entry
        return entry

    def short(self, name: str, backends: Iterable[str]) -> list[RegisteredModel]:
        """The models on `backends` named `name` apart from owner and default tag: those that match
        in case, else all."""
        there = frozenset(backends)
        names = [(n, self.short_names(n, b)) for b in there for n in self.backends[b].models]
        # Ollama's clients add the default tag to names without one.
        wanted = {name} | {self.backends[b].backend.naming.bare(name) for b in there}
        folded = {each.lower() for each in wanted}
        exact = [full for full, shorts in names if not wanted.isdisjoint(shorts)]
        alike = exact or [f for f, s in names if not folded.isdisjoint(map(str.lower, s))]
        entries = (self.named(full, there) for full in sorted(alike))
        return list({entry.id: entry for entry in entries if entry.deployments}.values())

    def short_names(self, name: str, backend: str) -> frozenset[str]:
        """All spellings of `name`, a model on `backend`, apart from case:
        `hf.co/org/tiny:latest` -> itself, `tiny:latest`, `tiny`, `hf.co/org/tiny`."""
        bare = self.backends[backend].backend.naming.bare(name)
        return frozenset({name, bare, name.rpartition("/")[2], bare.rpartition("/")[2]})

    def _exact(self, name: str, backends: frozenset[str]) -> RegisteredModel:
        """A backend that alone lists a model as `name` is preferred for that name: its counterparts
        may be quantised differently."""
        own_names = {b: listed.written_out(name) for b, listed in self.backends.items()}
        called = {b: own for b, own in own_names.items() if own in self.backends[b].models}
        prefer = next(iter(called)) if len(called) == 1 else "auto"
        own = self._names_of(name)
        if name in own.values():  # The alias extends the model of the same name.
            called, prefer = own, self._aliases[name].prefer
        return replace(self._entry(self._completed(called), backends), prefer=prefer)

    def _alias(self, name: str, backends: frozenset[str]) -> RegisteredModel:
        # Ollama's clients add the default tag to names without one, and leave it out.
        spellings = (name, name.removesuffix(DEFAULT_TAG), name + DEFAULT_TAG)
        alias = next((each for each in spellings if each in self._aliases), None)
        if alias is None:
            return RegisteredModel(id=name, deployments=())
        entry = self._entry(self._names_of(alias), backends)
        names = entry.names if entry.id == alias else (alias,)
        return replace(entry, id=alias, names=names, prefer=self._aliases[alias].prefer)

    def _names_of(self, alias: str) -> dict[str, str]:
        """The full names of the model behind `alias`, by backend; empty if it is not an alias."""
        config = self._aliases.get(alias)
        names = config.names if config is not None else {}
        return {b: self.backends[b].full(names[b]) for b in self.backends if b in names}

    def _completed(self, called: Mapping[str, str]) -> dict[str, str]:
        """`called`, a model's names by backend, extended by its counterparts on other backends."""
        others = [backend for backend in self.backends if backend not in called]
        names = {other: self._counterpart(called, other) for other in others}
        return dict(called) | {other: name for other, name in names.items() if name is not None}

    def _counterpart(self, called: Mapping[str, str], other: str) -> str | None:
        there = self.backends[other]
        for backend, name in called.items():
            here = self.backends[backend]
            # The config may omit the default tag on both sides.
            for key in (name, here.backend.naming.bare(name)):
                if (declared := self._declared.counterpart((backend, key), other)) is not None:
                    return there.full(declared)
            for rule in INFERRED:
                if inferred := rule(name, here.models, there.models):
                    return inferred
        return None

    def _entry(self, called: Mapping[str, str], backends: frozenset[str]) -> RegisteredModel:
        """The model called `called` by backend, restricted to `backends`; without the backends
        that are known to lack it, if another has it."""
        order = [b for b in self.backends if b in called]
        able = [b for b in order if self.backends[b].may_have(called[b])] or order
        allowed = [b for b in order if b in backends]
        having = [b for b in allowed if b in able] or allowed
        # The alias that covers several backends or is a backend's name as well, which is stronger.
        known = {alias: self._names_of(alias) for alias in self._aliases}
        matching = [alias for alias, names in known.items() if names.items() <= called.items()]
        native = [alias for alias in matching if alias in known[alias].values()]
        shared = [alias for alias in matching if len(known[alias]) > 1]
        names = dict.fromkeys((*[*native, *shared][:1], *(called[b] for b in able)))
        return RegisteredModel(
            id=next(iter(names), ""),
            deployments=tuple(
                Deployment(backend=b, name=called[b], model=self.backends[b].models.get(called[b]))
                for b in having
            ),
            names=tuple(names),
        )


def same_weights(models: Sequence[Model | None]) -> bool | None:
    """Compute `RegisteredModel.same_weights`."""
    digests = {model.digest if model is not None else None for model in models}
    origins = {model.origin if model is not None else None for model in models}
    if len(models) < 2:
        return None
    if len(digests) == 1 and None not in digests:
        return True
    if len(origins) > 1 or None in origins:
        return None
    return all(model is not None and model.exact for model in models)

"""Several Ollamas as one: who answers, who is stepped over, who takes over."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing
from functools import partial
from typing import Generic, TypeVar

from msgspec.structs import replace

from adapters.backend import BreakerState, Health, Model, Progress
from adapters.config import OllamaConfig
from adapters.errors import (
    BackendBusyError,
    BackendError,
    BackendTimeoutError,
    BackendUnavailableError,
    InvalidRequestError,
    ModelNotFoundError,
)
from adapters.ollama.catalog import full_name
from adapters.ollama.errors import SILENT
from adapters.ollama.ndjson import Lines
from adapters.ollama.server import OllamaServer
from adapters.ollama.translate.template import Template
from adapters.ollama.wire import ChatBody, EmbedBody, Embedded, Line, RawBody
from adapters.upstream.circuit_breaker import FAULTS
from adapters.upstream.deadlines import PATIENT, Patience

T = TypeVar("T")

_PATIENCE = 1.0
"""Seconds that a list waits for the slow, once somebody has answered."""

_BREAKERS: tuple[BreakerState, ...] = ("closed", "half-open", "open")
"""The best first: requests go to the best host."""


class Failover(Generic[T]):
    """One request; each host is asked once at most, the best first."""

    def __init__(
        self,
        hosts: Sequence[OllamaServer],
        ask: Callable[[OllamaServer, Patience], Awaitable[T]],
        waiting: Patience,
        look: Callable[[Sequence[OllamaServer]], Awaitable[list[OllamaServer]]],
    ) -> None:
        """`hosts` are those that could answer, in order; `look` finds out who else can by now."""
        self._left = list(hosts)
        self._known = list(hosts)
        self._ask, self._waiting = ask, waiting
        self._look = look
        self._failed: BackendError | None = None

    async def answer(self) -> T:
        """That of the first who gives one, of those that were not asked yet.

        Raises:
            BackendError: what the last of them raised, but for one who does not have the model. A
                mistake of the caller ends it at once.
        """
        host = self._left.pop(0)
        try:
            return await self._ask(host, _wary(self._waiting, self._left))
        except InvalidRequestError:
            raise
        except ModelNotFoundError as error:
            failed = self._failed or error  # Who failed has the model, and may be back.
        except BackendError as error:
            failed = self._failed = error
        if not await self._is_anybody_left():
            raise failed
        return await self.answer()

    async def goes_on(self, error: BackendError) -> bool:
        """Whether somebody is left who could give the answer that has broken off with `error`."""
        self._failed = error
        return isinstance(error, FAULTS) and await self._is_anybody_left()

    async def _is_anybody_left(self) -> bool:
        if not self._left:
            self._left = await self._look(self._known)
            self._known += self._left
        return bool(self._left)


class OllamaServers:
    def __init__(self, config: OllamaConfig) -> None:
        self._hosts = [OllamaServer(address, config) for address in config.addresses]
        self.are_several = len(self._hosts) > 1
        self.local = tuple(host for host in self._hosts if host.is_local)
        """Those that take of this machine's memory."""
        self._listing: dict[OllamaServer, asyncio.Task[list[Model]]] = {}

    async def lines(
        self, path: str, body: ChatBody | RawBody, waiting: Patience = PATIENT
    ) -> Lines[Line]:
        """The answer of the best host; of the next best where that fails before the first line.

        Raises:
            BackendError: as `Failover.answer`.
        """
        if not self.are_several:  # As most have it: nothing between this and the one there is.
            return await _usable(self._hosts)[0].lines(path, body, waiting)
        return await (await self.asking(path, body, waiting)).answer()

    async def asking(
        self, path: str, body: ChatBody | RawBody, waiting: Patience = PATIENT
    ) -> Failover[Lines[Line]]:
        """
        Raises:
            BackendError: there is nobody to ask.
        """

        def ask(host: OllamaServer, waiting: Patience) -> Awaitable[Lines[Line]]:
            return host.lines(path, body, waiting)

        look = partial(self._others, body.model)
        return Failover(await self._candidates(body.model), ask, waiting, look)

    async def embed(self, body: EmbedBody, waiting: Patience = PATIENT) -> Embedded:
        """The vectors of the best host; of the next best of the same weights where that fails.

        Raises:
            BackendError: as `Failover.answer`.
        """

        def ask(host: OllamaServer, waiting: Patience) -> Awaitable[Embedded]:
            return host.embed(body, waiting)

        async def look(known: Sequence[OllamaServer]) -> list[OllamaServer]:
            return self._alike(body.model, await self._others(body.model, known))

        hosts = self._alike(body.model, await self._candidates(body.model))
        if not hosts:
            raise BackendUnavailableError("The first Ollama that has the model keeps failing.")
        return await Failover(hosts, ask, waiting, look).answer()

    def _alike(self, model: str, hosts: Iterable[OllamaServer]) -> list[OllamaServer]:
        """Those of `hosts` that have the weights of the first that has the model: one tag may be
        two models, pulled at different times, and vectors of the two cannot be compared."""
        told = (host.catalog.digest(model) for host in self._hosts)
        home = next(filter(None, told), "")
        return [host for host in hosts if host.catalog.digest(model) in (home, "")]

    def is_well(self, model: str) -> bool:
        """One of those that may have it is not known to fail."""
        return any(h.has(model) is not False and not h.breaker.is_open for h in self._hosts)

    def overdue(self, model: str) -> BackendError:
        """As `OllamaServer.overdue`, of all that are asked for `model`."""
        asked = [host.overdue() for host in self._hosts if host.is_answering(model)]
        busy = [error for error in asked if isinstance(error, BackendBusyError)]
        return next(iter(busy or asked), BackendTimeoutError(SILENT))

    async def has_loaded(self, model: str) -> bool:
        """The host that would answer, as it tells now."""
        host = (await self._candidates(model))[0]
        await host.catalog.running()
        return host.catalog.is_loaded(model)

    async def shows_tools(self, model: str) -> bool:
        """Whether its template shows tools, as far as is known."""
        models = {full_name(each.name): each for each in await self.models()}
        known = models.get(full_name(model))
        return known is not None and "tools" in known.capabilities

    async def template(self, model: str) -> Template:
        """That of the host that would answer."""
        return await (await self._candidates(model))[0].template(model)

    async def models(self, *, fresh: bool = False) -> list[Model]:
        """Every model of every host; of two of a name the first, loaded where one of them is.
        `fresh`: as it is now, not as it was within `refresh` seconds.

        Raises:
            BackendError: no host has answered; what the first of them raised.
        """
        if fresh:
            for host in self._hosts:
                host.catalog.doubt()
        lists = await self._lists()
        found: dict[str, Model] = {}
        for model in (model for models in lists for model in models):
            same = found.setdefault(model.name, model)
            if model.loaded and not same.loaded:
                context = model.loaded_context
                found[model.name] = replace(same, loaded=True, loaded_context=context)
        return list(found.values())

    async def load(self, model: str, keep_alive: float | None) -> None:
        """On one host: where it is loaded, or would be answered."""

        def ask(host: OllamaServer, _: Patience) -> Awaitable[None]:
            return host.load(model, keep_alive)

        look = partial(self._others, model)
        await Failover(await self._candidates(model), ask, PATIENT, look).answer()

    async def unload(self, model: str) -> None:
        """Wherever it is; one that fails keeps it on no other."""
        owners = [host for host in await self._candidates(model) if host.has(model) is not False]
        unloading = (host.unload(model) for host in owners)
        for failure in await asyncio.gather(*unloading, return_exceptions=True):
            if failure is not None:
                raise failure

    async def pull(self, model: str) -> AsyncGenerator[Progress]:
        """To the first host that is there."""
        host = next((host for host in self._hosts if not host.breaker.is_open), self._hosts[0])
        async with aclosing(host.pull(model)) as lines:
            async for progress in lines:
                yield progress

    async def health(self) -> Health:
        """Well where one of them is; `detail` tells where those are that are not."""
        each = await asyncio.gather(*(host.health() for host in self._hosts))
        well = [health for health in each if health.ok]
        ill = [
            f"{host.address}: {health.detail or ''}"
            for host, health in zip(self._hosts, each, strict=True)
            if not health.ok
        ]
        counters = {"hosts": len(each), "hosts_well": len(well)} if len(each) > 1 else {}
        return Health(
            ok=bool(well),
            detail="; ".join(ill) or None,
            version=next((health.version for health in each if health.version), None),
            breaker=next(state for state in _BREAKERS if state in {h.breaker for h in each}),
            counters=counters,
        )

    async def aclose(self) -> None:
        await asyncio.gather(*(host.aclose() for host in self._hosts))
        if self._listing:
            await asyncio.wait(self._listing.values())

    async def _candidates(self, model: str) -> list[OllamaServer]:
        """Best first: who has it, was not silent, is least busy, has it loaded.

        Raises:
            BackendUnavailableError: all that may have it are being tested.
        """
        if not self.are_several:
            return _usable(self._hosts)
        if any(host.has(model) is None and not host.breaker.is_open for host in self._hosts):
            await self._look()
        owners = [host for host in self._hosts if host.has(model) is not False]
        if not owners:
            raise ModelNotFoundError(f"No Ollama has a model '{model}'.", param="model")
        return sorted(_usable(owners), key=lambda host: _rank(host, model))

    async def _others(self, model: str, known: Sequence[OllamaServer]) -> list[OllamaServer]:
        """Those that have got the model since the last look."""
        others = [host for host in self._hosts if host not in known and not host.breaker.is_open]
        if others:
            await self._look()
        return [host for host in others if host.has(model)]

    async def _look(self) -> None:
        try:
            await self._lists()
        except BackendError:  # The request itself will tell.
            return

    async def _lists(self) -> list[list[Model]]:
        """What each host has, those first that answer; who does not is asked on, for the next
        time."""
        asked = [host for host in self._hosts if not host.breaker.is_open] or self._hosts
        tasks = {host: self._ask(host) for host in asked}
        pending = set(tasks.values())
        while pending and not any(_answered(task) for task in tasks.values()):
            _, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        if pending:
            await asyncio.wait(pending, timeout=_PATIENCE)
        answered = {host: task for host, task in tasks.items() if _answered(task)}
        if not answered:
            next(iter(tasks.values())).result()
        others = [_last(host, tasks.get(host)) for host in self._hosts if host not in answered]
        return [*(task.result() for task in answered.values()), *others]

    def _ask(self, host: OllamaServer) -> asyncio.Task[list[Model]]:
        if host not in self._listing:
            task = self._listing[host] = asyncio.create_task(host.models())
            task.add_done_callback(lambda task: self._asked(host, task))
        return self._listing[host]

    def _asked(self, host: OllamaServer, task: asyncio.Task[list[Model]]) -> None:
        del self._listing[host]
        if not task.cancelled():
            task.exception()


def _wary(waiting: Patience, others: Sequence[OllamaServer]) -> Patience:
    return replace(waiting, elsewhere=True) if others else waiting


def _answered(task: asyncio.Task[list[Model]]) -> bool:
    return task.done() and not task.cancelled() and task.exception() is None


def _last(host: OllamaServer, asking: asyncio.Task[list[Model]] | None) -> list[Model]:
    """What it had, of one that takes its time or fails: to say that there is no such model would be
    final, and the host may be back for a request."""
    had = host.catalog.last()
    if asking is not None and not asking.done():
        return had
    return [replace(model, loaded=None, loaded_context=None) for model in had]


def _usable(hosts: Iterable[OllamaServer]) -> list[OllamaServer]:
    """Those that are well. Where none is, those that will tell at once that they are not.

    Raises:
        BackendUnavailableError: all of them are there and do not answer.
    """
    every = list(hosts)
    usable = [host for host in every if not host.breaker.is_open]
    usable = usable or [host for host in every if host.is_quick_to_fail]
    if not usable:
        raise BackendUnavailableError("Ollama failed several times and is being tested.")
    return usable


def _rank(host: OllamaServer, model: str) -> tuple[bool, bool, int, bool]:
    return (
        host.has(model) is None,
        host.breaker.is_silent,
        host.work.requests,
        not host.catalog.is_loaded(model),
    )

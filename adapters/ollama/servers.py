"""Several Ollama servers as one: choice of a server, failover, and one list of models."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from functools import partial

from msgspec.structs import replace

from adapters.backend import BreakerState, Health, Model, Progress
from adapters.config import OllamaConfig
from adapters.errors import (
    BackendBusyError,
    BackendError,
    BackendTimeoutError,
    BackendUnavailableError,
    ModelNotFoundError,
)
from adapters.ollama.catalog import full_name
from adapters.ollama.context.token_estimate import Count
from adapters.ollama.errors import SILENT
from adapters.ollama.rendered.plan import RenderedPlan
from adapters.ollama.server import Call, OllamaServer, Shown
from adapters.ollama.translate.template import Template
from adapters.ollama.wire import ChatBody, EmbedBody, Embedded, RawBody, Tag
from adapters.upstream.deadlines import AS_CONFIGURED, Deadline
from adapters.upstream.limits import Limits
from adapters.upstream.restart import Failover

_BREAKERS: tuple[BreakerState, ...] = ("closed", "half-open", "open")
"""Best first: requests go to the best server."""


class OllamaServers:
    def __init__(self, config: OllamaConfig, limits: Limits) -> None:
        self._limits = limits
        self._servers = [OllamaServer(address, config, limits) for address in config.addresses]
        self._is_one = len(self._servers) == 1
        self.local = tuple(server for server in self._servers if server.is_local)
        """Servers that use this machine's memory."""
        self._listing: dict[OllamaServer, asyncio.Task[list[Model]]] = {}

    def generate(self, call: Call) -> Awaitable[None]:
        """Write the answer of the best server; of the next best where that fails before its first
        line, or at any time where the client sees the answer as a whole.

        Raises:
            BackendError: as `Failover.result`.
        """
        if self._is_one:
            return _usable(self._servers, call.body.model)[0].generate(call, call.deadline)
        return self._generate(call)

    async def _generate(self, call: Call) -> None:
        await Failover(
            await self._candidates(call.body.model),
            lambda server, deadline: server.generate(call, deadline),
            call.deadline,
            partial(self._others, call.body.model),
            call.writer.may_restart,
        ).result()

    async def count(self, body: ChatBody | RawBody) -> Count:
        """Estimate the tokens of `body` for the server that would answer it."""
        return await (await self._candidates(body.model))[0].count(body)

    async def count_rendered(
        self, asked: RenderedPlan | ChatBody | RawBody, deadline: Deadline
    ) -> Count | None:
        """Count the tokens of the prompt for `asked` as the server that would answer renders it;
        `None` where it would have to load the model, or does not render.

        Raises:
            BackendError: as `OllamaServer.render`.
        """
        body = asked.chat if isinstance(asked, RenderedPlan) else asked
        return await (await self._candidates(body.model))[0].count_rendered(asked, deadline)

    async def embed(self, body: EmbedBody, deadline: Deadline) -> Embedded:
        """Return the vectors of the best server; of the next best with the same weights where that
        fails.

        Raises:
            BackendError: as `Failover.result`.
        """

        async def others(known: Sequence[OllamaServer]) -> list[OllamaServer]:
            return self._with_same_weights(body.model, await self._others(body.model, known))

        servers = self._with_same_weights(body.model, await self._candidates(body.model))
        if not servers:
            raise BackendUnavailableError(
                f"The first Ollama server that has '{body.model}' keeps failing."
            )
        return await Failover(
            servers, lambda server, deadline: server.embed(body, deadline), deadline, others
        ).result()

    def _with_same_weights(self, model: str, servers: Iterable[OllamaServer]) -> list[OllamaServer]:
        """Keep the servers with the weights of the first that has `model`: one tag may be two
        models, pulled at different times, and vectors of the two cannot be compared."""
        digests = (server.catalog.digest(model) for server in self._servers)
        first = next(filter(None, digests), "")
        return [server for server in servers if server.catalog.digest(model) in (first, "")]

    def loading(self) -> list[str]:
        """List the models that a server loads for a request, see `InFlight.loading`."""
        return [name for server in self._servers for name in server.work.loading()]

    def is_well(self, model: str) -> bool:
        """True where a server that may have `model` is not known to fail."""
        return any(s.has(model) is not False and s.breaker.is_well(model) for s in self._servers)

    def overdue(self, model: str) -> BackendError:
        """Return the error as `OllamaServer.overdue`, of all servers with requests to `model`."""
        errors = [server.overdue() for server in self._servers if server.is_answering(model)]
        busy = [error for error in errors if isinstance(error, BackendBusyError)]
        return next(iter(busy or errors), BackendTimeoutError(SILENT))

    async def has_loaded(self, model: str) -> bool:
        """Ask the server that would answer whether `model` is loaded."""
        server = (await self._candidates(model))[0]
        await server.catalog.running()
        return server.catalog.is_loaded(model)

    async def shows_tools(self, model: str, *, if_unknown: bool) -> bool:
        """True where the template of `model` shows tools, by the last list that has the model."""
        name = full_name(model)
        lists = (listed for server in self._servers for listed in server.catalog.last())
        known = next((listed for listed in lists if full_name(listed.name) == name), None)
        if known is None:
            try:
                models = await self.models()
            except BackendError:
                if not if_unknown:
                    raise
                models = []
            known = next((listed for listed in models if full_name(listed.name) == name), None)
        if known is None or not known.capabilities:
            return if_unknown
        return "tools" in known.capabilities

    async def shown(self, body: ChatBody | RawBody, deadline: Deadline) -> Shown:
        """Return `OllamaServer.shown` of the server that would answer."""
        return await (await self._candidates(body.model))[0].shown(body, deadline)

    async def template(self, model: str) -> Template:
        """Return the template of the server that would answer."""
        return await (await self._candidates(model))[0].template(model)

    async def models(self, *, fresh: bool = False) -> list[Model]:
        """List the models of all servers; of two with one name the first, loaded where one is.

        `fresh`: as they are now, not as they were within the last `refresh` seconds.

        Raises:
            BackendError: no server responds; what the first of them raised.
        """
        if fresh:
            for server in self._servers:
                server.catalog.doubt()
        by_name: dict[str, Model] = {}
        for model in (model for models in await self._lists() for model in models):
            same = by_name.setdefault(model.name, model)
            if model.loaded and not same.loaded:
                context = model.loaded_context
                by_name[model.name] = replace(same, loaded=True, loaded_context=context)
        return list(by_name.values())

    async def load(self, model: str, keep_alive: float | None) -> None:
        """Load `model` on the server that would answer, or on the next where that fails."""
        await Failover(
            await self._candidates(model),
            lambda server, _: server.load(model, keep_alive),
            AS_CONFIGURED,
            partial(self._others, model),
        ).result()

    async def unload(self, model: str) -> None:
        """Unload `model` on every server that has it, also where one of them fails."""
        await self._on_owners(model, lambda server: server.unload(model))

    async def set_pinned(self, model: str, pinned: bool) -> None:
        """Pin `model`, or not, on every server that has it."""
        await self._on_owners(model, lambda server: server.set_pinned(model, pinned))

    async def _on_owners(self, model: str, work: Callable[[OllamaServer], Awaitable[None]]) -> None:
        owners = [s for s in await self._candidates(model) if s.has(model) is not False]
        for failure in await asyncio.gather(*map(work, owners), return_exceptions=True):
            if failure is not None:
                raise failure

    async def owner(self, model: str) -> OllamaServer:
        """Return a server that has `model`, or may have it.

        Raises:
            ModelNotFoundError, BackendUnavailableError: as `generate`.
        """
        return (await self._candidates(model))[0]

    @property
    def first(self) -> OllamaServer:
        """The first server that is not known to fail; new models go there."""
        usable = (server for server in self._servers if not server.breaker.is_open)
        return next(usable, self._servers[0])

    async def running(self) -> list[Tag]:
        """List the loaded models of all servers that respond."""
        lists = [await s.catalog.running(fresh=True) for s in _usable(self._servers, "")]
        return [tag for tags in lists for tag in tags]

    def pull(self, model: str) -> AsyncGenerator[Progress]:
        """Download `model` to the first server."""
        return self.first.pull(model)

    async def health(self) -> Health:
        """Report ok where one server is; `detail` says what is wrong with the others."""
        reports = await asyncio.gather(*(server.health() for server in self._servers))
        well = [health for health in reports if health.ok]
        ill = [
            f"{server.address}: {health.detail or ''}"
            for server, health in zip(self._servers, reports, strict=True)
            if not health.ok
        ]
        return Health(
            ok=bool(well),
            detail="; ".join(ill) or None,
            version=next((health.version for health in reports if health.version), None),
            breaker=next(state for state in _BREAKERS if state in {h.breaker for h in reports}),
            counters={} if self._is_one else {"hosts": len(reports), "hosts_well": len(well)},
        )

    @property
    def version(self) -> str | None:
        """The version of the first server that has reported one."""
        return next((server.version for server in self._servers if server.version), None)

    def behind(self) -> set[str]:
        """Return as `Chained.behind`."""
        return {server_id for server in self._servers for server_id in server.catalog.behind}

    async def aclose(self) -> None:
        await asyncio.gather(*(server.aclose() for server in self._servers))
        if self._listing:
            await asyncio.wait(self._listing.values())

    async def _candidates(self, model: str) -> list[OllamaServer]:
        """Return the servers for `model`, best first: has it, was not silent, is least busy, has it
        loaded.

        Raises:
            ModelNotFoundError: no server has it.
            BackendUnavailableError: all that may have it are being tested.
        """
        if self._is_one:
            return _usable(self._servers, model)
        if any(
            server.has(model) is None and not server.breaker.is_open for server in self._servers
        ):
            await self._refresh()
        owners = [server for server in self._servers if server.has(model) is not False]
        if not owners:
            raise ModelNotFoundError(f"No Ollama server has a model '{model}'.", param="model")
        return sorted(
            _usable(owners, model),
            key=lambda server: (
                server.has(model) is None,
                server.breaker.is_silent,
                server.work.requests,
                not server.catalog.is_loaded(model),
            ),
        )

    async def _others(self, model: str, known: Sequence[OllamaServer]) -> list[OllamaServer]:
        """Return servers beside `known` that have `model` by now."""
        others = [s for s in self._servers if s not in known and not s.breaker.is_open]
        if others:
            await self._refresh()
        return [server for server in others if server.has(model)]

    async def _refresh(self) -> None:
        try:
            await self._lists()
        except BackendError:  # The request itself will fail, and say why.
            return

    async def _lists(self) -> list[list[Model]]:
        """List the models of each server, those first that respond; a slow server goes on in the
        background, for the next call."""
        usable = [s for s in self._servers if not s.breaker.is_open] or self._servers
        tasks = {server: self._list(server) for server in usable}
        pending = set(tasks.values())
        while pending and not any(_has_result(task) for task in tasks.values()):
            _, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        if pending:
            await asyncio.wait(pending, timeout=self._limits.list_grace)
        results = {server: task for server, task in tasks.items() if _has_result(task)}
        if not results:
            next(iter(tasks.values())).result()
        others = [_last(s, tasks.get(s)) for s in self._servers if s not in results]
        return [*(task.result() for task in results.values()), *others]

    def _list(self, server: OllamaServer) -> asyncio.Task[list[Model]]:
        if server not in self._listing:
            task = self._listing[server] = asyncio.create_task(server.models())
            task.add_done_callback(lambda task: self._end_list(server, task))
        return self._listing[server]

    def _end_list(self, server: OllamaServer, task: asyncio.Task[list[Model]]) -> None:
        del self._listing[server]
        if not task.cancelled():
            task.exception()


def _has_result(task: asyncio.Task[list[Model]]) -> bool:
    return task.done() and not task.cancelled() and task.exception() is None


def _last(server: OllamaServer, listing: asyncio.Task[list[Model]] | None) -> list[Model]:
    """Return the last list of a server that is slow or fails: that there is no such model would be
    final, and the server may be back for a request."""
    models = server.catalog.last()
    if listing is not None and not listing.done():
        return models
    return [replace(model, loaded=None, loaded_context=None) for model in models]


def _usable(servers: Iterable[OllamaServer], model: str) -> list[OllamaServer]:
    """Return the servers that are well; where there are none, those that may be tried.

    Raises:
        BackendUnavailableError: `model` failed several times on all of them.
    """
    every = list(servers)
    usable = [server for server in every if server.breaker.is_well(model)]
    usable = usable or [server for server in every if server.breaker.may_try(model)]
    if not usable:
        raise every[0].breaker.refusal(model)
    return usable

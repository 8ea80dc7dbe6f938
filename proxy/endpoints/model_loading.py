"""A model of a public name, made ready or sent away; lists tell of it at once."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from adapters.backend import Progress
from adapters.errors import BackendUnavailableError
from proxy.endpoints.server_request import ServerRequest
from proxy.models import load_progress
from proxy.routing.router import Route

_PATIENCE = 1.0
"""Seconds that a backend has to tell anew what it has loaded."""


async def load(request: ServerRequest, name: str, keep_alive: float | None) -> Route:
    """Load `name` where a plain question to it would go, and wait until it is there.

    Raises:
        BackendError: as `Router.resolve` and `Backend.load`.
    """
    route = await _resolve(request, name)
    await request.finish(route.backend.load(route.name, keep_alive))
    await _look(request, route)
    return route


async def load_in_steps(
    request: ServerRequest, name: str, keep_alive: float | None
) -> AsyncGenerator[Progress]:
    """As `load`, telling how far it is; `success` comes last. Closing it gives the load up."""
    route = await _resolve(request, name)
    async with aclosing(load_progress.load(route.backend, route.name, keep_alive)) as steps:
        async for step in steps:
            if step.status == "success":
                await _look(request, route)
            yield step


async def unload(request: ServerRequest, name: str) -> Route:
    """Unload `name` wherever it is.

    Raises:
        BackendBusyError: it is answering somebody.
        BackendUnavailableError: none of its backends is there.
    """
    away: BackendUnavailableError | None = None
    done: list[Route] = []
    for route in await request.router.routes(name):
        request.record.attempt(route.backend_name, route.name)
        try:
            await request.finish(route.backend.unload(route.name))
            await _look(request, route)
            done.append(route)
        except BackendUnavailableError as exc:
            away = exc
    if away is not None and not done:
        raise away
    return done[0]


async def _resolve(request: ServerRequest, name: str) -> Route:
    route = await request.router.resolve(name, frozenset())
    request.record.attempt(route.backend_name, route.name)
    return route


async def _look(request: ServerRequest, route: Route) -> None:
    await request.registry.backends[route.backend_name].refresh(_PATIENCE)

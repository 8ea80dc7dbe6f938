"""Load and unload models by public name, and refresh the listings afterwards."""

from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager

from adapters.backend import KeepsPinned, Progress
from adapters.errors import BackendUnavailableError
from proxy.endpoints.server_request import ServerRequest
from proxy.models import load_progress
from proxy.routing.router import Route

_LISTING_SECONDS = 1.0
"""Time that a backend has to list its models again."""


async def load(request: ServerRequest, name: str, keep_alive: float | None) -> Route:
    """Load `name` on the backend that a plain chat would use, and wait until it is loaded.

    Raises:
        BackendError: as `Router.resolve` and `Backend.load`.
        ExplainedHTTPError: 403: it unloads the model at once, and may not administer.
    """
    request.check_keep_alive(keep_alive)
    route = await _resolve(request, name)
    await request.finish(route.backend.load(route.name, keep_alive))
    await _refresh(request, route)
    return route


async def pin(request: ServerRequest, name: str, *, pinned: bool) -> Route:
    """Load `name` as `load` does and keep it loaded, or let it go by its `keep_alive` again.

    Raises:
        BackendError: as `Router.resolve` and `Backend.load`; nothing is pinned then.
    """
    route = await _resolve(request, name)
    keeper = route.backend if isinstance(route.backend, KeepsPinned) else None
    if keeper is not None:
        await keeper.set_pinned(route.name, pinned)
    if pinned:
        try:
            await request.finish(route.backend.load(route.name))
        except BaseException:
            if keeper is not None:
                await keeper.set_pinned(route.name, False)
            raise
    request.memory.set_pinned(_spellings(route), pinned=pinned)
    await _refresh(request, route)
    return route


async def load_in_steps(
    request: ServerRequest, name: str, keep_alive: float | None
) -> AsyncGenerator[Progress]:
    """Load `name` and yield the progress, `success` last. Closing it cancels the load."""
    route = await _resolve(request, name)
    async with aclosing(load_progress.load(route.backend, route.name, keep_alive)) as steps:
        async for step in steps:
            if step.status == "success":
                await _refresh(request, route)
            yield step


async def unload(request: ServerRequest, name: str) -> list[Route]:
    """Unload `name` on every backend that has it; return those that did, at least one.

    A pin that a request has made ends with it, so that the next load is not pinned unseen.

    Raises:
        BackendBusyError: an answer of the model is in progress.
        BackendUnavailableError: all of its backends are unreachable.
        ExplainedHTTPError: 403: the request may not administer.
    """
    request.grant.require_admin("Unloading a model")
    request.record.operation = None
    away: BackendUnavailableError | None = None
    unloaded: list[Route] = []
    for route in await request.router.routes(name):
        request.record.attempt(route.backend_name, route.name)
        try:
            async with _without_pin(request, route):
                await request.finish(route.backend.unload(route.name))
            await _refresh(request, route)
            unloaded.append(route)
        except BackendUnavailableError as exc:
            away = exc
    if away is not None and not unloaded:
        raise away
    return unloaded


@asynccontextmanager
async def _without_pin(request: ServerRequest, route: Route) -> AsyncGenerator[None]:
    """End the pin that a request has made, first, because Ollama loads a model with its new time;
    it is back where the work below fails."""
    keys = _spellings(route)
    is_pinned = request.memory.is_pinned_since_start(keys)
    keeper = route.backend if is_pinned and isinstance(route.backend, KeepsPinned) else None
    if keeper is not None:
        await keeper.set_pinned(route.name, False)
    try:
        yield
    except BaseException:
        if keeper is not None:
            await keeper.set_pinned(route.name, True)
        raise
    if is_pinned:
        request.memory.forget_pin(keys)


def _spellings(route: Route) -> list[tuple[str, str]]:
    spellings = route.backend.naming.spellings(route.name)
    return [(route.backend_name, spelling) for spelling in spellings]


async def _resolve(request: ServerRequest, name: str) -> Route:
    request.record.operation = None  # As of a chat without messages: it only loads.
    route = await request.router.resolve(name, frozenset())
    request.record.attempt(route.backend_name, route.name)
    return route


async def _refresh(request: ServerRequest, route: Route) -> None:
    await request.registry.backends[route.backend_name].refresh(_LISTING_SECONDS)

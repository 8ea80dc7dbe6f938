"""A model of a public name, made ready or sent away."""

from adapters.errors import BackendUnavailableError
from proxy.endpoints.hybrid.exchange import Exchange
from proxy.router import Route


async def load(exchange: Exchange, name: str, keep_alive: float | None) -> Route:
    """Load `name` where a plain question to it would go, and wait until it is there.

    Raises:
        BackendError: as `Router.resolve` and `Backend.load`.
    """
    route = await exchange.router.resolve(name, frozenset())
    exchange.notes.routed(route)
    await exchange.finish(route.backend.load(route.name, keep_alive))
    return route


async def unload(exchange: Exchange, name: str) -> Route:
    """Unload `name` wherever it is.

    Raises:
        BackendBusyError: it is answering somebody.
        BackendUnavailableError: none of its backends is there.
    """
    routes = await exchange.router.routes(name)
    away: BackendUnavailableError | None = None
    done: list[Route] = []
    for route in routes:
        exchange.notes.routed(route)
        try:
            await exchange.finish(route.backend.unload(route.name))
            done.append(route)
        except BackendUnavailableError as exc:
            away = exc
    if away is not None and not done:
        raise away
    return done[0]

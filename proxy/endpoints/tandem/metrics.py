"""`GET /metrics`: figures for Prometheus, in its text format or in OpenMetrics."""

from importlib.metadata import version

from litestar import Response, get
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from proxy.endpoints.server_request import ServerRequest
from proxy.endpoints.tandem.health import to_health
from proxy.metrics.state import ServerState, StateMetrics
from proxy.openapi import Operation


@get(
    "/metrics",
    operation=Operation(summary="Metrics in Prometheus' formats", answers=(str,)),
)
async def get_metrics(request: ServerRequest) -> Response[bytes]:
    request.grant.require_all_models("GET /metrics")
    encode, content_type = choose_encoder(request.fields.get("accept", ""))
    state = CollectorRegistry(auto_describe=False)
    state.register(StateMetrics(await _state(request)))
    body = _joined(encode(request.metrics), encode(state))
    return Response(body, headers={"content-type": content_type})


def _joined(answers: bytes, state: bytes) -> bytes:
    """Join two expositions, of which each of OpenMetrics ends with a line of its own."""
    return answers.removesuffix(b"# EOF\n") + state


async def _state(request: ServerRequest) -> ServerState:
    health = await to_health(request)
    backends = request.registry.backends
    return ServerState(
        version=version("tandem-proxy"),
        health=health.backends,
        memory=health.memory,
        running=request.activity.running(backends),
        names={
            (name, model): model for name, listed in backends.items() for model in listed.models
        },
        loaded={
            (name, model.name): model.loaded
            for name, listed in backends.items()
            for model in listed.models.values()
            if model.loaded is not None
        },
    )

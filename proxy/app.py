"""The server on one screen."""

import os
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager

from litestar import Litestar
from litestar.datastructures import State
from litestar.exceptions import HTTPException
from msgspec.structs import asdict

from adapters.backend import Backend
from proxy.bench.archive import Archive
from proxy.config import Config, state_folder
from proxy.endpoints.chat_completions import create_chat_completion
from proxy.endpoints.comparison import get_comparison
from proxy.endpoints.completions import create_completion
from proxy.endpoints.embeddings import create_embedding
from proxy.endpoints.health import get_health
from proxy.endpoints.hybrid.chat import create_chat
from proxy.endpoints.hybrid.health import get_hybrid_health
from proxy.endpoints.hybrid.mlx import create_mlx_generation, load_mlx_model, unload_mlx_model
from proxy.endpoints.hybrid.models import (
    list_mlx_models,
    list_models_by_backend,
    retrieve_hybrid_model,
)
from proxy.endpoints.models import list_models, retrieve_model
from proxy.endpoints.openapi import get_litestar_openapi, get_openapi
from proxy.endpoints.route import plan_route
from proxy.errors import answer_error
from proxy.http.exchange import Exchange, ServerParts
from proxy.http.gates import Gate
from proxy.http.straight import Straight
from proxy.http.streaming import Drain
from proxy.openapi import Document
from proxy.opening import assemble, opened

ROUTES = (
    create_chat_completion,
    create_completion,
    create_embedding,
    plan_route,
    list_models,
    retrieve_model,
    get_health,
    get_comparison,
    list_models_by_backend,
    retrieve_hybrid_model,
    list_mlx_models,
    create_chat,
    create_mlx_generation,
    load_mlx_model,
    unload_mlx_model,
    get_hybrid_health,
    get_openapi,
    get_litestar_openapi,
)


def create_app(config: Config, backends: Mapping[str, Backend] | None = None) -> Litestar:
    """The application. Backends that are given are used as they are, and not closed."""
    parts = ServerParts(
        **asdict(assemble(config)),
        config=config,
        archive=Archive(state_folder(config, os.environ)),
        drain=Drain(config.server.shutdown_grace),
        document=Document(),
    )

    @asynccontextmanager
    async def lifespan(_app: Litestar) -> AsyncGenerator[None]:
        async with opened(parts, config, backends):
            yield

    app = Litestar(
        route_handlers=ROUTES,
        request_class=Exchange,
        exception_handlers={HTTPException: answer_error, Exception: answer_error},
        lifespan=[lifespan],
        state=State({"parts": parts}),
        openapi_config=None,
        logging_config=None,
        debug=False,
    )
    app.asgi_handler = Gate(Straight(app), config.server)
    return app

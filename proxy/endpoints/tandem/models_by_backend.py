"""`GET /api/models`, `/api/models/{id}` and `/api/mlx/models`: models by backend."""

from litestar import get
from litestar.params import FromPath
from msgspec import Struct
from msgspec.structs import asdict

from adapters.backend import Progress
from proxy.endpoints.openai.models import (
    LISTING_SECONDS,
    DeploymentCard,
    ModelCard,
    find_card,
    to_deployment_card,
)
from proxy.endpoints.server_request import ServerRequest
from proxy.endpoints.tandem.load import require_mlx
from proxy.openapi import Operation


class BackendModel(DeploymentCard, kw_only=True):
    """A model on one backend."""

    model_id: str
    names: list[str]
    """All full names of the model, on any backend."""
    loading: Progress | None
    """The progress of a load; null if the model is not being loaded."""


class BackendListing(Struct, kw_only=True):
    reached: bool | None
    """True if the last listing succeeded; null before the first."""
    models: list[BackendModel]
    unusable: dict[str, str]
    """Models that the backend has and cannot use, by name, and why."""


class ModelsByBackend(Struct):
    backends: dict[str, BackendListing]
    """Listings by the backend's name."""


class MLXModels(Struct):
    models: list[BackendModel]


def to_listings(request: ServerRequest) -> dict[str, BackendListing]:
    """The models that can answer now; an unreachable backend has none."""
    backends, allows = request.registry.backends, request.grant.allows
    listings = {
        b: BackendListing(reached=listed.reached, models=[], unusable={})
        for b, listed in backends.items()
    }
    for backend, listed in backends.items():
        unusable = listed.unusable().items()
        listings[backend].unusable = {name: why for name, why in unusable if allows((name,))}
    for entry in request.entries():
        for deployment in entry.deployments:
            model = BackendModel(
                model_id=entry.id,
                names=list(entry.names),
                loading=backends[deployment.backend].backend.loading().get(deployment.name),
                **asdict(to_deployment_card(deployment)),
            )
            listings[deployment.backend].models.append(model)
    return listings


@get(
    "/api/models",
    operation=Operation(summary="All models by backend", answers=(ModelsByBackend,)),
)
async def list_models_by_backend(request: ServerRequest) -> ModelsByBackend:
    await request.registry.refresh(LISTING_SECONDS, only_new=True)
    return ModelsByBackend(to_listings(request))


@get(
    "/api/models/{model:path}",
    operation=Operation(summary="A model by any of its names", answers=(ModelCard,)),
)
async def retrieve_hybrid_model(model: FromPath[str], request: ServerRequest) -> ModelCard:
    return await find_card(request.router, model.removeprefix("/"))


@get(
    "/api/mlx/models",
    operation=Operation(summary="The models of MLX", answers=(MLXModels,)),
)
async def list_mlx_models(request: ServerRequest) -> MLXModels:
    name = require_mlx(request)
    await request.registry.refresh(LISTING_SECONDS, only_new=True)
    return MLXModels(to_listings(request)[name].models)

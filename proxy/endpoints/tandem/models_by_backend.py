"""`GET /api/models`, `/api/models/{id}` and `/api/mlx/models`: what each engine has."""

from litestar import get
from litestar.params import FromPath
from msgspec import Struct
from msgspec.structs import asdict

from adapters.backend import Progress
from proxy.endpoints.openai.models import PATIENCE, ModelCard, ModelPlace, find_card, to_deployment
from proxy.endpoints.server_request import ServerRequest
from proxy.endpoints.tandem.load import require_mlx
from proxy.models.registry import BackendModels, Registry
from proxy.operation import Operation


class HeldModel(ModelPlace, kw_only=True):
    """A model, as one engine has it."""

    model_id: str
    names: list[str]
    """All that lead to the model in full, on whichever engine."""
    loading: Progress | None
    """How far it is where it is being loaded."""


class Held(Struct, kw_only=True):
    reached: bool | None
    """Whether the engine answered when it was last asked; null before the first time."""
    models: list[HeldModel]


class ModelsByBackend(Struct):
    backends: dict[str, Held]
    """By kind."""


class MLXModels(Struct):
    models: list[HeldModel]


def to_held(registry: Registry) -> dict[str, Held]:
    """What can answer now; an engine that is away has nothing."""
    held = {kind: Held(reached=s.reached, models=[]) for kind, s in registry.backends.items()}
    for entry in registry.entries():
        for deployment in entry.deployments:
            model = HeldModel(
                model_id=entry.id,
                names=list(entry.names),
                loading=_loading(registry.backends[deployment.backend], deployment.name),
                **asdict(to_deployment(deployment)),
            )
            held[deployment.backend].models.append(model)
    return held


def _loading(listed: BackendModels, name: str) -> Progress | None:
    return listed.backend.loading().get(name)


@get(
    "/api/models",
    operation=Operation(summary="All models by engine", answers=(ModelsByBackend,)),
)
async def list_models_by_backend(request: ServerRequest) -> ModelsByBackend:
    await request.registry.refresh(PATIENCE, only_new=True)
    return ModelsByBackend(to_held(request.registry))


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
    require_mlx(request)
    await request.registry.refresh(PATIENCE, only_new=True)
    return MLXModels(to_held(request.registry)["mlx"].models)

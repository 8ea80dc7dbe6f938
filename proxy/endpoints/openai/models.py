"""`GET /v1/models` and `GET /v1/models/{id}`.

Source: https://platform.openai.com/docs/api-reference/models
"""

from collections.abc import Iterable
from typing import TypeVar

from litestar import get
from litestar.params import FromPath
from msgspec import Struct

from adapters.backend import Model
from proxy.endpoints.server_request import ServerRequest
from proxy.models.registry import Deployment, RegisteredModel, Registry
from proxy.operation import Operation
from proxy.routing.router import Router

_T = TypeVar("_T")

PATIENCE = 1.0
"""Seconds the first list waits for a backend that has not answered yet."""


class ModelPlace(Struct, kw_only=True):
    """What one backend has of it."""

    backend: str
    name: str
    """The backend's own."""
    quantization: str | None
    size_bytes: int | None
    digest: str | None
    context_length: int | None
    capabilities: list[str]
    loaded: bool | None
    loaded_context: int | None
    """Tokens that it is loaded for, where that is another number than it could have."""


class ModelCard(Struct, kw_only=True):
    """OpenAI's four fields, and what clients of local servers look for.

    A number or a word for the whole is what any backend can, or what all that tell agree on.
    """

    id: str
    object: str = "model"
    created: int
    owned_by: str
    root: str
    """The model's first name: cards of one root are one model under several names. vLLM's word."""
    names: list[str]
    """All that lead to it in full."""
    backends: list[ModelPlace]
    """In the order in which they are asked, where nothing else decides."""
    same_weights: bool | None
    """Whether they compute with the same numbers, to the last bit; `null` where nobody knows, or
    where there is one of them."""
    context_length: int | None
    max_model_len: int | None
    """vLLM's name for the same."""
    capabilities: list[str]
    quantization: str | None
    size_bytes: int | None
    digest: str | None
    loaded: bool | None
    loaded_context: int | None


class ModelList(Struct):
    data: list[ModelCard]
    object: str = "list"


def to_list(registry: Registry) -> ModelList:
    entries = registry.entries()
    return ModelList([to_card(entry, name) for entry in entries for name in entry.names])


def to_card(entry: RegisteredModel, name: str) -> ModelCard:
    """The card of one of its names."""
    deployments = [to_deployment(deployment) for deployment in entry.deployments]
    length = max(
        (p.context_length for p in deployments if p.context_length is not None), default=None
    )
    return ModelCard(
        id=name,
        created=_first(
            deployment.model.created or None for deployment in entry.deployments if deployment.model
        )
        or 0,
        owned_by=",".join(deployment.backend for deployment in deployments),
        root=entry.id,
        names=list(entry.names),
        backends=deployments,
        same_weights=entry.same_weights,
        context_length=length,
        max_model_len=length,
        capabilities=sorted(
            {each for deployment in deployments for each in deployment.capabilities}
        ),
        quantization=_agreed(deployment.quantization for deployment in deployments),
        size_bytes=_agreed(deployment.size_bytes for deployment in deployments),
        digest=_agreed(deployment.digest for deployment in deployments),
        loaded=_any(deployment.loaded for deployment in deployments),
        loaded_context=_first(deployment.loaded_context for deployment in deployments),
    )


def to_deployment(deployment: Deployment) -> ModelPlace:
    model = deployment.model or Model(name=deployment.name)
    return ModelPlace(
        backend=deployment.backend,
        name=deployment.name,
        quantization=model.quantization or None,
        size_bytes=model.size_bytes,
        digest=model.digest,
        context_length=model.context_length,
        capabilities=sorted(model.capabilities),
        loaded=model.loaded,
        loaded_context=model.loaded_context,
    )


def _first(told: Iterable[_T | None]) -> _T | None:
    return next((each for each in told if each is not None), None)


def _agreed(told: Iterable[_T | None]) -> _T | None:
    known = {each for each in told if each is not None}
    return known.pop() if len(known) == 1 else None


def _any(told: Iterable[bool | None]) -> bool | None:
    known = [each for each in told if each is not None]
    return any(known) if known else None


@get("/v1/models", operation=Operation(summary="All models by all names", answers=(ModelList,)))
async def list_models(request: ServerRequest) -> ModelList:
    await request.registry.refresh(PATIENCE, only_new=True)
    return to_list(request.registry)


@get(
    "/v1/models/{model:path}",
    operation=Operation(summary="A model by any of its names", answers=(ModelCard,)),
)
async def retrieve_model(model: FromPath[str], request: ServerRequest) -> ModelCard:
    return await find_card(request.router, model.removeprefix("/"))


async def find_card(router: Router, name: str) -> ModelCard:
    """The card of the full name that `name` is, or is short for.

    Raises:
        BackendError: as `Router.find`.
    """
    entry = await router.find(name)
    full = (each for each in (name, name.partition("/")[2]) if each in entry.names)
    return to_card(entry, next(full, entry.id))

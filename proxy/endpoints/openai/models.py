"""Cards of models in OpenAI's shape.

Source: https://platform.openai.com/docs/api-reference/models
"""

from collections.abc import Iterable
from typing import TypeVar

from msgspec import Struct

from adapters.backend import Model
from proxy.models.registry import Deployment, RegisteredModel
from proxy.routing.router import Router

_T = TypeVar("_T")

LISTING_SECONDS = 1.0
"""Time that the first request waits for a backend that was never listed."""


class DeploymentCard(Struct, kw_only=True):
    """The model on one backend."""

    backend: str
    name: str
    """The backend's own name of the model."""
    quantization: str | None
    size_bytes: int | None
    digest: str | None
    context_length: int | None
    capabilities: list[str]
    template: list[str]
    """Names of what is done with messages that its chat template does not take as they are."""
    loaded: bool | None
    loaded_context: int | None
    """Tokens of context that the model is loaded with, if the backend chooses them."""
    notes: list[str] = []
    """Deviations of the model from its configuration, with the reasons; known once it is loaded."""


class ModelCard(Struct, kw_only=True):
    """OpenAI's four fields, and those that clients of local servers use.

    A value for the whole model is the best of all deployments, or what all known ones agree on.
    """

    id: str
    object: str = "model"
    created: int
    owned_by: str
    root: str
    """The model's first name: cards with one root are one model. Named as in vLLM."""
    names: list[str]
    """All full names of the model."""
    backends: list[DeploymentCard]
    """In the order in which they are preferred if nothing else decides."""
    same_weights: bool | None
    """True if all compute with the same numbers, to the last bit; `null`: not known, or there is
    only one."""
    context_length: int | None
    max_model_len: int | None
    """`context_length`, named as in vLLM."""
    capabilities: list[str]
    quantization: str | None
    size_bytes: int | None
    digest: str | None
    loaded: bool | None
    loaded_context: int | None


class ModelList(Struct):
    data: list[ModelCard]
    object: str = "list"


def to_list(entries: Iterable[RegisteredModel]) -> ModelList:
    return ModelList([to_card(entry, name) for entry in entries for name in entry.names])


def to_card(entry: RegisteredModel, name: str) -> ModelCard:
    """The card of `entry` under one of its names."""
    deployments = [to_deployment_card(deployment) for deployment in entry.deployments]
    lengths = [card.context_length for card in deployments if card.context_length is not None]
    length = max(lengths, default=None)
    created = (
        deployment.model.created or None for deployment in entry.deployments if deployment.model
    )
    return ModelCard(
        id=name,
        created=_first(created) or 0,
        owned_by=",".join(deployment.backend for deployment in deployments),
        root=entry.id,
        names=list(entry.names),
        backends=deployments,
        same_weights=entry.same_weights,
        context_length=length,
        max_model_len=length,
        capabilities=sorted({name for card in deployments for name in card.capabilities}),
        quantization=_agreed(deployment.quantization for deployment in deployments),
        size_bytes=_agreed(deployment.size_bytes for deployment in deployments),
        digest=_agreed(deployment.digest for deployment in deployments),
        loaded=_any(deployment.loaded for deployment in deployments),
        loaded_context=_first(deployment.loaded_context for deployment in deployments),
    )


def to_deployment_card(deployment: Deployment) -> DeploymentCard:
    model = deployment.model or Model(name=deployment.name)
    return DeploymentCard(
        backend=deployment.backend,
        name=deployment.name,
        quantization=model.quantization or None,
        size_bytes=model.size_bytes,
        digest=model.digest,
        context_length=model.context_length,
        capabilities=sorted(model.capabilities),
        template=list(model.template),
        loaded=model.loaded,
        loaded_context=model.loaded_context,
        notes=list(model.notes),
    )


def _first(values: Iterable[_T | None]) -> _T | None:
    return next((value for value in values if value is not None), None)


def _agreed(values: Iterable[_T | None]) -> _T | None:
    known = {value for value in values if value is not None}
    return known.pop() if len(known) == 1 else None


def _any(values: Iterable[bool | None]) -> bool | None:
    known = [value for value in values if value is not None]
    return any(known) if known else None


async def find_card(router: Router, name: str) -> ModelCard:
    """The card of the model called `name`, in full or for short; raises as `find_named`."""
    return to_card(*await find_named(router, name))


async def find_named(router: Router, name: str) -> tuple[RegisteredModel, str]:
    """The model called `name`, in full or for short, and the full one of its names that is meant.

    Raises:
        BackendError: as `Router.find`.
    """
    entry = await router.find(name)
    full = (title for title in (name, name.partition("/")[2]) if title in entry.names)
    return entry, next(full, entry.id)

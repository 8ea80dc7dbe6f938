"""`GET /v1/models` and `GET /v1/models/{id}`.

Source: https://platform.openai.com/docs/api-reference/models
"""

from collections.abc import Iterable
from typing import TypeVar

from litestar import get
from litestar.di import NamedDependency
from litestar.params import FromPath
from msgspec import Struct

from proxy.registry import Entry, Registry
from proxy.router import Router

_T = TypeVar("_T")

_PATIENCE = 1.0
"""Seconds the first list waits for a backend that has not answered yet."""


class ModelCard(Struct, kw_only=True):
    """OpenAI's four fields, and what clients of local servers look for."""

    id: str
    object: str = "model"
    created: int
    owned_by: str
    backends: list[str]
    context_length: int | None
    max_model_len: int | None
    """vLLM's name for the same."""
    capabilities: list[str]
    quantization: str | None
    size_bytes: int | None
    digest: str | None
    loaded: bool | None
    loaded_context: int | None
    """Tokens that it is loaded for, where that is another number than it could have."""


class ModelList(Struct):
    data: list[ModelCard]
    object: str = "list"


def to_card(entry: Entry) -> ModelCard:
    """The first backend that tells a thing is believed; capabilities are what any of them has."""
    kinds = [place.kind for place in entry.places]
    models = [place.model for place in entry.places if place.model is not None]
    length = _first(model.context_length for model in models)
    return ModelCard(
        id=entry.id,
        created=_first(model.created or None for model in models) or 0,
        owned_by=",".join(kinds),
        backends=kinds,
        context_length=length,
        max_model_len=length,
        capabilities=sorted({each for model in models for each in model.capabilities}),
        quantization=_first(model.quantization or None for model in models),
        size_bytes=_first(model.size_bytes for model in models),
        digest=_first(model.digest for model in models),
        loaded=_first(model.loaded for model in models),
        loaded_context=_first(model.loaded_context for model in models),
    )


def _first(told: Iterable[_T | None]) -> _T | None:
    return next((each for each in told if each is not None), None)


@get("/v1/models")
async def list_models(registry: NamedDependency[Registry]) -> ModelList:
    await registry.refresh(_PATIENCE, only_new=True)
    return ModelList([to_card(entry) for entry in registry.entries()])


@get("/v1/models/{model:path}")
async def retrieve_model(model: FromPath[str], router: NamedDependency[Router]) -> ModelCard:
    return to_card(await router.find(model.removeprefix("/")))

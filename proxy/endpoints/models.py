"""`GET /v1/models` and `GET /v1/models/{id}`.

Source: https://platform.openai.com/docs/api-reference/models
"""

from litestar import get
from litestar.di import NamedDependency
from litestar.params import FromPath
from msgspec import Struct

from proxy.registry import Entry, Registry
from proxy.router import Router

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
    loaded: bool | None


class ModelList(Struct):
    data: list[ModelCard]
    object: str = "list"


def to_card(entry: Entry) -> ModelCard:
    """The first backend that tells a thing is believed; capabilities are what any of them has."""
    kinds = [place.kind for place in entry.places]
    models = [place.model for place in entry.places if place.model is not None]
    length = next((m.context_length for m in models if m.context_length is not None), None)
    return ModelCard(
        id=entry.id,
        created=next((m.created for m in models if m.created), 0),
        owned_by=",".join(kinds),
        backends=kinds,
        context_length=length,
        max_model_len=length,
        capabilities=sorted({each for model in models for each in model.capabilities}),
        quantization=next((m.quantization for m in models if m.quantization), None),
        size_bytes=next((m.size_bytes for m in models if m.size_bytes is not None), None),
        loaded=next((m.loaded for m in models if m.loaded is not None), None),
    )


@get("/v1/models")
async def list_models(registry: NamedDependency[Registry]) -> ModelList:
    await registry.refresh(_PATIENCE, only_new=True)
    return ModelList([to_card(entry) for entry in registry.entries()])


@get("/v1/models/{model:path}")
async def retrieve_model(model: FromPath[str], router: NamedDependency[Router]) -> ModelCard:
    return to_card(await router.find(model.removeprefix("/")))

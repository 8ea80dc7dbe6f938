"""`/api/version`, `/api/tags`, `/api/show` and `/api/ps`: the models of every backend for Ollama's
clients.

Source: https://github.com/ollama/ollama/blob/main/docs/api.md and `api/types.go`
"""

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from litestar import get, post
from msgspec import UNSET, Struct, UnsetType
from msgspec.structs import asdict

from adapters.backend import Capability, Chained, Model, ModelDetails, RunningModel
from adapters.errors import BackendError, InvalidRequestError
from adapters.upstream.behind import SERVER_HEADER, SERVER_ID
from proxy.endpoints.ollama.answer import OLLAMA_ERRORS
from proxy.endpoints.server_request import ServerRequest
from proxy.models.registry import BackendModels, Deployment, RegisteredModel, Registry
from proxy.openapi import Operation

_API_VERSION = "0.33.0"
"""The version of Ollama with the API that is spoken here; clients require 0.6.4 and more."""
_LISTING_SECONDS = 1.0
"""Time that the first request waits for a backend that was never listed."""
_CAPABILITIES: dict[Capability, str] = {
    "chat": "completion",
    "tools": "tools",
    "vision": "vision",
    "embedding": "embedding",
    "fim": "insert",
    "reasoning": "thinking",
}
_FOREVER = timedelta(days=365 * 292)
"""Ollama's longest duration, for a time that never comes."""


class Version(Struct):
    version: str


class Details(Struct, kw_only=True):
    parent_model: str
    format: str
    family: str
    families: tuple[str, ...]
    parameter_size: str
    quantization_level: str
    context_length: int | UnsetType = UNSET
    """In lists of all models only, as `embedding_length`."""
    embedding_length: int | UnsetType = UNSET


class OllamaModel(Struct, kw_only=True):
    name: str
    model: str
    modified_at: datetime
    size: int
    """Bytes on disk."""
    digest: str
    details: Details
    capabilities: list[str]


class OllamaModels(Struct):
    models: list[OllamaModel]
    servers: list[str] | UnsetType = UNSET
    """For a Tandem that asks: the ids of this server and of the servers of Tandem behind it."""


class RunningOllamaModel(Struct, kw_only=True):
    name: str
    model: str
    size: int
    """Bytes in memory; 0 if they are not known."""
    digest: str
    details: Details
    expires_at: datetime
    size_vram: int
    context_length: int | UnsetType = UNSET


class RunningOllamaModels(Struct):
    models: list[RunningOllamaModel]


class ShowRequest(Struct, kw_only=True):
    model: str = ""
    name: str = ""
    """The older name of `model`."""
    verbose: bool | None = None
    """Adds the tensors, and all of the vocabulary."""
    backend: str | None = None


class Tensor(Struct):
    name: str
    type: str
    shape: tuple[int, ...]


class ShownModel(Struct, kw_only=True):
    license: str | UnsetType = UNSET
    modelfile: str
    parameters: str
    template: str
    system: str | UnsetType = UNSET
    details: Details
    model_info: dict[str, Any]
    tensors: list[Tensor] | UnsetType = UNSET
    capabilities: list[str]
    modified_at: datetime


def to_name(model: str, name: str) -> str:
    """Return the name of a model in a body that may have it under an older field.

    Raises:
        InvalidRequestError: there is none.
    """
    if not (model or name):
        raise InvalidRequestError("Missing required parameter: 'model'.", param="model")
    return model or name


@get(
    "/api/version",
    operation=Operation(summary="Version of Ollama's API", answers=(Version,)),
    errors=OLLAMA_ERRORS,
)
async def get_version() -> Version:
    return Version(_API_VERSION)


@get(
    "/api/tags",
    operation=Operation(summary="All models, for Ollama's clients", answers=(OllamaModels,)),
    errors=OLLAMA_ERRORS,
)
async def list_tags(request: ServerRequest) -> OllamaModels:
    registry = request.registry
    await registry.refresh(_LISTING_SECONDS, only_new=True)
    return OllamaModels(
        [_to_model(registry, entry, name) for entry in request.entries() for name in entry.names],
        servers=_to_servers(registry) if SERVER_HEADER in request.fields else UNSET,
    )


def _to_servers(registry: Registry) -> list[str]:
    backends = (listed.backend for listed in registry.backends.values())
    behind = (backend.behind() for backend in backends if isinstance(backend, Chained))
    return [SERVER_ID, *sorted(set[str]().union(*behind))]


def _to_model(registry: Registry, entry: RegisteredModel, name: str) -> OllamaModel:
    """Describe `entry` under one of its names, by the backend that gives it that name."""
    deployment = _named(entry, name)
    model = deployment.model or Model(name=deployment.name)
    return OllamaModel(
        name=name,
        model=name,
        modified_at=_to_time(model),
        size=model.size_bytes or 0,
        digest=registry.backends[deployment.backend].weights_digest(deployment.name),
        details=_to_details(model, is_listed=True),
        capabilities=_to_capabilities(entry),
    )


def _named(entry: RegisteredModel, name: str) -> Deployment:
    return next((d for d in entry.deployments if d.name == name), entry.deployments[0])


def _to_time(model: Model) -> datetime:
    return datetime.fromtimestamp(model.created, UTC)


def _to_details(model: Model, *, is_listed: bool) -> Details:
    details: ModelDetails = model.details
    return Details(
        parent_model=details.parent,
        format=details.format,
        family=details.family,
        families=details.families,
        parameter_size=details.parameter_size,
        quantization_level=model.quantization or "",
        context_length=(is_listed and model.context_length) or UNSET,
        embedding_length=(is_listed and details.embedding_length) or UNSET,
    )


def _to_capabilities(entry: RegisteredModel) -> list[str]:
    known = {c for d in entry.deployments if d.model is not None for c in d.model.capabilities}
    return [name for capability, name in _CAPABILITIES.items() if capability in known]


@post(
    "/api/show",
    status_code=200,
    operation=Operation(
        summary="A model in detail, for Ollama's clients",
        asks=(ShowRequest,),
        answers=(ShownModel,),
        may_force=True,
    ),
    errors=OLLAMA_ERRORS,
)
async def show_model(request: ServerRequest) -> ShownModel:
    body = await request.read(ShowRequest)
    wanted = to_name(body.model, body.name)
    entry = await request.router.find(request.forced(wanted, body.backend))
    deployment = _named(entry, wanted)
    backend = request.registry.backends[deployment.backend].backend
    request.record.attempt(deployment.backend, deployment.name)
    described = await backend.describe(deployment.name, verbose=bool(body.verbose))
    model = deployment.model or Model(name=deployment.name)
    tensors = [Tensor(**asdict(tensor)) for tensor in described.tensors]
    return ShownModel(
        license=described.license or UNSET,
        modelfile=described.recipe,
        parameters=described.parameters,
        template=described.template,
        system=described.system or UNSET,
        details=_to_details(model, is_listed=False),
        model_info=dict(_to_facts(model, described.facts)),
        tensors=tensors or UNSET,
        capabilities=_to_capabilities(entry),
        modified_at=_to_time(model),
    )


def _to_facts(model: Model, facts: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the keys that clients require, where the backend does not know them, and all others.

    Clients read the context length by the name of the architecture.
    """
    architecture = facts.get("general.architecture") or model.details.family or "unknown"
    yield "general.architecture", architecture
    yield "general.basename", model.name.rpartition("/")[2]
    if model.context_length is not None:
        yield f"{architecture}.context_length", model.context_length
    yield from facts.items()


@get(
    "/api/ps",
    operation=Operation(
        summary="The loaded models, for Ollama's clients", answers=(RunningOllamaModels,)
    ),
    errors=OLLAMA_ERRORS,
)
async def list_running(request: ServerRequest) -> RunningOllamaModels:
    registry, shown = request.registry, dict[str, RunningOllamaModel]()
    await registry.refresh(_LISTING_SECONDS, only_new=True)
    names = _names(request.entries())
    for backend, listed in registry.backends.items():
        try:
            running = await listed.backend.list_running()
        except BackendError:  # A backend that is away has nothing loaded that could be used.
            continue
        for each in running:
            # A model may be newer than the last listing, or the path of a folder.
            is_new = each.name not in listed.models and request.grant.allows(
                (each.name,), [(backend, each.name)]
            )
            for name in names.get((backend, each.name), [each.name] if is_new else []):
                shown.setdefault(name, _to_running(listed, name, each))
    return RunningOllamaModels(list(shown.values()))


def _names(entries: Iterable[RegisteredModel]) -> dict[tuple[str, str], list[str]]:
    """Return the names in `/api/tags` by backend and its own name of a model.

    A backend's own name stands for what is loaded there; an alias, and the name that comes first,
    for each backend that has the model: clients look for the name that they sent.
    """
    names: dict[tuple[str, str], list[str]] = {}
    for entry in entries:
        for name in entry.names:
            own = [d for d in entry.deployments if d.name == name and name != entry.id]
            for deployment in own or entry.deployments:
                names.setdefault((deployment.backend, deployment.name), []).append(name)
    return names


def _to_running(listed: BackendModels, name: str, running: RunningModel) -> RunningOllamaModel:
    model = listed.models.get(running.name) or Model(name=running.name)
    expires_at = (
        datetime.now(UTC) + _FOREVER
        if running.expires_at is None
        else datetime.fromtimestamp(running.expires_at, UTC)
    )
    return RunningOllamaModel(
        name=name,
        model=name,
        size=running.size_bytes or 0,
        digest=listed.weights_digest(running.name),
        details=_to_details(model, is_listed=False),
        expires_at=expires_at,
        size_vram=running.gpu_bytes or 0,
        context_length=running.context_length or UNSET,
    )

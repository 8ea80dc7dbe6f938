"""The interface of backends, and the types of what they report."""

from collections.abc import AsyncGenerator, AsyncIterable, Coroutine
from functools import lru_cache
from typing import Any, Literal, Protocol, get_args, runtime_checkable

from msgspec import UNSET, Struct, UnsetType

from adapters.errors import UnsupportedParameterError
from adapters.memory import MemoryUser
from adapters.naming import Naming
from adapters.request import EmbeddingRequest, Feature, GenerationRequest, first_needed
from adapters.sink import Sink

Capability = Literal[
    "chat", "tools", "vision", "embedding", "fim", "reasoning", "speech", "transcription"
]


class ModelDetails(Struct, frozen=True, kw_only=True):
    """Format, architecture and size of a model; empty where they are not known."""

    format: str = ""
    """Format of its files: `gguf`, `safetensors`."""
    family: str = ""
    """Its architecture, as `llama`."""
    families: tuple[str, ...] = ()
    """`family`, and the architectures of other parts, such as an image encoder."""
    parameter_size: str = ""
    """Number of its parameters, as `134.52M`."""
    parent: str = ""
    """The model that it was made from."""
    embedding_length: int | None = None
    """Width of its hidden states."""


class Model(Struct, frozen=True, kw_only=True):
    """A model as its backend describes it. `None` is "not known", never a guess."""

    name: str
    context_length: int | None = None
    capabilities: frozenset[Capability] = frozenset()
    lacks: frozenset[Feature] = frozenset()
    """Features that this model lacks although its backend honours them for others."""
    extras: dict[Feature, str] = {}
    """Features of `lacks` that the model would have with an extra of this package: its name."""
    size_bytes: int | None = None
    quantization: str | None = None
    digest: str | None = None
    origin: str | None = None
    """`sha256:…` of the GGUF file with these weights: equal on both engines, where one imported
    them from the other."""
    exact: bool | None = None
    """True if the weights equal those of that file to the last bit, however they are packed."""
    template: tuple[str, ...] = ()
    """Names of what is done with messages that its chat template does not take as they are; see
    `adapters.chat_template.rewriting`."""
    primed: bool = False
    """True if each chat begins with a system prompt, or messages, that come with the model."""
    created: int = 0
    """Seconds since 1970."""
    loaded: bool | None = None
    loaded_context: int | None = None
    """Tokens of the context it is loaded with, where the backend chooses a size."""
    notes: tuple[str, ...] = ()
    """Sentences for users: what this model does not do as configured, and why. Known once it is
    loaded."""
    details: ModelDetails = ModelDetails()


class TensorInfo(Struct, frozen=True):
    """One tensor of a model's weights."""

    name: str
    type: str
    """Its data type, as `BF16`."""
    shape: tuple[int, ...]


class Description(Struct, frozen=True, kw_only=True):
    """A detailed description of one model; empty where a part is not known."""

    facts: dict[str, Any] = {}
    """Keys as in a GGUF: `general.architecture`, `ARCHITECTURE.context_length`, …"""
    template: str = ""
    """The chat template: Jinja, or Go for Ollama's own."""
    system: str = ""
    """The system prompt that comes with it."""
    parameters: str = ""
    """A line for each default of sampling, as `temperature 0.6`."""
    license: str = ""
    recipe: str = ""
    """The Modelfile that makes it."""
    tensors: tuple[TensorInfo, ...] = ()


class RunningModel(Struct, frozen=True, kw_only=True):
    """A model that is loaded now."""

    name: str
    size_bytes: int | None = None
    gpu_bytes: int | None = None
    """The part of `size_bytes` that a GPU can reach; all of it on a Mac."""
    context_length: int | None = None
    """Tokens that it is loaded with."""
    expires_at: float | None = None
    """Seconds since 1970 at which it is unloaded without further use; `None`: never."""


class Embeddings(Struct, frozen=True):
    vectors: tuple[tuple[float, ...], ...]
    """One vector for each input, in order; float32 values."""
    prompt_tokens: int
    """Tokens of all inputs together."""


class TokenCount(Struct, frozen=True):
    tokens: int
    """Tokens of a prompt as the model reads it, template included."""
    exact: bool
    """False for an estimate."""


class Progress(Struct, frozen=True, kw_only=True):
    """Progress of a download or a load."""

    status: str
    completed: int | None = None
    """Bytes."""
    total: int | None = None
    """Bytes; `None` while not known."""
    digest: str | UnsetType = UNSET
    """Digest of the file that is being downloaded, where the source names it."""


BreakerState = Literal["closed", "open", "half-open"]
"""`open`: it keeps failing, so requests go elsewhere. `half-open`: one answer will decide."""


class Health(Struct, frozen=True, kw_only=True):
    ok: bool
    detail: str | None = None
    """The reason if it is not `ok`, as text for a user; no secrets, no prompts."""
    version: str | None = None
    breaker: BreakerState = "closed"
    counters: dict[str, int] = {}
    """Counters since the engine started, by name: `active`, `finished`, `cancelled`, …"""


class Backend(Protocol):
    """An engine that generates. Safe to use from many tasks of one event loop."""

    kind: str
    """`mlx`, `ollama`, `echo`: the kind of engine. Its configured name is the registry's."""
    naming: Naming
    """The names that its models have."""
    honours: frozenset[Feature]
    """The features that it honours for at least one model."""

    @property
    def version(self) -> str | None:
        """The engine's version; `None` where it is not known. No I/O."""
        ...

    @property
    def memory_user(self) -> MemoryUser | None:
        """Its memory accounting on this machine; `None` where it takes no memory."""
        ...

    def check(self, request: GenerationRequest) -> None:
        """Refuse combinations of features that it honours one by one. No I/O, for any model.

        `generate` refuses them too, and may refuse more that depends on the model.

        Raises:
            UnsupportedParameterError: `param` is the feature.
        """
        ...

    def generate(self, request: GenerationRequest, sink: Sink) -> Coroutine[Any, Any, None]:
        """Write the events of the answers to `sink`, and return after the last one.

        - `Started` is written once, before anything else, when the request is accepted and the
          model is loaded. Before it, nothing of the answer exists: any error may still be answered
          by another backend.
        - Then come the deltas of `request.n` choices. Choices may mix; each keeps its own order.
        - Each choice ends with one `Finished`, and nothing of that choice follows. The call returns
          normally only after all choices have finished.
        - Otherwise it raises, and writes no more.
        - Cancelling the task stops the work: the engine computes no further step for it, and
          nothing is written after the cancellation has been raised.
        - An error that `sink.write` raises stops the work and is raised here.

        Where `sink.write` returns true the backend awaits `sink.drain()`, unless the answer is
        bounded and its engine cannot wait.

        Raises:
            BackendError: any of the tree in `adapters/errors.py`, before `Started` or after.
        """
        ...

    async def embed(self, request: EmbeddingRequest) -> Embeddings:
        """Return a vector for each input. Cancelling the call stops the work.

        Raises:
            InvalidRequestError: it is no embedding model, an input is empty, or `dimensions` is
                more than its vectors have.
            ContextLengthError: an input is longer than the model's context; nothing is cut.
        """
        ...

    def pull(self, model: str) -> AsyncGenerator[Progress]:
        """Download `model` from the registry of this backend; ends once it can be listed.

        Closing the generator stops the download; a later call resumes it.

        Raises:
            ModelNotFoundError: the registry has no such model.
            BackendUnavailableError: the network, or the backend, cannot be reached.
        """
        ...

    async def list_models(self) -> list[Model]:
        """List the models that it can use now.

        Raises:
            BackendUnavailableError: it cannot be reached; that is a state, not a fault.
        """
        ...

    async def describe(self, model: str, *, verbose: bool = False) -> Description:
        """Describe `model` in more detail than `list_models`; `verbose`: all of its vocabulary and
        tensors, where the backend reads them.

        Raises:
            ModelNotFoundError: it has no such model.
            BackendUnavailableError: it cannot be reached.
        """
        ...

    async def list_running(self) -> list[RunningModel]:
        """List the models that are loaded now, by any client.

        Raises:
            BackendUnavailableError: it cannot be reached.
        """
        ...

    async def delete(self, model: str) -> None:
        """Remove the files of `model` from this backend's store, unloaded first.

        Raises:
            ModelNotFoundError: it has no such model.
            InvalidRequestError: its files are not the backend's to delete; says why.
            BackendBusyError: it is answering a request.
        """
        ...

    async def load(self, model: str, keep_alive: float | None = None) -> None:
        """Load `model`; returns at once if it is loaded. Concurrent calls share one load.

        `keep_alive`: seconds without use after which it is unloaded; negative: never.

        Raises:
            ModelNotFoundError: it has no such model.
            GenerationError: the model exists and cannot be loaded; a later call tries again.
            BackendUnavailableError: an `unload` has ended the load.
        """
        ...

    def loading(self) -> dict[str, Progress]:
        """Return the progress of running loads by model name, while `load` is awaited. A load
        without callers is cancelled."""
        ...

    def is_well(self, model: str) -> bool:
        """Return false while the circuit breaker of `model` is open: requests may be refused at
        once. No I/O."""
        ...

    async def unload(self, model: str) -> None:
        """Free the memory of `model`; returns at once if it is not loaded. A running load is
        cancelled, with an error for the callers of `load`.

        Raises:
            BackendBusyError: it is answering a request, or one waits for the load.
        """
        ...

    async def health(self) -> Health:
        """Return the state of the engine. Never raises, never waits for an answer in progress."""
        ...

    async def aclose(self) -> None:
        """Stop all work and free everything. The backend cannot be used again."""
        ...


@runtime_checkable
class ModelBuilder(Protocol):
    """A backend that makes models from others, or from uploaded files."""

    async def copy(self, source: str, destination: str) -> None:
        """Give the model `source` a second name.

        Raises:
            ModelNotFoundError: it has no model `source`.
            InvalidRequestError: `destination` is not a valid name.
        """
        ...

    def create(self, recipe: bytes) -> AsyncGenerator[Progress]:
        """Make a model from the JSON object `recipe`, which the backend defines.

        Raises:
            InvalidRequestError: the recipe is not valid.
        """
        ...

    async def has_file(self, digest: str) -> bool:
        """True if a file with `digest`, `sha256:…`, was uploaded."""
        ...

    async def upload(self, digest: str, pieces: AsyncIterable[bytes]) -> bool:
        """Store a file for `create`; false where it is there already, and `pieces` are only read.

        Raises:
            InvalidRequestError: its content does not have `digest`.
        """
        ...


@runtime_checkable
class TokenCounter(Protocol):
    """A backend that can tell the length of a prompt without answering it."""

    async def count_tokens(self, request: GenerationRequest) -> TokenCount:
        """Count the prompt's tokens; a model may be loaded for that.

        Raises:
            BackendError: as `Backend.generate` before its first event, but for the context's limit.
        """
        ...


@runtime_checkable
class KeepsPinned(Protocol):
    """A backend that keeps chosen models loaded while they are unused."""

    async def set_pinned(self, model: str, pinned: bool) -> None:
        """Keep `model`, loaded now or later, or let it go again: after the time of its latest
        `keep_alive`, else of the configuration. A `keep_alive` of 0 unloads a pinned model, too.

        Raises:
            BackendUnavailableError: it cannot be reached.
        """
        ...


@runtime_checkable
class Chained(Protocol):
    """A backend that may have servers of Tandem behind it."""

    def behind(self) -> set[str]:
        """Return their ids, as of the last `list_models`. No I/O."""
        ...


@runtime_checkable
class ListsAtOnce(Protocol):
    """A backend that takes time to describe its models in full."""

    async def list_known(self) -> tuple[list[Model], bool]:
        """List as `list_models`, without waiting for descriptions; false where `list_models` will
        say more, or leave a model out. Until then `Model.lacks` has what is certain."""
        ...


@runtime_checkable
class ExplainsUnusable(Protocol):
    """A backend that tells which models it has and cannot use."""

    def unusable(self) -> dict[str, str]:
        """Return the reasons by model name, as of the last `list_models`. No I/O.

        A reason is a clause without a full stop, for any client: it has no path of the machine.
        """
        ...


@runtime_checkable
class WithholdsModels(Protocol):
    """A backend that would offer further models by other settings."""

    def withheld(self) -> dict[str, str]:
        """Return the reasons by model name, each as of `ExplainsUnusable`, with the setting."""
        ...


def refuse_unsupported(
    request: GenerationRequest | EmbeddingRequest, honours: frozenset[Feature], backend: str
) -> None:
    """Refuse a request that needs a feature outside `honours`.

    Raises:
        UnsupportedParameterError: `param` is the feature.
    """
    feature = first_needed(_all_but(honours), request)
    if feature is not None:
        raise UnsupportedParameterError(
            f"'{feature}' is not supported by the {backend} backend.", param=feature
        )


@lru_cache(16)
def _all_but(honours: frozenset[Feature]) -> tuple[Feature, ...]:
    """Sorted, so that of several features that a request needs always the same is named."""
    return tuple(sorted(frozenset[Feature](get_args(Feature)) - honours))

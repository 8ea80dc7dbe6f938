"""The contract every backend keeps, and what it tells of itself."""

from collections.abc import AsyncGenerator
from functools import lru_cache
from typing import Literal, Protocol, get_args

from msgspec import Struct

from adapters.errors import UnsupportedParameterError
from adapters.events import Event
from adapters.memory import MemoryUser
from adapters.naming import Naming
from adapters.request import EmbeddingRequest, Feature, GenerationRequest, first_needed

Capability = Literal["chat", "tools", "vision", "embedding", "fim", "reasoning"]


class Model(Struct, frozen=True, kw_only=True):
    """One model as its backend knows it. `None` is "not known", never a guess."""

    name: str
    context_length: int | None = None
    capabilities: frozenset[Capability] = frozenset()
    lacks: frozenset[Feature] = frozenset()
    """What this model cannot honour although its backend can on others."""
    size_bytes: int | None = None
    quantization: str | None = None
    digest: str | None = None
    origin: str | None = None
    """`sha256:…` of the GGUF file whose weights these are: the same on both engines, where one has
    them from the other."""
    exact: bool | None = None
    """Whether they are what that file has, to the last bit, however they are packed."""
    primed: bool = False
    """It is told more than its template says before each chat: a system prompt, or messages."""
    created: int = 0
    """Seconds since 1970."""
    loaded: bool | None = None
    loaded_context: int | None = None
    """Tokens that it is loaded for, where the backend gives it a context of a size."""


class Embeddings(Struct, frozen=True):
    vectors: tuple[tuple[float, ...], ...]
    """One for each input, in order; float32 values."""
    prompt_tokens: int
    """Tokens of all inputs together."""


class Progress(Struct, frozen=True, kw_only=True):
    """How far a download, or a load, is."""

    status: str
    completed: int | None = None
    """Bytes."""
    total: int | None = None
    """Bytes; `None` while nobody knows."""


BreakerState = Literal["closed", "open", "half-open"]
"""`open`: it keeps failing, so others are asked instead. `half-open`: one answer will decide."""


class Health(Struct, frozen=True, kw_only=True):
    ok: bool
    detail: str | None = None
    """Why not, in words for a person; no secrets, no prompts."""
    version: str | None = None
    breaker: BreakerState = "closed"
    counters: dict[str, int] = {}
    """What the engine did since it started, by name: `active`, `finished`, `cancelled`, …"""


class Backend(Protocol):
    """An engine that answers. Safe to use from many tasks of one event loop."""

    kind: str
    """`mlx`, `ollama`, `echo`: the kind of engine. Its configured name is the registry's."""
    naming: Naming
    """The names that its models have."""
    honours: frozenset[Feature]
    """The features it can honour on some model at least."""

    @property
    def memory_user(self) -> MemoryUser | None:
        """Its share of this machine's memory; `None` where it takes none."""
        ...

    def check(self, request: GenerationRequest) -> None:
        """Without asking anybody, and whatever the model: what of `request`, of which it `honours`
        every feature, is not honoured beside the rest. `generate` refuses both, and may refuse
        more by what it learns of the model.

        Raises:
            UnsupportedParameterError: there is one; `param` is the feature.
        """
        ...

    def generate(self, request: GenerationRequest) -> AsyncGenerator[Event]:
        """Yield `Started`, then deltas, then `Finished`, once for each of `request.n` choices.

        Closing it cancels the work.

        Raises:
            BackendError: any of the tree in `adapters/errors.py`, before `Started` or after.
        """
        ...

    async def embed(self, request: EmbeddingRequest) -> Embeddings:
        """A vector for each input. Cancelling the call cancels the work.

        Raises:
            InvalidRequestError: the model does not embed, an input is empty, or `dimensions` is
                more than its vectors have.
            ContextLengthError: an input is longer than the model reads; nothing is cut.
        """
        ...

    def pull(self, model: str) -> AsyncGenerator[Progress]:
        """Fetch `model` from where this backend's models come from; ends once it can be listed.

        Closing it stops the download; a later call goes on from there.

        Raises:
            ModelNotFoundError: there is no such model to be had.
            BackendUnavailableError: the network, or the backend, is not there.
        """
        ...

    async def list_models(self) -> list[Model]:
        """The models it can answer with now.

        Raises:
            BackendUnavailableError: it is not there; that is a state, not a fault.
        """
        ...

    async def load(self, model: str, keep_alive: float | None = None) -> None:
        """Make `model` ready; at once if it is. Calls that meet share one load.

        `keep_alive` is how many seconds it stays unused before it is unloaded; negative: for ever.

        Raises:
            ModelNotFoundError: it has no such model.
            GenerationError: the model is there and cannot be loaded; a later call tries again.
            BackendUnavailableError: an `unload` has ended the load.
        """
        ...

    def loading(self) -> dict[str, Progress]:
        """The loads on their way, by the model's name. To be asked while a `load` is awaited;
        the one whose last caller leaves is given up."""
        ...

    def is_well(self, model: str) -> bool:
        """Whether it is worth to ask for `model` now, by what became of earlier requests: nobody is
        asked. Where it is not, a request all the same may be refused at once."""
        ...

    async def unload(self, model: str) -> None:
        """Free what `model` holds; at once if it is not loaded. A load on its way ends, with an
        error for those who wait for it.

        Raises:
            BackendBusyError: it is answering somebody.
        """
        ...

    async def health(self) -> Health:
        """Never raises and never waits for an answer in progress."""
        ...

    async def aclose(self) -> None:
        """Stop all work and free everything. The backend cannot be used again."""
        ...


def refuse_unsupported(
    request: GenerationRequest | EmbeddingRequest, honours: frozenset[Feature], backend: str
) -> None:
    """The first thing a backend does with a request.

    Raises:
        UnsupportedParameterError: the request needs what `honours` lacks; `param` is the feature.
    """
    feature = first_needed(_all_but(honours), request)
    if feature is not None:
        raise UnsupportedParameterError(
            f"'{feature}' is not supported by the {backend} backend.", param=feature
        )


@lru_cache(16)
def _all_but(honours: frozenset[Feature]) -> tuple[Feature, ...]:
    """In order: of several that a request needs, always the same one is named."""
    return tuple(sorted(frozenset[Feature](get_args(Feature)) - honours))

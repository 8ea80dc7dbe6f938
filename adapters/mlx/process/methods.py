"""The methods that one end calls on the other, with the types of what they take and give.

A further method of `MLXBackend` is a line here and a method of `MLXProcessBackend`.
"""

from typing import Any, NamedTuple, get_args

from msgspec import Struct

from adapters.audio import (
    SpeechEvent,
    SpeechRequest,
    TranscriptEvent,
    TranscriptionRequest,
    Voice,
)
from adapters.backend import (
    Description,
    Embeddings,
    Health,
    Model,
    Progress,
    RunningModel,
    TokenCount,
)
from adapters.config import MLXConfig
from adapters.events import Event
from adapters.memory import Footprint, Resident
from adapters.request import EmbeddingRequest, GenerationRequest


class Method(NamedTuple):
    arguments: Any
    """Type of the tuple of arguments."""
    result: Any = None
    items: tuple[type, ...] = ()
    """Types of the items that it gives before its end."""


class Opening(Struct, frozen=True):
    """Settings that the engine's process begins with."""

    config: MLXConfig
    log_level: int
    budget: int | None
    """See `MemoryBudget.budget`."""
    limit: int | None
    """Bytes that `MemoryUser.confine` has set; `None`: not yet."""
    pinned: frozenset[str] = frozenset()
    """See `KeepsPinned.set_pinned`."""


class Held(Struct, frozen=True):
    """The item of `hold`: memory is reserved until the call is cancelled."""


OF_BACKEND: dict[str, Method] = {
    "generate": Method(tuple[GenerationRequest], None, get_args(Event)),
    "pull": Method(tuple[str], None, (Progress,)),
    "count_tokens": Method(tuple[GenerationRequest], TokenCount),
    "embed": Method(tuple[EmbeddingRequest], Embeddings),
    "speak": Method(tuple[SpeechRequest], None, get_args(SpeechEvent)),
    "transcribe": Method(tuple[TranscriptionRequest], None, get_args(TranscriptEvent)),
    "list_voices": Method(tuple[str], list[Voice]),
    "list_models": Method(tuple[()], list[Model]),
    "list_known": Method(tuple[()], tuple[list[Model], bool]),
    "describe": Method(tuple[str, bool], Description),
    "list_running": Method(tuple[()], list[RunningModel]),
    "delete": Method(tuple[str]),
    "load": Method(tuple[str, float | None]),
    "unload": Method(tuple[str]),
    "set_pinned": Method(tuple[str, bool]),
    "health": Method(tuple[()], Health),
}
OF_MEMORY: dict[str, Method] = {
    "recommended": Method(tuple[()], int | None),
    "footprint": Method(tuple[str], Footprint | None),
    "resident": Method(tuple[()], list[Resident]),
    "unload_for_memory": Method(tuple[str]),
    "confine": Method(tuple[int], int),
}
METHODS: dict[str, Method] = {
    **OF_BACKEND,
    **OF_MEMORY,
    "open": Method(tuple[Opening]),
    "hold": Method(tuple[str, Footprint], None, (Held,)),
}


class State(Struct, frozen=True):
    """Notice of the engine's process: what the server knows without asking."""

    well: bool = True
    unwell: frozenset[str] = frozenset()
    """Models with an open breaker."""
    stalled: bool = False
    """A step takes longer than `stall_seconds`."""
    loading: dict[str, Progress] = {}
    unusable: dict[str, str] = {}


class LogLine(Struct, frozen=True):
    """Notice of the engine's process: a line for the server's log."""

    logger: str
    level: int
    text: str


class Budget(Struct, frozen=True):
    """Notice to the engine's process: the budget of all models has changed."""

    nbytes: int | None


NOTICES: dict[str, Any] = {kind.__name__: kind for kind in (State, LogLine, Budget)}

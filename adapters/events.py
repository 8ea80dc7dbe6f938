"""What a backend says while it generates: one flat stream that serves every dialect."""

from typing import Literal

from msgspec import Struct

FinishReason = Literal["stop", "length", "tool_calls"]


class Usage(Struct, frozen=True, kw_only=True):
    """Token counts. The token that ended the answer is counted, as Ollama and mlx-lm do."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int | None = None
    """How many prompt tokens came from a cache; `None` where the backend cannot tell."""
    reasoning_tokens: int | None = None


class TokenLogprob(Struct, frozen=True, kw_only=True):
    token: str
    logprob: float
    """Natural logarithm."""
    bytes: tuple[int, ...] | None = None
    """UTF-8; may be part of a character."""
    top: tuple["TokenLogprob", ...] = ()
    """The likeliest tokens at this place, likeliest first."""


class Started(Struct, frozen=True):
    """First, exactly once: the request is valid and the model is loaded."""


class TextDelta(Struct, frozen=True):
    text: str
    logprobs: tuple[TokenLogprob, ...] | None = None


class ReasoningDelta(Struct, frozen=True):
    text: str


class ToolCallStarted(Struct, frozen=True):
    index: int
    """0 for the first call of the answer, then 1, 2, …"""
    id: str
    name: str


class ToolCallDelta(Struct, frozen=True):
    index: int
    arguments: str
    """The next piece of the call's JSON text."""


class Finished(Struct, frozen=True):
    """Last, exactly once."""

    reason: FinishReason
    usage: Usage
    stop_sequence: str | None = None
    """The stop string that ended the answer, where one did and the backend knows which."""


Event = Started | TextDelta | ReasoningDelta | ToolCallStarted | ToolCallDelta | Finished

"""What a backend says while it generates: one flat stream that serves every dialect.

`choice` tells the answers of one request with `n` > 1 apart, from 0. Their events may mix; each
choice keeps the order of its own.
"""

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
    """UTF-8; may be part of a character, and is empty where the token is not in the text."""
    top: tuple["TokenLogprob", ...] = ()
    """The likeliest tokens at this place, likeliest first."""
    is_first: bool = False
    """Of a prompt that is echoed: nothing came before it, and `logprob` means nothing."""


class Started(Struct, frozen=True):
    """First, exactly once: the request is valid and the model is loaded."""

    context: int | None = None
    """Tokens that prompt and answer may have together, as this request is run."""
    cold: bool = False
    """The model was not loaded when the request came: it waited for that as well."""


class Restarted(Struct, frozen=True):
    """What the choice has said so far is void, whichever way it came: it is answered anew, from its
    beginning, by another of the backend's servers. Only in an answer that is asked for `whole`."""

    context: int | None = None
    """As that of `Started`."""
    choice: int = 0


class TextDelta(Struct, frozen=True, gc=False):
    text: str
    logprobs: tuple[TokenLogprob, ...] | None = None
    choice: int = 0


class ReasoningDelta(Struct, frozen=True, gc=False):
    text: str
    choice: int = 0


class ToolCallStarted(Struct, frozen=True):
    index: int
    """0 for the first call of the answer, then 1, 2, …"""
    id: str
    name: str
    choice: int = 0


class ToolCallDelta(Struct, frozen=True):
    index: int
    arguments: str
    """The next piece of the call's JSON text."""
    choice: int = 0


class Timings(Struct, frozen=True, kw_only=True):
    """How long the parts of an answer took, as its engine says; in nanoseconds."""

    load: int
    prompt: int
    answer: int


class Finished(Struct, frozen=True):
    """The end of a choice, exactly once for each; the last event of all is one of them."""

    reason: FinishReason
    usage: Usage
    """Of this choice: the prompt, which all choices share, and its own answer."""
    stop_sequence: str | None = None
    """The stop string that ended the answer, where one did and the backend knows which."""
    choice: int = 0
    timings: Timings | None = None
    """`None` where the engine tells nothing: then events come when what they tell of happens."""


Event = (
    Started | Restarted | TextDelta | ReasoningDelta | ToolCallStarted | ToolCallDelta | Finished
)

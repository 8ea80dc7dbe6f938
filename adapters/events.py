"""Events of a generation: one flat stream for every dialect.

`choice` numbers the answers of a request with `n` > 1 from 0. Events of different choices may be
interleaved; those of one choice are in order.
"""

from typing import Literal

from msgspec import Struct

FinishReason = Literal["stop", "length", "tool_calls"]


class Usage(Struct, frozen=True, kw_only=True):
    """Token counts, including the token that ended the answer, as in Ollama and mlx-lm."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int | None = None
    """Prompt tokens taken from a cache; `None` if unknown."""
    reasoning_tokens: int | None = None


class TokenLogprob(Struct, frozen=True, kw_only=True):
    token: str
    logprob: float
    """Natural logarithm."""
    bytes: tuple[int, ...] | None = None
    """UTF-8, possibly a part of a character; empty if the token is not in the text."""
    top: tuple["TokenLogprob", ...] = ()
    """Most likely tokens at this position, in descending order."""
    is_first: bool = False
    """True for the first token of an echoed prompt; its `logprob` has no meaning."""


class Started(Struct, frozen=True):
    """First event, exactly once: the request is valid and the model is loaded."""

    context: int | None = None
    """Context length of this request in tokens, for prompt and answer together."""
    cold: bool = False
    """True if the model was not loaded before, so that the request waited for the load."""
    ignored: tuple[str, ...] = ()
    """Paths of the parts of the request that this answer does without, such as
    `tools[0].function.parameters.properties.a.not`."""
    template: tuple[str, ...] = ()
    """Names of what was done with the messages so that the chat template takes them; see
    `adapters.chat_template.rewriting`."""
    prompt_tokens: int | None = None
    """Tokens of the prompt, an estimate from engines that tell them at their end only; `None` if
    unknown."""
    cached_tokens: int | None = None
    """Prompt tokens taken from a cache; `None` if unknown."""


class Restarted(Struct, frozen=True):
    """All earlier events of the choice are void: another server of the backend restarts it.

    Occurs only in answers to requests with `whole`.
    """

    context: int | None = None
    """Same meaning as `Started.context`."""
    choice: int = 0


class PromptProgress(Struct, frozen=True):
    """A part of the prompt was read: between `Started` and the first piece, from engines that
    report it."""

    read: int
    """Tokens that were read, those from a cache included."""
    total: int
    """Tokens of the prompt."""
    cached: int
    """Tokens that were taken from a cache."""
    choice: int = 0
    """The first choice of the request; all choices share the prompt."""


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
    """Durations of the phases of an answer as reported by the engine, in nanoseconds."""

    load: int | None
    """`None` if the engine does not know it: it lasted until `Started`."""
    prompt: int
    answer: int
    """From the first token to the last, also where their text is held back to be checked."""


class Finished(Struct, frozen=True):
    """Last event of a choice, exactly once for each choice."""

    reason: FinishReason
    usage: Usage
    """Tokens of the prompt, which all choices share, and of the answer of this choice."""
    stop_sequence: str | None = None
    """Stop string that ended the answer; from some engines only for requests with `names_stop`."""
    choice: int = 0
    timings: Timings | None = None
    """`None` if the engine reports none; then the times of the events are those of the phases."""


Event = (
    Started
    | Restarted
    | PromptProgress
    | TextDelta
    | ReasoningDelta
    | ToolCallStarted
    | ToolCallDelta
    | Finished
)

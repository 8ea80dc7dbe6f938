"""Errors, logprobs, counts and durations in the answers of Ollama's API.

Source: https://github.com/ollama/ollama/blob/main/api/types.go
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal

from msgspec import UNSET, Struct, UnsetType

from adapters.events import Finished, TokenLogprob
from proxy.errors import Failure
from proxy.http.json_response import ErrorDialect
from proxy.record import Record

DoneReason = Literal["stop", "length", "load", "unload"]


class CalledFunction(Struct):
    index: int
    name: str
    arguments: dict[str, Any]


class Call(Struct):
    id: str
    function: CalledFunction


class ChatMessage(Struct, kw_only=True):
    role: str = "assistant"
    content: str = ""
    thinking: str | UnsetType = UNSET
    tool_calls: list[Call] | UnsetType = UNSET


class TopLogprob(Struct):
    token: str
    logprob: float
    bytes: tuple[int, ...] | UnsetType


class Logprob(TopLogprob):
    top_logprobs: list[TopLogprob] | UnsetType


class OllamaAnswer(Struct, kw_only=True):
    """A line, or the whole answer; counts and durations are in the last line only."""

    model: str
    created_at: datetime
    message: ChatMessage | UnsetType = UNSET
    """A chat's."""
    response: str | UnsetType = UNSET
    """A prompt's; so is `thinking`."""
    thinking: str | UnsetType = UNSET
    done: bool = False
    done_reason: DoneReason | UnsetType = UNSET
    logprobs: list[Logprob] | UnsetType = UNSET
    context: list[int] | UnsetType = UNSET
    """The conversation so far, to be sent with the next prompt."""
    total_duration: int | UnsetType = UNSET
    """Nanoseconds by the server's clock; so are the others if the engine reports none."""
    load_duration: int | UnsetType = UNSET
    prompt_eval_count: int | UnsetType = UNSET
    prompt_eval_duration: int | UnsetType = UNSET
    eval_count: int | UnsetType = UNSET
    eval_duration: int | UnsetType = UNSET


class OllamaError(Struct):
    """The body of an error, and the last line of an answer that failed after it had begun."""

    error: str


def to_error(failure: Failure) -> OllamaError:
    """Render an error; its body has no `param`, so the message names the field."""
    param, message = failure.param, failure.message
    is_clear = param in (None, "model") or failure.code == "context_length_exceeded"
    return OllamaError(message if is_clear or f"'{param}'" in message else f"'{param}': {message}")


OLLAMA_ERRORS = ErrorDialect(to_error)


def to_end(finished: Finished, record: Record) -> dict[str, Any]:
    """The fields of the last line."""
    timings = record.timings(finished)
    return {
        "done": True,
        "done_reason": "length" if finished.reason == "length" else "stop",
        "total_duration": round(record.total_s * 1e9),
        "load_duration": timings.load,
        "prompt_eval_count": finished.usage.prompt_tokens,
        "prompt_eval_duration": timings.prompt,
        "eval_count": finished.usage.completion_tokens,
        "eval_duration": timings.answer,
    }


def to_logprobs(tokens: Sequence[TokenLogprob] | None) -> list[Logprob] | UnsetType:
    return UNSET if tokens is None else [_to_logprob(token) for token in tokens]


def _to_logprob(token: TokenLogprob) -> Logprob:
    tops = [TopLogprob(top.token, top.logprob, _bytes(top)) for top in token.top]
    return Logprob(token.token, token.logprob, _bytes(token), tops or UNSET)


def _bytes(token: TokenLogprob) -> tuple[int, ...] | UnsetType:
    return UNSET if token.bytes is None else token.bytes

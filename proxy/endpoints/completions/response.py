"""Events -> `text_completion`, whole or in chunks of the same shape."""

import secrets
import time
from collections.abc import Iterable, Sequence
from typing import Literal

from msgspec import UNSET, Struct, UnsetType

from adapters.events import (
    Event,
    Finished,
    ReasoningDelta,
    Started,
    TextDelta,
    TokenLogprob,
    ToolCallDelta,
    ToolCallStarted,
)
from proxy.answers import Answer
from proxy.endpoints.completions.request import CompletionRequest
from proxy.endpoints.wire import Usage, to_usage, total
from proxy.errors import to_failure
from proxy.streaming import Frame

FinishReason = Literal["stop", "length"]


class Logprobs(Struct, kw_only=True):
    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]
    """Where each token begins in the choice's text, in characters."""


class Choice(Struct, kw_only=True):
    text: str
    index: int
    logprobs: Logprobs | None = None
    finish_reason: FinishReason | None = None


class Completion(Struct, kw_only=True):
    id: str
    object: str = "text_completion"
    created: int
    model: str
    choices: list[Choice]
    usage: Usage | UnsetType | None = UNSET


def to_completion(body: CompletionRequest, answers: Sequence[Answer]) -> Completion:
    usages = [answer.finished.usage for answer in answers]
    return Completion(
        id=_new_id(),
        created=int(time.time()),
        model=body.model,
        choices=[_to_choice(answer) for answer in answers],
        usage=to_usage(total(usages, body.n or 1)),
    )


def _to_choice(answer: Answer) -> Choice:
    return Choice(
        text=answer.text,
        index=answer.finished.choice,
        logprobs=to_logprobs(answer.logprobs, 0),
        finish_reason=_to_reason(answer.finished),
    )


def _to_reason(finished: Finished) -> FinishReason:
    return "length" if finished.reason == "length" else "stop"


def to_logprobs(tokens: Sequence[TokenLogprob] | None, offset: int) -> Logprobs | None:
    """The first of `tokens` begins at `offset`."""
    if tokens is None:
        return None
    offsets: list[int] = []
    for token in tokens:
        offsets.append(offset)
        offset += len(token.token)
    return Logprobs(
        tokens=[token.token for token in tokens],
        token_logprobs=[token.logprob for token in tokens],
        top_logprobs=[{top.token: top.logprob for top in token.top} for token in tokens],
        text_offset=offsets,
    )


def _new_id() -> str:
    return f"cmpl-{secrets.token_hex(12)}"


class CompletionRenderer:
    """Chunks as OpenAI's: texts, the finish reasons, perhaps usage, `[DONE]`."""

    def __init__(self, body: CompletionRequest, prompts: int) -> None:
        self._id = _new_id()
        self._created = int(time.time())
        self._model = body.model
        self._per_prompt = body.n or 1
        self._choices = prompts * self._per_prompt
        self._wants_usage = bool(body.stream_options and body.stream_options.include_usage)
        self._finished: dict[int, Finished] = {}
        self._offsets: dict[int, int] = {}

    def render(self, event: Event) -> Iterable[Frame]:
        match event:
            case TextDelta():
                return (self._text(event),)
            case Finished():
                return self._end(event)
            case Started() | ReasoningDelta() | ToolCallStarted() | ToolCallDelta():
                return ()  # a text has no roles, thoughts or calls

    def error(self, exc: Exception) -> Iterable[Frame]:
        return (Frame(to_failure(exc).body),)

    def _text(self, event: TextDelta) -> Frame:
        offset = self._offsets.get(event.choice, 0)
        said = sum(len(token.token) for token in event.logprobs or ())
        self._offsets[event.choice] = offset + said
        logprobs = to_logprobs(event.logprobs, offset)
        return self._chunk([Choice(text=event.text, index=event.choice, logprobs=logprobs)])

    def _end(self, event: Finished) -> Iterable[Frame]:
        self._finished[event.choice] = event
        reason = _to_reason(event)
        yield self._chunk([Choice(text="", index=event.choice, finish_reason=reason)])
        if len(self._finished) == self._choices:
            yield from self._last_words()

    def _last_words(self) -> Iterable[Frame]:
        if self._wants_usage:
            usages = [self._finished[choice].usage for choice in sorted(self._finished)]
            yield self._chunk([], to_usage(total(usages, self._per_prompt)))
        yield Frame(b"[DONE]")

    def _chunk(self, choices: list[Choice], usage: Usage | None = None) -> Frame:
        return Frame(
            Completion(
                id=self._id,
                created=self._created,
                model=self._model,
                choices=choices,
                usage=usage if self._wants_usage else UNSET,
            )
        )

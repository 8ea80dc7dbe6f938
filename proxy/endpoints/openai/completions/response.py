"""Events -> `text_completion`, whole or in chunks of the same shape."""

import codecs
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Literal

import msgspec
from msgspec import UNSET, Struct, UnsetType

from adapters.events import (
    Event,
    Finished,
    ReasoningDelta,
    Restarted,
    Started,
    TextDelta,
    TokenLogprob,
    ToolCallDelta,
    ToolCallStarted,
)
from proxy.endpoints.openai.completions.request import CompletionRequest
from proxy.endpoints.wire_types import Usage, to_usage, total
from proxy.errors import Failure
from proxy.http.event_stream import AroundText, Put, sse
from proxy.record import Record, new_id
from proxy.sinks import Answer

_encode = msgspec.json.Encoder().encode

FinishReason = Literal["stop", "length"]


class Logprobs(Struct, kw_only=True):
    tokens: list[str]
    token_logprobs: list[float | None]
    """`None` for the first token of a prompt."""
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]
    """The start of each token in the choice's text, in characters."""


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
    system_fingerprint: str | UnsetType = UNSET
    usage: Usage | UnsetType = UNSET


def to_completion(body: CompletionRequest, answers: Sequence[Answer], record: Record) -> Completion:
    usages = [answer.finished.usage for answer in answers]
    return Completion(
        id=new_id("cmpl-"),
        created=int(time.time()),
        model=body.model,
        choices=[_to_choice(answer) for answer in answers],
        system_fingerprint=record.fingerprint or UNSET,
        usage=to_usage(total(usages, body.n or 1)),
    )


def _to_choice(answer: Answer) -> Choice:
    return Choice(
        text=answer.text,
        index=answer.finished.choice,
        logprobs=to_logprobs(answer.logprobs, Offsets()),
        finish_reason=_to_reason(answer.finished),
    )


def _to_reason(finished: Finished) -> FinishReason:
    return "length" if finished.reason == "length" else "stop"


class Offsets:
    """The start of each token in its choice's text, in complete characters."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._characters = 0

    def add(self, token: TokenLogprob) -> int:
        begin = self._characters
        written = token.token if token.bytes is None else self._decoder.decode(bytes(token.bytes))
        self._characters += len(written)
        return begin


def to_logprobs(tokens: Sequence[TokenLogprob] | None, offsets: Offsets) -> Logprobs | None:
    """Translate tokens; `offsets` has counted the choice's earlier tokens."""
    if tokens is None:
        return None
    return Logprobs(
        tokens=[token.token for token in tokens],
        token_logprobs=[None if token.is_first else token.logprob for token in tokens],
        top_logprobs=[None if token.is_first else _to_top(token) for token in tokens],
        text_offset=[offsets.add(token) for token in tokens],
    )


def _to_top(token: TokenLogprob) -> dict[str, float]:
    """Map tokens to log probabilities; of tokens with equal text (partial characters) the first."""
    top: dict[str, float] = {}
    for alternative in token.top:
        top.setdefault(alternative.token, alternative.logprob)
    return top


class CompletionRenderer:
    """Encodes OpenAI's chunks: texts, finish reasons, usage on request, `[DONE]`."""

    def __init__(self, body: CompletionRequest, prompts: int, record: Record, put: Put) -> None:
        self._put = put
        self._record = record
        self._id = new_id("cmpl-")
        self._created = int(time.time())
        self._model = body.model
        self._per_prompt = body.n or 1
        self._choices = prompts * self._per_prompt
        self._wants_usage = bool(body.stream_options and body.stream_options.include_usage)
        self._finished: dict[int, Finished] = {}
        self._offsets: defaultdict[int, Offsets] = defaultdict(Offsets)
        self._around = AroundText(
            lambda text, choice: self._chunk([Choice(text=text, index=choice)]),
        )

    def write(self, event: Event, /) -> bool:
        if type(event) is TextDelta and event.logprobs is None:  # nearly all events
            before, after = self._around[event.choice]
            return self._put(before + _encode(event.text) + after)
        return self._put(self._render(event))

    def _render(self, event: Event) -> bytes:
        match event:
            case TextDelta(text=text, choice=choice):
                logprobs = to_logprobs(event.logprobs, self._offsets[choice])
                return self._chunk([Choice(text=text, index=choice, logprobs=logprobs)])
            case Finished():
                return self._end(event)
            case Started() | ReasoningDelta() | ToolCallStarted() | ToolCallDelta():
                return b""  # a text has no roles, reasoning or calls
            case Restarted():
                return b""  # only in answers that are not streamed

    def error(self, failure: Failure, /) -> bytes:
        return sse(_encode(failure.body))

    def _end(self, event: Finished) -> bytes:
        self._finished[event.choice] = event
        reason = _to_reason(event)
        end = self._chunk([Choice(text="", index=event.choice, finish_reason=reason)])
        if len(self._finished) < self._choices:
            return end
        if self._wants_usage:
            usages = [self._finished[choice].usage for choice in sorted(self._finished)]
            end += self._chunk([], to_usage(total(usages, self._per_prompt)))
        return end + sse(b"[DONE]")

    def _chunk(self, choices: list[Choice], usage: Usage | UnsetType = UNSET) -> bytes:
        chunk = Completion(
            id=self._id,
            created=self._created,
            model=self._model,
            choices=choices,
            system_fingerprint=self._record.fingerprint or UNSET,
            usage=usage,
        )
        return sse(_encode(chunk))

"""Events -> `text_completion`, whole or in chunks of the same shape."""

import codecs
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Literal

from msgspec import UNSET, Struct, UnsetType

from adapters.events import (
    Event,
    Finished,
    PromptProgress,
    ReasoningDelta,
    Restarted,
    Started,
    TextDelta,
    TokenLogprob,
    ToolCallDelta,
    ToolCallStarted,
)
from proxy.endpoints.openai.chunks import ChunkRenderer
from proxy.endpoints.openai.completions.request import CompletionRequest
from proxy.endpoints.wire_types import Usage, to_usage
from proxy.http.event_stream import Put
from proxy.record import Record, new_id
from proxy.sinks import Answer

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
    choices: Sequence[Choice]
    system_fingerprint: str | UnsetType = UNSET
    usage: Usage | UnsetType = UNSET


def to_completion(body: CompletionRequest, answers: Sequence[Answer], record: Record) -> Completion:
    return Completion(
        id=new_id("cmpl-"),
        created=int(time.time()),
        model=body.model,
        choices=[_to_choice(answer) for answer in answers],
        system_fingerprint=record.fingerprint or UNSET,
        usage=to_usage(record),
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


class CompletionRenderer(ChunkRenderer):
    """Encodes chunks of texts."""

    def __init__(self, body: CompletionRequest, prompts: int, record: Record, put: Put) -> None:
        super().__init__(body, "cmpl-", prompts * (body.n or 1), record, put)
        self._offsets: defaultdict[int, Offsets] = defaultdict(Offsets)

    def _render(self, event: Event) -> bytes:
        match event:
            case TextDelta(text=text, choice=choice):
                logprobs = to_logprobs(event.logprobs, self._offsets[choice])
                return self._chunk([Choice(text=text, index=choice, logprobs=logprobs)])
            case Finished():
                end = Choice(text="", index=event.choice, finish_reason=_to_reason(event))
                return self._end(self._chunk([end]))
            case Started() | ReasoningDelta() | ToolCallStarted() | ToolCallDelta():
                return b""  # a text has no roles, reasoning or calls
            case Restarted() | PromptProgress():
                return b""  # never in a streamed answer of the router

    def _text(self, text: str, choice: int) -> bytes:
        return self._chunk([Choice(text=text, index=choice)])

    def _chunk(self, choices: Sequence[Choice], usage: Usage | None = None) -> bytes:
        chunk = Completion(
            id=self._id,
            created=self._created,
            model=self._model,
            choices=choices,
            system_fingerprint=self._record.fingerprint or UNSET,
            usage=usage or UNSET,
        )
        return self._sse(chunk)

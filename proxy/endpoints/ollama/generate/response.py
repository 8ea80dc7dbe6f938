"""Answers to prompts as Ollama's lines, or as one object."""

from datetime import UTC, datetime
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from adapters.events import Event, Finished, ReasoningDelta, TextDelta
from adapters.request import GenerationRequest, Message, TextPart
from proxy.endpoints.ollama.answer import OllamaAnswer, to_end, to_error, to_logprobs
from proxy.endpoints.ollama.generate.context import to_context
from proxy.errors import Failure
from proxy.http.event_stream import Put, json_line
from proxy.record import Record
from proxy.sinks import Answer

_encode = msgspec.json.Encoder().encode
_now = datetime.now


class OllamaGenerateRenderer:
    """Encodes Ollama's lines: text and thinking as they come; the last has the context."""

    def __init__(self, request: GenerationRequest, record: Record, put: Put) -> None:
        """`request` has the name of the model, and the conversation so far."""
        self._put = put
        self._request = request
        self._model = request.model
        self._record = record
        self._texts: list[str] = []

    def write(self, event: Event, /) -> bool:
        if type(event) is TextDelta and event.logprobs is None:  # nearly all events
            self._texts.append(event.text)
            line = OllamaAnswer(model=self._model, created_at=_now(UTC), response=event.text)
            return self._put(_encode(line) + b"\n")
        return self._put(self._render(event))

    def _render(self, event: Event) -> bytes:
        match event:
            case TextDelta(text=text, logprobs=logprobs):
                self._texts.append(text)
                return self._line(response=text, logprobs=to_logprobs(logprobs))
            case ReasoningDelta(text=text):
                return self._line(response="", thinking=text)
            case Finished():
                context = _context(self._request, "".join(self._texts))
                return self._line(response="", context=context, **to_end(event, self._record))
            case _:
                return b""  # the request has no tools

    def _line(self, **fields: Any) -> bytes:
        line = OllamaAnswer(model=self._model, created_at=_now(UTC), **fields)
        return json_line(_encode(line))

    def error(self, failure: Failure, /) -> bytes:
        return json_line(_encode(to_error(failure)))


def to_whole(request: GenerationRequest, answer: Answer, record: Record) -> OllamaAnswer:
    """Translate an answer that is sent in one piece."""
    return OllamaAnswer(
        model=request.model,
        created_at=_now(UTC),
        response=answer.text,
        thinking=answer.reasoning or UNSET,
        logprobs=to_logprobs(answer.logprobs),
        context=_context(request, answer.text),
        **to_end(answer.finished, record),
    )


def _context(request: GenerationRequest, text: str) -> list[int] | UnsetType:
    """Pack the conversation with its answer; a text that was continued is none."""
    if not isinstance(request.prompt, tuple):
        return UNSET
    answer = Message(role="assistant", content=(TextPart(text),))
    return to_context((*request.prompt, answer))

"""The prompt dialect, `{"model_id", "prompt"}`, and `POST /api/mlx/generate`."""

from collections.abc import Sequence
from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType
from msgspec.structs import replace

from adapters.errors import (
    BackendUnavailableError,
    InvalidRequestError,
    UnsupportedParameterError,
)
from adapters.events import Event, Finished, FinishReason, ReasoningDelta, TextDelta
from adapters.request import GenerationRequest, Message, ReasoningEffort, TextPart
from proxy.endpoints.generate import Call, generating_route
from proxy.endpoints.generation_fields import (
    GenerationFields,
    only_one,
    sent_as,
    settle,
    to_guided,
    to_limit,
    to_request,
)
from proxy.endpoints.server_request import ServerRequest
from proxy.endpoints.wire_types import Usage, to_usage
from proxy.errors import Failure
from proxy.http.event_stream import NDJSON, Put, around_text, json_line
from proxy.openapi import Operation
from proxy.record import ModelOperation, Record
from proxy.sinks import Answer

_encode = msgspec.json.Encoder().encode


class PromptRequest(GenerationFields, kw_only=True):
    """A prompt to a model, with all fields that completions have."""

    model: str = ""
    model_id: str = ""
    """The same as `model`; one of the two is required."""
    prompt: Annotated[str, Meta(min_length=1)]
    system: str | None = None
    raw: bool | None = None
    """The prompt is continued as raw text, without the model's chat template."""
    reasoning_effort: ReasoningEffort | None = None


class Performance(Struct, kw_only=True):
    ttft_s: float
    """Seconds to the first piece of the answer, including loading and queueing."""
    tokens_per_second: float | None
    """From the first piece to the end; null if the answer came in one piece."""
    total_s: float


class PromptAnswer(Struct, kw_only=True):
    """The answer, or a line of it; only the last line has the fields after `done`."""

    model_id: str
    backend: str
    response: str
    reasoning: str | UnsetType = UNSET
    done: bool
    finish_reason: FinishReason | UnsetType = UNSET
    usage: Usage | UnsetType = UNSET
    performance: Performance | UnsetType = UNSET


def to_generation_request(body: PromptRequest) -> GenerationRequest:
    """Translate the body; the model keeps its public name.

    Raises:
        UnsupportedParameterError: the answer has no place for the result of a field.
        InvalidRequestError: fields conflict, or there is no model.
    """
    refuse_impossible(body)
    sent, body = body, settle(replace(body, model=to_model(body)))
    prompt = body.prompt if body.raw else to_messages(body)
    return replace(
        to_request(body, prompt, to_limit(body.max_tokens, sent)),
        response_format=only_one(to_guided(body)),
        reasoning_effort=body.reasoning_effort,
    )


def refuse_impossible(body: PromptRequest) -> None:
    if body.n not in (None, 1):
        raise UnsupportedParameterError("'n' must be 1: there is one answer.", param="n")
    if body.stream_options is not None:
        raise UnsupportedParameterError(
            "'stream_options' is not supported: the last line always has the usage.",
            param="stream_options",
        )
    if body.raw and body.system is not None:
        raise InvalidRequestError(
            "'system' conflicts with 'raw': a raw prompt has no system message.", param="system"
        )


def to_model(body: PromptRequest) -> str:
    if body.model and body.model_id and body.model != body.model_id:
        raise InvalidRequestError("'model_id' conflicts with 'model'.", param="model_id")
    if not (body.model or body.model_id):
        raise InvalidRequestError("Missing required parameter: 'model_id'.", param="model_id")
    return body.model_id or body.model


def to_messages(body: PromptRequest) -> tuple[Message, ...]:
    user = Message(role="user", content=(TextPart(body.prompt),))
    if body.system is None:
        return (user,)
    return Message(role="system", content=(TextPart(body.system),)), user


class PromptRenderer:
    """Encodes lines of JSON: pieces of the answer, then usage and performance."""

    def __init__(self, model: str, record: Record, put: Put) -> None:
        self._put = put
        self._model = model
        self._record = record
        self._around: tuple[bytes, bytes] | None = None
        """The bytes around a text."""

    def write(self, event: Event, /) -> bool:
        if type(event) is TextDelta:
            if self._around is None:
                self._around = around_text(self._text, event.choice)
            before, after = self._around
            return self._put(before + _encode(event.text) + after)
        return self._put(self._render(event))

    def _render(self, event: Event) -> bytes:
        match event:
            case ReasoningDelta(text=text):
                return json_line(_encode(_to_line(self._model, self._record, "", text)))
            case Finished():
                line = _to_line(self._model, self._record, "")
                return json_line(_encode(_with_end(line, event, self._record)))
            case _:
                return b""  # the request has no tools

    def _text(self, text: str, _choice: int) -> bytes:
        return json_line(_encode(_to_line(self._model, self._record, text)))

    def error(self, failure: Failure, /) -> bytes:
        return json_line(_encode(failure.body))


def _to_line(model: str, record: Record, text: str, reasoning: str = "") -> PromptAnswer:
    return PromptAnswer(
        model_id=model,
        backend=record.backend,
        response=text,
        reasoning=reasoning or UNSET,
        done=False,
    )


def _with_end(line: PromptAnswer, finished: Finished, record: Record) -> PromptAnswer:
    first = record.first_token_s
    return replace(
        line,
        done=True,
        finish_reason=finished.reason,
        usage=to_usage(record),
        performance=Performance(
            ttft_s=record.total_s if first is None else first,
            tokens_per_second=record.tokens_per_second,
            total_s=record.total_s,
        ),
    )


class PromptDialect:
    framing = NDJSON
    operation: ModelOperation = "text_completion"

    def parse(self, request: ServerRequest, raw: bytes) -> Call[PromptRequest]:
        body = request.decode(raw, PromptRequest)
        return Call(
            body=body,
            requests=(to_generation_request(body),),
            stream=bool(body.stream),
            backend=body.backend,
        )

    def renderer(self, call: Call[PromptRequest], record: Record, put: Put) -> PromptRenderer:
        return PromptRenderer(to_model(call.body), record, put)

    def whole(
        self, call: Call[PromptRequest], answers: Sequence[Answer], record: Record
    ) -> PromptAnswer:
        (answer,) = answers
        line = _to_line(to_model(call.body), record, answer.text, answer.reasoning)
        return _with_end(line, answer.finished, record)

    def to_param(self, feature: str | None, body: PromptRequest) -> str | None:
        if feature is None:
            return None
        names = {"messages": "prompt", "model": "model_id" if body.model_id else "model"}
        return names.get(feature) or sent_as(feature, body)

    def failure(self, failure: Failure) -> Struct:
        return failure.body


PROMPT = PromptDialect()


class MLXPromptDialect(PromptDialect):
    """The prompt dialect on MLX alone."""

    def parse(self, request: ServerRequest, raw: bytes) -> Call[PromptRequest]:
        call = super().parse(request, raw)
        return replace(call, backend=require_mlx(request, call.body.backend))


def require_mlx(request: ServerRequest, field: str | None = None) -> str:
    """Return the name of the backend of kind `mlx`. `field` is `backend` of the request's body.

    Raises:
        BackendUnavailableError: there is no such backend.
        InvalidRequestError: the request requires another one.
    """
    name = request.registry.name_of("mlx")
    if name is None:
        raise BackendUnavailableError(
            "The mlx backend is switched off: the config has `mlx: null` or `false`.", lasting=True
        )
    if field not in (None, name):
        raise InvalidRequestError(f"'backend' can only be '{name}' here.", param="backend")
    return name


create_mlx_generation = generating_route(
    "/api/mlx/generate",
    MLXPromptDialect(),
    Operation(
        summary="A prompt to a model on MLX",
        asks=(PromptRequest,),
        answers=(PromptAnswer,),
        events=(PromptAnswer,),
        media_type=NDJSON.media_type,
    ),
    name="create_mlx_generation",
)

"""`{"model_id", "prompt"}`: one question, one answer."""

from collections.abc import Iterable
from typing import Annotated

from litestar.response.base import ASGIResponse
from msgspec import UNSET, Meta, Struct, UnsetType
from msgspec.structs import replace

from adapters.errors import InvalidRequestError, UnsupportedParameterError
from adapters.events import Event, Finished, FinishReason, ReasoningDelta, TextDelta
from adapters.request import GenerationRequest, Message, ReasoningEffort, TextPart
from proxy.endpoints.generate import generate
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
from proxy.endpoints.times import Times
from proxy.endpoints.wire_types import Usage, to_usage
from proxy.errors import to_failure
from proxy.http.event_stream import Frame
from proxy.http.headers import AnswerNotes
from proxy.sinks import Answer


class PromptRequest(GenerationFields, kw_only=True):
    """A question to a model, with any of the fields that completions have."""

    model: str = ""
    model_id: str = ""
    """The same; one of the two is needed."""
    prompt: Annotated[str, Meta(min_length=1)]
    system: str | None = None
    raw: bool | None = None
    """The prompt is text to be continued as it is, without the model's chat template."""
    reasoning_effort: ReasoningEffort | None = None


class Performance(Struct, kw_only=True):
    ttft_s: float
    """Seconds to the first piece of the answer, loading and waiting included."""
    tokens_per_second: float | None
    """From there to the end; null where the answer came in one piece."""
    total_s: float


class PromptAnswer(Struct, kw_only=True):
    """The whole answer; or a line of it, of which the last has what comes after `done`."""

    model_id: str
    backend: str
    response: str
    reasoning: str | UnsetType = UNSET
    done: bool
    finish_reason: FinishReason | UnsetType = UNSET
    usage: Usage | UnsetType = UNSET
    performance: Performance | UnsetType = UNSET


def to_generation_request(body: PromptRequest) -> GenerationRequest:
    """The request with the public model name still in it.

    Raises:
        UnsupportedParameterError: a field asks for what this shape of answer has no room for.
        InvalidRequestError: fields that contradict each other, or no model.
    """
    refuse_impossible(body)
    body = settle(replace(body, model=to_model(body)))
    prompt = body.prompt if body.raw else to_messages(body)
    return replace(
        to_request(body, prompt, to_limit(body.max_tokens)),
        response_format=only_one(to_guided(body)),
        reasoning_effort=body.reasoning_effort,
    )


def refuse_impossible(body: PromptRequest) -> None:
    if body.n not in (None, 1):
        raise UnsupportedParameterError("There is one answer here: 'n' is 1.", param="n")
    if body.stream_options is not None:
        raise UnsupportedParameterError(
            "The last line always has the usage: there are no 'stream_options'.",
            param="stream_options",
        )
    if body.raw and body.system is not None:
        raise InvalidRequestError("A raw prompt has no system message.", param="system")


def to_model(body: PromptRequest) -> str:
    if body.model and body.model_id and body.model != body.model_id:
        raise InvalidRequestError("'model_id' says something else than 'model'.", param="model_id")
    if not (body.model or body.model_id):
        raise InvalidRequestError("Missing required parameter: 'model_id'.", param="model_id")
    return body.model_id or body.model


def to_messages(body: PromptRequest) -> tuple[Message, ...]:
    user = Message(role="user", content=(TextPart(body.prompt),))
    if body.system is None:
        return (user,)
    return Message(role="system", content=(TextPart(body.system),)), user


class PromptDialect:
    def __init__(self, body: PromptRequest, notes: AnswerNotes, times: Times) -> None:
        self._body = body
        self._notes = notes
        self._times = times

    def render(self, event: Event, /) -> Iterable[Frame]:
        match event:
            case TextDelta(text=text):
                yield Frame(self._line(text))
            case ReasoningDelta(text=text):
                yield Frame(self._line("", text))
            case Finished():
                yield Frame(self._with_end(self._line(""), event))
            case _:
                pass  # Nothing was asked that calls tools.

    def error(self, exc: Exception) -> Iterable[Frame]:
        return (Frame(to_failure(exc).body),)

    def whole(self, answer: Answer) -> PromptAnswer:
        return self._with_end(self._line(answer.text, answer.reasoning), answer.finished)

    def to_param(self, feature: str | None) -> str | None:
        if feature == "model" and self._body.model_id:
            return "model_id"
        return sent_as(feature, self._body) if feature is not None else None

    def _line(self, text: str, reasoning: str = "") -> PromptAnswer:
        return PromptAnswer(
            model_id=self._body.model_id or self._body.model,
            backend=self._notes.backend,
            response=text,
            reasoning=reasoning or UNSET,
            done=False,
        )

    def _with_end(self, line: PromptAnswer, finished: Finished) -> PromptAnswer:
        return replace(
            line,
            done=True,
            finish_reason=finished.reason,
            usage=to_usage(finished.usage),
            performance=Performance(
                ttft_s=self._times.first,
                tokens_per_second=self._times.tokens_per_second(finished.usage),
                total_s=self._times.total,
            ),
        )


async def answer_prompt(request: ServerRequest, body: PromptRequest, times: Times) -> ASGIResponse:
    asked = to_generation_request(body)
    return await generate(
        request,
        replace(asked, model=request.forced(asked.model, body.backend)),
        PromptDialect(body, request.notes, times),
        times,
        streamed=bool(body.stream),
    )

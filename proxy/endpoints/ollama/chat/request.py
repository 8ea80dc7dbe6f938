"""Ollama's chat body -> a `GenerationRequest`.

Source: https://github.com/ollama/ollama/blob/main/docs/api.md
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import replace

from adapters import request as contract
from adapters.errors import InvalidRequestError, UnsupportedParameterError
from adapters.request import GenerationRequest
from proxy.endpoints.generation_fields import (
    SCHEMA_PATH,
    GenerationFields,
    sent_as,
    settle,
    to_limit,
    to_request,
)
from proxy.images import image_at, path_of_image
from proxy.keep_alive import KeepAlive

JSON = dict[str, Any]


class CalledFunction(Struct):
    name: str
    arguments: JSON = {}
    index: int | None = None


class Call(Struct):
    function: CalledFunction
    id: str | None = None
    type: Literal["function"] | None = None


class ChatMessage(Struct):
    role: Literal["system", "user", "assistant", "tool"]
    content: str | None = None
    thinking: str | None = None
    images: list[str] | None = None
    """In base64."""
    tool_calls: list[Call] | None = None
    tool_name: str | None = None
    tool_call_id: str | None = None


class Function(Struct):
    name: Annotated[str, Meta(min_length=1, max_length=256)]
    description: str | None = None
    parameters: JSON | None = None


class Tool(Struct):
    function: Function
    type: Literal["function"] | None = None


class OllamaChatRequest(Struct, kw_only=True):
    """The body of Ollama's `/api/chat`."""

    model: str
    messages: Annotated[list[ChatMessage], Meta(max_length=4096)] | None = None
    """Without messages the model is loaded, or unloaded with a `keep_alive` of 0."""
    stream: bool | None = None
    """True by default."""
    format: Literal["json", ""] | JSON | None = None
    options: JSON | None = None
    tools: Annotated[list[Tool], Meta(max_length=128)] | None = None
    think: bool | Literal["low", "medium", "high", "max"] | None = None
    keep_alive: KeepAlive | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    truncate: bool | None = None
    shift: bool | None = None
    """`truncate` and `shift` may be false: history is never cut."""
    backend: str | None = None
    """Tandem's own: the name of the backend that must answer."""


def to_generation_request(body: OllamaChatRequest) -> GenerationRequest:
    """Translate the body; the model keeps its public name.

    Raises:
        UnsupportedParameterError: no backend can honour a field.
        InvalidRequestError: fields conflict, or an option is invalid.
    """
    refuse_impossible(body)
    fields = _fields(body)
    settled = settle(fields)
    return replace(
        to_request(settled, to_messages(body.messages or []), to_limit(settled.max_tokens, fields)),
        tools=tuple(_tool(tool.function) for tool in body.tools or []),
        response_format=to_response_format(body.format),
        reasoning_effort=to_reasoning_effort(body),
        top_logprobs=(body.top_logprobs or 0) if body.logprobs else None,
    )


def to_param(feature: str | None, body: OllamaChatRequest) -> str | None:
    """A field of the contract -> the name of the field that the client sent."""
    names = {
        "prompt": "messages",
        "images": "messages",
        "logprobs": "top_logprobs" if body.top_logprobs else "logprobs",
        "response_format": "format",
        "reasoning_effort": "think",
    }
    if feature is None:
        return None
    if feature.startswith(SCHEMA_PATH):
        return f"format{feature.removeprefix(SCHEMA_PATH)}"
    path = path_of_image(feature, image_paths(body))
    return path or names.get(feature) or sent_as(feature, _fields(body))


def image_paths(body: OllamaChatRequest) -> dict[str, str]:
    """Map each image's path in the contract, which is behind the text, to the client's path."""
    return {
        image_at(at, bool(message.content) + place): f"messages[{at}].images[{place}]"
        for at, message in enumerate(body.messages or [])
        for place, _ in enumerate(message.images or [])
    }


def _fields(body: OllamaChatRequest) -> GenerationFields:
    """The fields that Ollama's chat shares with the other dialects."""
    return GenerationFields(model=body.model, options=body.options, keep_alive=body.keep_alive)


def refuse_impossible(body: OllamaChatRequest) -> None:
    for name in ("truncate", "shift"):
        if getattr(body, name):
            raise UnsupportedParameterError(
                f"'{name}' is not supported: the chat is never cut. Omit it or send false.",
                param=name,
            )
    if body.top_logprobs and not body.logprobs:
        raise InvalidRequestError(
            "'top_logprobs' needs 'logprobs' to be true.", param="top_logprobs"
        )


def to_response_format(form: str | JSON | None) -> contract.ResponseFormat | None:
    match form:
        case None | "":
            return None
        case str():
            return contract.JSONObject()
        case _:
            return contract.JSONSchema(form)


def to_reasoning_effort(body: OllamaChatRequest) -> contract.ReasoningEffort | None:
    match body.think:
        case None:
            return None
        case "max":
            return "xhigh"
        case str(level):
            return level
        case enabled:
            return "medium" if enabled else "none"


def _tool(function: Function) -> contract.Tool:
    return contract.Tool(function.name, function.description, function.parameters)


def to_messages(messages: list[ChatMessage]) -> tuple[contract.Message, ...]:
    ids = _CallIds()
    return tuple(_message(message, ids) for message in messages)


def _message(message: ChatMessage, ids: "_CallIds") -> contract.Message:
    text = [contract.TextPart(message.content)] if message.content else []
    images = [contract.ImagePart(f"data:;base64,{image}") for image in message.images or []]
    return contract.Message(
        role=message.role,
        content=(*text, *images),
        reasoning=message.thinking or None,
        tool_calls=tuple(ids.of_call(call) for call in message.tool_calls or []),
        tool_call_id=ids.of_result(message) if message.role == "tool" else None,
        name=message.tool_name,
    )


class _CallIds:
    """Matches results with calls: Ollama's clients send a tool's name, or nothing, for an id."""

    def __init__(self) -> None:
        self._count = 0
        self._open: list[contract.ToolCall] = []

    def of_call(self, call: Call) -> contract.ToolCall:
        function = call.function
        translated = contract.ToolCall(
            call.id or f"call_{self._count}",
            function.name,
            msgspec.json.encode(function.arguments).decode(),
        )
        self._count += 1
        self._open.append(translated)
        return translated

    def of_result(self, message: ChatMessage) -> str | None:
        """Return the id of the first open call that matches the message."""
        if message.tool_call_id is not None:
            return message.tool_call_id
        for call in self._open:
            if message.tool_name in (None, call.name):
                self._open.remove(call)
                return call.id
        return None

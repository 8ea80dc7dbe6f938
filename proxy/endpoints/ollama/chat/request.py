"""Ollama's chat body -> a `GenerationRequest`.

Source: https://github.com/ollama/ollama/blob/main/docs/api.md
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import replace

from adapters import request as contract
from adapters.errors import InvalidRequestError
from adapters.request import GenerationRequest
from proxy.endpoints.generation_fields import settle, to_request
from proxy.endpoints.ollama.fields import (
    DEFAULT_SAMPLING,
    JSON,
    OllamaFields,
    check_logprobs,
    field_of,
    generation_fields,
    to_image,
    to_num_predict,
    to_reasoning_effort,
    to_response_format,
    to_top_logprobs,
)
from proxy.images import image_at, path_of_image

_ROLES: dict[str, contract.Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
}


class CalledFunction(Struct):
    name: str
    arguments: JSON | None = None
    index: int | None = None


class Call(Struct):
    function: CalledFunction
    id: str | None = None
    type: str | None = None
    """OpenAI has it, and clients copy it; Ollama does not read it."""


class ChatMessage(Struct):
    role: str | None = None
    """One of `_ROLES`, in letters of any case. Without one, a message is in no prompt: most
    templates of Ollama leave it out, and clients send it."""
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
    type: Literal["function", ""] | None = None


class OllamaChatRequest(OllamaFields, kw_only=True):
    """The body of Ollama's `/api/chat`."""

    messages: Annotated[list[ChatMessage], Meta(max_length=4096)] | None = None
    """Without messages the model is loaded, or unloaded with a `keep_alive` of 0."""
    tools: Annotated[list[Tool], Meta(max_length=128)] | None = None


def to_generation_request(body: OllamaChatRequest) -> GenerationRequest:
    """Translate the body; the model keeps its public name.

    Raises:
        UnsupportedParameterError: no backend can honour a field.
        InvalidRequestError: fields conflict, or an option is invalid.
    """
    check_logprobs(body)
    _check_roles(body)
    settled = settle(generation_fields(body))
    return replace(
        to_request(settled, to_messages(_spoken(body)), to_num_predict(settled)),
        tools=tuple(_tool(tool.function) for tool in body.tools or []),
        response_format=to_response_format(body.format),
        reasoning_effort=to_reasoning_effort(body),
        top_logprobs=to_top_logprobs(body),
        default_sampling=DEFAULT_SAMPLING,
        continue_final_message=_is_begun(body),
        wishes=frozenset({"continue_final_message"}),
    )


def _is_begun(body: OllamaChatRequest) -> bool:
    """True if the last message begins the answer: most templates of Ollama continue it."""
    spoken = _spoken(body)
    if not spoken or body.tools or body.format:
        return False
    last = spoken[-1]
    return _role(last) == "assistant" and bool(last.content) and not last.tool_calls


def messages_left_out(body: OllamaChatRequest) -> tuple[str, ...]:
    """Name the messages without a role."""
    return tuple(f"messages[{at}]" for at, m in enumerate(body.messages or []) if not m.role)


def _check_roles(body: OllamaChatRequest) -> None:
    for at, message in enumerate(body.messages or []):
        if message.role and message.role.lower() not in _ROLES:
            roles = ", ".join(f"'{role}'" for role in _ROLES)
            raise InvalidRequestError(
                f"'messages[{at}].role' must be one of {roles}.", param=f"messages[{at}].role"
            )
    if body.messages and not _spoken(body):
        raise InvalidRequestError(
            "'messages[0].role' is missing, and no other message has one.",
            param="messages[0].role",
        )


def _spoken(body: OllamaChatRequest) -> list[ChatMessage]:
    return [message for message in body.messages or [] if message.role]


def _role(message: ChatMessage) -> contract.Role:
    return _ROLES[(message.role or "").lower()]


def to_param(feature: str | None, body: OllamaChatRequest) -> str | None:
    """A field of the contract -> the name of the field that the client sent."""
    if feature is None:
        return None
    names = {"prompt": "messages", "images": "messages"}
    path = path_of_image(feature, image_paths(body))
    return path or names.get(feature) or field_of(feature, body)


def image_paths(body: OllamaChatRequest) -> dict[str, str]:
    """Map each image's path in the contract, which is behind the text, to the client's path."""
    sent = [(at, message) for at, message in enumerate(body.messages or []) if message.role]
    return {
        image_at(spoken, bool(message.content) + place): f"messages[{at}].images[{place}]"
        for spoken, (at, message) in enumerate(sent)
        for place, _ in enumerate(message.images or [])
    }


def _tool(function: Function) -> contract.Tool:
    return contract.Tool(function.name, function.description, function.parameters)


def to_messages(messages: list[ChatMessage]) -> tuple[contract.Message, ...]:
    ids = _CallIds()
    return tuple(_message(message, ids) for message in messages)


def _message(message: ChatMessage, ids: "_CallIds") -> contract.Message:
    text = [contract.TextPart(message.content)] if message.content else []
    return contract.Message(
        role=_role(message),
        content=(*text, *map(to_image, message.images or [])),
        reasoning=message.thinking or None,
        tool_calls=tuple(ids.of_call(call) for call in message.tool_calls or []),
        tool_call_id=ids.of_result(message) if _role(message) == "tool" else None,
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
            msgspec.json.encode(function.arguments or {}).decode(),
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

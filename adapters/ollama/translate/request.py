"""From Tandem's request to Ollama's JSON: pure functions."""

from collections.abc import Mapping
from operator import attrgetter
from typing import Any, Literal, TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from adapters.errors import InvalidRequestError, UnsupportedParameterError
from adapters.ollama.options import to_keep_alive, to_options
from adapters.ollama.translate.json_schema import (
    has_keyword,
    refuse_impossible,
    refuse_unenforceable,
)
from adapters.ollama.translate.tool_choice import call_schema, chosen_tools, in_words, is_forced
from adapters.ollama.wire import (
    ChatBody,
    ChatMessage,
    FillBody,
    Function,
    FunctionCall,
    Options,
    RawBody,
    Think,
    ToolDefinition,
    ToolFunction,
)
from adapters.request import (
    GenerationRequest,
    ImagePart,
    JSONObject,
    JSONSchema,
    Message,
    ReasoningEffort,
    ResponseFormat,
    TokenIds,
    Tool,
    ToolCall,
)

_T = TypeVar("_T")
Format = Literal["json"] | dict[str, Any] | UnsetType

# Levels go out as they are: a model that only knows on and off reads every level as on.
_THINK: Mapping[ReasoningEffort, Think] = {
    "none": False,
    "minimal": "low",
    "low": "low",
    "medium": "medium",
    "high": "high",
    "xhigh": "max",
}


_DRAWN: Mapping[str, str] = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "seed": "seed",
    "frequency_penalty": "frequency_penalty",
    "presence_penalty": "presence_penalty",
    "repetition_penalty": "repeat_penalty",
}
"""Field of `Sampling` -> Ollama's option."""
_drawing = attrgetter(*_DRAWN)
_SAID_AS = tuple(_DRAWN.values())


def to_body(request: GenerationRequest, shows_tools: bool = True) -> ChatBody | RawBody:
    """The body of `/api/chat`, or of `/api/generate` for a raw text.

    A `num_ctx` that nobody asked for is left out: how much is needed is reckoned later.

    `shows_tools`: the model's template tells it of tools; where it does not, a call can still be
    forced, and the tools are told in words.

    Raises:
        InvalidRequestError: no message, a bad image, arguments that are no object, ….
        UnsupportedParameterError: an image to be fetched, tools together with a format, ….
    """
    if request.max_tokens is not None and request.max_tokens < 1:
        # Ollama reads a num_predict of 0 as "without limit".
        raise InvalidRequestError("max_tokens must be at least 1.", param="max_tokens")
    if isinstance(request.prompt, TokenIds):
        raise UnsupportedParameterError("Ollama takes text, no tokens.", param="tokens")
    if isinstance(request.prompt, str):
        return _to_text_body(request, request.prompt)
    return _to_chat_body(request, request.prompt, shows_tools)


def refuse_unenforced(request: GenerationRequest) -> None:
    """As `to_body`, which is more work where there are images or long texts.

    Raises:
        UnsupportedParameterError: fields that Ollama does not honour together, or a schema.
    """
    if isinstance(request.prompt, tuple):
        _refuse_in_chat(request)
        _to_tools(request)
    else:
        _refuse_in_text(request)
        _to_format(request.response_format)


def _to_chat_body(
    request: GenerationRequest, messages: tuple[Message, ...], shows_tools: bool
) -> ChatBody:
    if not messages:  # Ollama would load the model and say nothing.
        raise InvalidRequestError("There is no message to answer.", param="messages")
    _refuse_in_chat(request)
    tools, format_ = _to_tools(request)
    if not shows_tools and is_forced(request):
        messages, tools = in_words(messages, tools), ()
    return ChatBody(
        messages=_to_messages(messages),
        tools=[_to_tool(tool) for tool in tools] if tools else UNSET,
        think=_THINK[request.reasoning_effort] if request.reasoning_effort else UNSET,
        **_common(request, format_),
    )


def _refuse_in_chat(request: GenerationRequest) -> None:
    if request.suffix is not None or request.echo:
        param = "echo" if request.suffix is None else "suffix"
        raise UnsupportedParameterError(f"'{param}' needs a prompt, no chat.", param=param)
    if request.tools and request.tool_choice != "none" and request.response_format is not None:
        raise UnsupportedParameterError(
            "Ollama never calls a tool while it keeps to a response_format: give one of the two.",
            param="response_format",
        )


def _to_tools(request: GenerationRequest) -> tuple[tuple[Tool, ...], Format]:
    """The tools to tell of, and the format that the answer must have.

    Where format and tools are given, Ollama tells of the tools and keeps to the format.
    """
    if request.tool_choice == "none":
        return (), _to_format(request.response_format)
    if not is_forced(request):
        _refuse_strict_patterns(request.tools)
        return request.tools, _to_format(request.response_format)
    tools = chosen_tools(request)
    for tool in tools:
        refuse_impossible(tool.parameters or {}, "tools")
        if tool.strict:
            refuse_unenforceable(tool.parameters or {}, "tools")
    return tools, call_schema(tools)


def _refuse_strict_patterns(tools: tuple[Tool, ...]) -> None:
    """A free call is only checked when it is there, and `pattern` is not (see `Promise`)."""
    for tool in tools:
        if tool.strict and has_keyword(tool.parameters or {}, ("pattern", "patternProperties")):
            raise UnsupportedParameterError(
                f"Ollama cannot enforce 'pattern' in the strict tool '{tool.name}'.", param="tools"
            )


def _refuse_in_text(request: GenerationRequest) -> None:
    # Raw text knows no template, hence neither tools nor a switch for reasoning.
    for param, asked in (
        ("tools", request.tools and request.tool_choice != "none"),
        ("reasoning_effort", request.reasoning_effort not in (None, "none")),
    ):
        if asked:
            raise UnsupportedParameterError(f"'{param}' needs a chat.", param=param)


def _to_text_body(request: GenerationRequest, prompt: str) -> RawBody:
    _refuse_in_text(request)
    common = _common(request, _to_format(request.response_format))
    if request.suffix:
        return FillBody(prompt=prompt, suffix=request.suffix, **common)
    if not prompt:
        raise InvalidRequestError("Ollama cannot continue an empty text.", param="prompt")
    return RawBody(prompt=prompt, **common)


def _common(request: GenerationRequest, format_: Format) -> dict[str, Any]:
    return {
        "model": request.model,
        "options": _to_options(request),
        "keep_alive": UNSET if request.keep_alive is None else to_keep_alive(request.keep_alive),
        "format": format_,
        "logprobs": True if request.top_logprobs is not None else UNSET,
        "top_logprobs": request.top_logprobs or UNSET,
    }


def _given(value: _T | None) -> _T | UnsetType:
    return UNSET if value is None else value


def _to_options(request: GenerationRequest) -> Options:
    """Only what the caller asked for: everything else is the Modelfile's to say."""
    said = zip(_SAID_AS, _drawing(request.sampling), strict=True)
    asked = Options(
        **{name: value for name, value in said if value is not None},
        stop=request.stop or UNSET,
        num_predict=_given(request.max_tokens),
        num_ctx=_given(request.num_ctx),
    )
    return to_options(asked, request.options) if request.options else asked


def _to_format(wanted: ResponseFormat | None) -> Format:
    match wanted:
        case None:
            return UNSET
        case JSONObject():
            return "json"
        case JSONSchema(schema=schema, strict=strict):
            refuse_impossible(schema, "response_format")
            if strict:
                refuse_unenforceable(schema, "response_format")
            return schema
        case _:
            raise UnsupportedParameterError("Ollama has no such grammar.", param="response_format")


def _to_tool(tool: Tool) -> ToolDefinition:
    function = ToolFunction(
        name=tool.name,
        description=_given(tool.description),
        parameters=tool.parameters or {"type": "object", "properties": {}},
    )
    return ToolDefinition(function=function)


def _to_messages(messages: tuple[Message, ...]) -> list[ChatMessage]:
    called: dict[str, str] = {}
    answer: list[ChatMessage] = []
    for message in messages:
        if message.tool_calls:
            called.update((call.id, call.name) for call in message.tool_calls)
        answer.append(_to_message(message, called))
    return answer


def _to_message(message: Message, called: Mapping[str, str]) -> ChatMessage:
    """`called` is the tool's name for each id of the calls so far."""
    return ChatMessage(
        role=message.role,
        content=message.text,
        images=[_to_base64(image) for image in message.images] or UNSET,
        thinking=message.reasoning or UNSET,
        tool_calls=[_to_call(call) for call in message.tool_calls] or UNSET,
        tool_name=_tool_name(message, called) if message.role == "tool" else UNSET,
        tool_call_id=_given(message.tool_call_id),
    )


def _tool_name(message: Message, called: Mapping[str, str]) -> str | UnsetType:
    name = called.get(message.tool_call_id or "", message.name)
    if name is None and message.tool_call_id is not None:
        raise InvalidRequestError(
            "A tool message answers a call that no earlier message made.", param="messages"
        )
    return _given(name)


def _to_call(call: ToolCall) -> FunctionCall:
    function = Function(name=call.name, arguments=_to_object(call.arguments))
    return FunctionCall(function=function, id=call.id)


def _to_object(arguments: str) -> msgspec.Raw:
    """The JSON text itself, so that numbers and order stay as the model wrote them."""
    text = arguments.strip() or "{}"
    try:
        msgspec.json.decode(text, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        raise InvalidRequestError(
            "The arguments of a tool call must be a JSON object.", param="messages"
        ) from None
    return msgspec.Raw(text.encode())


def _to_base64(image: ImagePart) -> str:
    """The base64 text of a data URL."""
    if not image.url[:5].lower() == "data:":
        raise UnsupportedParameterError(
            "Images must be given as data: URLs: Ollama fetches none.", param="images"
        )
    head, comma, data = image.url.partition(",")
    text = "".join(data.split())
    # To read 20 MB here would hold up every other answer: Ollama reads them, and refuses others.
    is_whole = bool(text) and len(text) % 4 == 0
    if not comma or not head.lower().endswith(";base64") or not is_whole:
        raise InvalidRequestError("An image is no base64 data: URL.", param="images")
    return text

"""Translate Tandem's requests to Ollama's JSON: pure functions."""

import re
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

_BEYOND_DOUBLE = re.compile(r"\d{300}")
"""Go refuses integers beyond a double's range, which has 308 digits."""

# Levels go out as they are: a model that only knows on and off reads every level as on.
_THINK: Mapping[ReasoningEffort, Think] = {
    "none": False,
    "minimal": "low",
    "low": "low",
    "medium": "medium",
    "high": "high",
    "xhigh": "max",
}


_SAMPLING: Mapping[str, str] = {
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
_sampling = attrgetter(*_SAMPLING)
_OPTION_NAMES = tuple(_SAMPLING.values())


def to_body(request: GenerationRequest, shows_tools: bool = True) -> ChatBody | RawBody:
    """Return the body of `/api/chat`, or of `/api/generate` for a raw text.

    `num_ctx` is left out unless the request has one: it is chosen later.

    `shows_tools`: the model's template shows tools; where it does not, a call can still be forced,
    and the tools are described in a message.

    Raises:
        InvalidRequestError: no message, a bad image, ….
        UnsupportedParameterError: the URL of an image, tools together with a format, ….
    """
    if request.max_tokens is not None and request.max_tokens < 1:
        # Ollama reads a num_predict of 0 as "without limit".
        raise InvalidRequestError("max_tokens must be at least 1.", param="max_tokens")
    if isinstance(request.prompt, TokenIds):
        raise UnsupportedParameterError("Ollama takes text, not tokens.", param="tokens")
    if isinstance(request.prompt, str):
        return _to_text_body(request, request.prompt)
    return _to_chat_body(request, request.prompt, shows_tools)


def refuse_unenforced(request: GenerationRequest) -> None:
    """Refuse what `to_body` refuses, without the work for images and long texts.

    Raises:
        UnsupportedParameterError: fields, or a schema, that Ollama does not honour together.
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
    if not messages:  # Ollama would load the model and answer nothing.
        raise InvalidRequestError(
            "'messages' is empty: there is no message to answer.", param="messages"
        )
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
        raise UnsupportedParameterError(f"'{param}' needs a raw prompt, not a chat.", param=param)
    if request.tools and request.tool_choice != "none" and request.response_format is not None:
        raise UnsupportedParameterError(
            "Ollama calls no tool in an answer with a response_format: use one of the two.",
            param="response_format",
        )


def _to_tools(request: GenerationRequest) -> tuple[tuple[Tool, ...], Format]:
    """Return the tools to show, and the format of the answer.

    With both, Ollama shows the tools and enforces the format.
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
    """Refuse `pattern` in a strict tool: free calls are checked at their end, without `pattern`
    (see `Promise`)."""
    for tool in tools:
        if tool.strict and has_keyword(tool.parameters or {}, ("pattern", "patternProperties")):
            raise UnsupportedParameterError(
                f"Ollama cannot enforce 'pattern' in the strict tool '{tool.name}'.", param="tools"
            )


def _refuse_in_text(request: GenerationRequest) -> None:
    # Raw text has no template, hence neither tools nor a switch for reasoning.
    for param, is_set in (
        ("tools", request.tools and request.tool_choice != "none"),
        ("reasoning_effort", request.reasoning_effort not in (None, "none")),
    ):
        if is_set:
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


def _or_unset(value: _T | None) -> _T | UnsetType:
    return UNSET if value is None else value


def _to_options(request: GenerationRequest) -> Options:
    """Set only what the request has: everything else is left to the Modelfile."""
    named = zip(_OPTION_NAMES, _sampling(request.sampling), strict=True)
    options = Options(
        **{name: value for name, value in named if value is not None},
        stop=request.stop or UNSET,
        num_predict=_or_unset(request.max_tokens),
        num_ctx=_or_unset(request.num_ctx),
    )
    return to_options(options, request.options) if request.options else options


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
            raise UnsupportedParameterError(
                "Ollama does not support this response_format.", param="response_format"
            )


def _to_tool(tool: Tool) -> ToolDefinition:
    function = ToolFunction(
        name=tool.name,
        description=_or_unset(tool.description),
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
    """`called`: call id -> name of the tool, for the calls so far."""
    return ChatMessage(
        role=message.role,
        content=message.text,
        images=[_to_base64(image) for image in message.images] or UNSET,
        thinking=message.reasoning or UNSET,
        tool_calls=[_to_call(call) for call in message.tool_calls] or UNSET,
        # The call may have been cut away: its result has no name then.
        tool_name=_or_unset(called.get(message.tool_call_id or "", message.name))
        if message.role == "tool"
        else UNSET,
        tool_call_id=_or_unset(message.tool_call_id),
    )


def _to_call(call: ToolCall) -> FunctionCall:
    function = Function(name=call.name, arguments=_to_object(call.arguments))
    return FunctionCall(function=function, id=call.id)


def _to_object(arguments: str) -> msgspec.Raw:
    """Return the arguments of an earlier call as an object, which Ollama demands.

    It is the JSON text itself, so that numbers and order stay as the model wrote them; no value at
    all is an empty object. Anything else, such as a call that was cut, is kept as the text of
    `invalid_arguments`.
    """
    text = arguments.strip()
    if text in ("", "null"):
        return msgspec.Raw(b"{}")
    try:
        msgspec.json.decode(text, type=dict[str, Any])
        if _BEYOND_DOUBLE.search(text) is None:
            return msgspec.Raw(text.encode())
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        pass
    # Lone surrogates, which no JSON can carry, become question marks.
    kept = arguments.encode(errors="replace").decode()
    return msgspec.Raw(msgspec.json.encode({"invalid_arguments": kept}))


def _to_base64(image: ImagePart) -> str:
    """Return the base64 text of a data URL."""
    if not image.url[:5].lower() == "data:":
        raise UnsupportedParameterError(
            "Ollama fetches no images: send them as data: URLs.", param="images"
        )
    head, comma, data = image.url.partition(",")
    text = "".join(data.split())
    # Decoding 20 MB here would delay every other answer; Ollama decodes it, and refuses bad data.
    is_whole = bool(text) and len(text) % 4 == 0
    if not comma or not head.lower().endswith(";base64") or not is_whole:
        raise InvalidRequestError("An image is not a base64 data: URL.", param="images")
    return text

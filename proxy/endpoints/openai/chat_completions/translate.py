"""`ChatCompletionRequest` -> `GenerationRequest`."""

from collections.abc import Callable
from operator import attrgetter
from typing import Any

from msgspec.structs import replace

from adapters import request as contract
from adapters.errors import InvalidRequestError, UnsupportedParameterError
from adapters.request import Feature, GenerationRequest
from proxy.endpoints.generation_fields import (
    GenerationFields,
    check_stream_options,
    only_one,
    sent_as,
    settle,
    to_guided,
    to_limit,
    to_request,
)
from proxy.endpoints.openai.chat_completions import request as wire
from proxy.endpoints.openai.chat_completions.request import ChatCompletionRequest
from proxy.endpoints.text_files import not_text, to_text_part
from proxy.endpoints.tools import check_forced, custom_tool, named_tool, to_arguments
from proxy.images import image_at, path_of_image

_IMPOSSIBLE: dict[str, Callable[[Any], bool]] = {
    "audio": lambda _: True,
    "modalities": lambda value: "audio" in value,
    "moderation": lambda _: True,
    "web_search_options": lambda _: True,
}
"""Field -> a predicate: true for a value that no backend can honour."""
_HINTS: dict[str, Callable[[Any], bool]] = {
    "verbosity": lambda value: value != "medium",
    "prediction": lambda _: True,
    "prompt_cache_options": lambda _: True,
    "prompt_cache_retention": lambda _: True,
    "service_tier": lambda value: value not in ("auto", "default"),
}
"""Field -> a predicate: true for a hint that has no effect here. The answer is right without it."""
_PLAIN = {"messages", "max_completion_tokens", *GenerationFields.__struct_fields__} - {
    "stream_options",
    "format",
    "json_schema",
    "guided_json",
    "guided_regex",
    "guided_choice",
    "guided_grammar",
    "structured_outputs",
}
"""Fields that `to_request` and `settle` read, and fields without effect."""
_SHAPES = tuple(name for name in ChatCompletionRequest.__struct_fields__ if name not in _PLAIN)
"""All other fields: they shape the answer, are refused, or are new. A plain chat has none."""
_shape = attrgetter(*_SHAPES)
_NO_SHAPE = (None,) * len(_SHAPES)
_hints = attrgetter(*_HINTS)
_NO_HINTS = (None,) * len(_HINTS)


def to_generation_request(body: ChatCompletionRequest) -> GenerationRequest:
    """Translate the body; the model keeps its public name.

    Raises:
        UnsupportedParameterError: no backend can honour a field; `param` is its path.
        InvalidRequestError: fields conflict.
    """
    is_plain = _shape(body) == _NO_SHAPE  # true for most
    if not is_plain:
        refuse_impossible(body)
        check_combinations(body)
    sent, body = body, settle(body)
    messages = tuple([to_message(m, f"messages[{at}]") for at, m in enumerate(body.messages)])
    newer = body.max_completion_tokens
    limit = to_limit(body.max_tokens if newer is None else newer, sent)
    request = to_request(body, messages, limit)
    return request if is_plain else _shaped(request, body)


def _shaped(request: GenerationRequest, body: ChatCompletionRequest) -> GenerationRequest:
    """Add the fields that only chats have."""
    tools, choice = to_tools_and_choice(body)
    check_forced(tools, choice, parameters_paths(body))
    return replace(
        request,
        tools=tools,
        tool_choice=choice,
        parallel_tool_calls=body.parallel_tool_calls is not False,
        response_format=to_response_format(body),
        reasoning_effort=to_reasoning_effort(body),
        continue_final_message=body.continue_final_message is True,
        top_logprobs=(body.top_logprobs or 0) if body.logprobs else None,
    )


def to_param(feature: str | None, body: ChatCompletionRequest) -> str | None:
    """A field of the contract -> the name of the field that the client sent."""
    names: dict[Feature | str, str] = {
        "prompt": "messages",
        "images": "messages",
        "logprobs": "top_logprobs" if body.top_logprobs else "logprobs",
        "top_logprobs": "top_logprobs",
    }
    if feature is None:
        return None
    if feature.startswith("tools["):
        return feature.replace(".input_format", ".custom.format.grammar", 1)
    return path_of_image(feature, image_paths(body)) or names.get(feature) or sent_as(feature, body)


def image_paths(body: ChatCompletionRequest) -> dict[str, str]:
    """Map each image's path in the contract to the client's path."""
    return {
        image_at(at, place): f"messages[{at}].content[{place}]"
        for at, message in enumerate(body.messages)
        if isinstance(message.content, list)
        for place, part in enumerate(message.content)
        if isinstance(part, wire.ImagePart)
    }


def ignored_hints(body: ChatCompletionRequest) -> tuple[str, ...]:
    """List the fields with a wish that has no effect here, for `x-tandem-ignored`."""
    if _hints(body) == _NO_HINTS:  # as nearly always
        return ()
    values = {name: getattr(body, name) for name in _HINTS}
    return tuple(n for n, value in values.items() if value is not None and _HINTS[n](value))


def refuse_impossible(body: ChatCompletionRequest) -> None:
    for param, is_impossible in _IMPOSSIBLE.items():
        value = getattr(body, param)
        if value is not None and is_impossible(value):
            raise _unsupported(param)
    for name in body.chat_template_kwargs or {}:
        if name != "enable_thinking":
            raise _unsupported(f"chat_template_kwargs.{name[:100]}")


def check_combinations(body: ChatCompletionRequest) -> None:
    check_stream_options(body)
    if body.top_logprobs and not body.logprobs:
        raise InvalidRequestError(
            "'top_logprobs' needs 'logprobs' to be true.", param="top_logprobs"
        )
    continues = bool(body.continue_final_message)
    if body.add_generation_prompt is not None and body.add_generation_prompt is continues:
        expected = "false" if continues else "true"
        raise InvalidRequestError(
            f"'add_generation_prompt' must be {expected} where 'continue_final_message' is "
            f"{str(continues).lower()}.",
            param="add_generation_prompt",
        )
    for new, old in (("tools", "functions"), ("tool_choice", "function_call")):
        if getattr(body, new) is not None and getattr(body, old) is not None:
            raise InvalidRequestError(f"'{old}' is the old form of '{new}': send one.", param=old)


def to_reasoning_effort(body: ChatCompletionRequest) -> contract.ReasoningEffort | None:
    """Read OpenAI's field, else the equivalents of other servers."""
    effort = body.reasoning_effort or (body.reasoning and body.reasoning.effort)
    if effort is None and isinstance(body.think, str):
        effort = body.think
    if effort is None:
        path = "chat_template_kwargs.enable_thinking"
        inner = (body.chat_template_kwargs or {}).get("enable_thinking")
        if inner is not None and not isinstance(inner, bool):
            raise InvalidRequestError(f"'{path}': Expected `bool`.", param=path)
        switches = (body.think, body.enable_thinking, inner)
        enabled = next((switch for switch in switches if switch is not None), None)
        return None if enabled is None else "medium" if enabled else "none"
    return "xhigh" if effort == "max" else effort


def to_message(message: wire.Message, path: str) -> contract.Message:
    match message:
        case wire.SystemMessage() | wire.DeveloperMessage():
            return _plain("system", message.content, message.name, path)
        case wire.UserMessage():
            return _plain("user", message.content, message.name, path)
        case wire.AssistantMessage():
            return _assistant(message, path)
        case wire.ToolMessage():
            return contract.Message(
                role="tool",
                content=to_content(message.content, path),
                tool_call_id=message.tool_call_id,
                name=message.name,
            )
        case wire.FunctionMessage():
            return contract.Message(
                role="tool",
                content=to_content(message.content or "", path),
                tool_call_id=_old_id(message.name),
                name=message.name,
            )


def _plain(
    role: contract.Role, content: wire.Content, name: str | None, path: str
) -> contract.Message:
    return contract.Message(role=role, content=to_content(content, path), name=name)


def _assistant(message: wire.AssistantMessage, path: str) -> contract.Message:
    """Translate a turn of the model: it has content, calls, a refusal or reasoning."""
    if message.audio is not None:
        raise _unsupported(f"{path}.audio")
    content = message.content if message.content is not None else message.refusal
    reasoning = message.reasoning_content or message.reasoning
    calls = tuple(_tool_call(call) for call in message.tool_calls or [])
    if message.function_call is not None:
        old = message.function_call
        calls = (*calls, contract.ToolCall(_old_id(old.name), old.name, old.arguments))
    if content is None and not calls and not reasoning:
        raise InvalidRequestError(
            f"'{path}.content' is needed where there are no tool calls.", param=f"{path}.content"
        )
    return contract.Message(
        role="assistant",
        content=() if content is None else to_content(content, path),
        reasoning=reasoning,
        tool_calls=calls,
        name=message.name,
    )


def _tool_call(call: wire.FunctionToolCall | wire.CustomToolCall) -> contract.ToolCall:
    if isinstance(call, wire.CustomToolCall):
        return contract.ToolCall(call.id, call.custom.name, to_arguments(call.custom.input))
    return contract.ToolCall(call.id, call.function.name, call.function.arguments)


def _old_id(name: str) -> str:
    """Make an id for calls of the old form, which have none: the name joins call and result."""
    return f"call_{name}"


def to_content(content: wire.Content, path: str) -> tuple[contract.ContentPart, ...]:
    if isinstance(content, str):
        return (contract.TextPart(content),)
    return tuple(_part(part, f"{path}.content[{at}]") for at, part in enumerate(content))


def _part(part: wire.Part, path: str) -> contract.ContentPart:
    match part:
        case wire.TextPart(text=text) | wire.RefusalPart(refusal=text):
            return contract.TextPart(text)
        case wire.ImagePart(image_url=image):
            return contract.ImagePart(image if isinstance(image, str) else image.url)
        case wire.AudioPart():
            raise _unsupported(f"{path}.input_audio")
        case wire.FilePart(file=wire.File(file_data=str(data), filename=name)):
            return to_text_part(data, name, f"{path}.file.file_data")
        case wire.FilePart(file=file):
            raise not_text(f"{path}.file.file_id" if file.file_id else f"{path}.file")


def to_tools_and_choice(
    body: ChatCompletionRequest,
) -> tuple[tuple[contract.Tool, ...], contract.ToolChoice]:
    """`allowed_tools` withholds all others."""
    tools = to_tools(body)
    if isinstance(body.tool_choice, wire.AllowedToolsChoice):
        allowed = body.tool_choice.allowed_tools
        return _allowed(allowed, tools), to_tool_choice(allowed.mode, tools)
    if isinstance(body.function_call, wire.FunctionName):
        return tools, named_tool(body.function_call.name, tools, "function_call")
    return tools, to_tool_choice(body.tool_choice or body.function_call, tools)


def to_tools(body: ChatCompletionRequest) -> tuple[contract.Tool, ...]:
    tools = tuple(_tool(tool) for tool in body.tools or [])
    return tools + tuple(_function(function) for function in body.functions or [])


def parameters_paths(body: ChatCompletionRequest) -> dict[str, str]:
    """Map the name of each tool to the path of its parameters."""
    functions = {
        function.name: f"functions[{at}].parameters"
        for at, function in enumerate(body.functions or [])
    }
    return functions | {
        tool.function.name: f"tools[{at}].function.parameters"
        for at, tool in enumerate(body.tools or [])
        if isinstance(tool, wire.FunctionTool)
    }


def _allowed(
    allowed: wire.AllowedTools, tools: tuple[contract.Tool, ...]
) -> tuple[contract.Tool, ...]:
    try:
        names = {each[each["type"]]["name"] for each in allowed.tools}
    except (KeyError, TypeError) as exc:
        path = "tool_choice.allowed_tools.tools"
        raise InvalidRequestError(f"'{path}' names no tool.", param=path) from exc
    if not names or names - {tool.name for tool in tools}:
        raise InvalidRequestError(
            "'tool_choice' allows a function that is not among the tools.", param="tool_choice"
        )
    return tuple(tool for tool in tools if tool.name in names)


def _tool(tool: wire.FunctionTool | wire.CustomTool) -> contract.Tool:
    if isinstance(tool, wire.FunctionTool):
        return _function(tool.function)
    custom = tool.custom
    grammar = custom.format.grammar if isinstance(custom.format, wire.GrammarInput) else None
    return custom_tool(custom.name, custom.description, grammar)


def _function(function: wire.Function) -> contract.Tool:
    return contract.Tool(
        function.name, function.description, function.parameters, bool(function.strict)
    )


def to_tool_choice(
    choice: wire.ToolChoice | None, tools: tuple[contract.Tool, ...]
) -> contract.ToolChoice:
    match choice:
        case None:
            return "auto"
        case wire.AllowedToolsChoice():  # resolved before
            raise _unsupported("tool_choice")
        case wire.CustomChoice(custom=named) | wire.FunctionChoice(function=named):
            return named_tool(named.name, tools, "tool_choice")
        case "required" if not tools:
            raise InvalidRequestError(
                "'tool_choice' is 'required', but 'tools' is empty.", param="tool_choice"
            )
        case _:
            return choice


def to_response_format(body: ChatCompletionRequest) -> contract.ResponseFormat | None:
    form = _own_format(body)
    own = [("response_format", form)] if form is not None else []
    return only_one([*own, *to_guided(body)])


def _own_format(body: ChatCompletionRequest) -> contract.ResponseFormat | None:
    match body.response_format:
        case None | wire.TextFormat():
            return None
        case wire.JSONObjectFormat(schema=schema):
            return contract.JSONObject() if schema is None else contract.JSONSchema(schema)
        case wire.JSONSchemaFormat(json_schema=named):
            return contract.JSONSchema(named.schema, bool(named.strict))


def _unsupported(param: str) -> UnsupportedParameterError:
    return UnsupportedParameterError(f"'{param}' is not supported.", param=param)

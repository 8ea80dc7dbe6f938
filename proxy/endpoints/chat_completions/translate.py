"""`ChatCompletionRequest` -> `GenerationRequest`."""

from collections.abc import Callable

from adapters import request as contract
from adapters.errors import InvalidRequestError, UnsupportedParameterError
from adapters.request import Feature, GenerationRequest, Sampling
from proxy.endpoints.chat_completions import request as wire
from proxy.endpoints.chat_completions.request import ChatCompletionRequest
from proxy.endpoints.wire import as_tuple

_IMPOSSIBLE: dict[str, Callable[[ChatCompletionRequest], bool]] = {
    "audio": lambda body: body.audio is not None,
    "function_call": lambda body: body.function_call is not None,
    "functions": lambda body: body.functions is not None,
    "modalities": lambda body: body.modalities is not None and "audio" in body.modalities,
    "moderation": lambda body: body.moderation is not None,
    "reasoning_effort": lambda body: body.reasoning_effort == "max",
    "verbosity": lambda body: body.verbosity not in (None, "medium"),
    "web_search_options": lambda body: body.web_search_options is not None,
}
"""What no backend can honour, by the field to blame."""


def to_generation_request(body: ChatCompletionRequest) -> GenerationRequest:
    """The request with the public model name still in it.

    Raises:
        UnsupportedParameterError: nobody can honour a field; `param` is its path.
        InvalidRequestError: fields that contradict each other.
    """
    refuse_impossible(body)
    check_combinations(body)
    tools = to_tools(body.tools or [])
    return GenerationRequest(
        model=body.model,
        prompt=tuple(to_message(m, f"messages[{at}]") for at, m in enumerate(body.messages)),
        n=body.n or 1,
        sampling=to_sampling(body),
        max_tokens=body.max_completion_tokens or body.max_tokens,
        stop=as_tuple(body.stop),
        tools=tools,
        tool_choice=to_tool_choice(body.tool_choice, tools),
        parallel_tool_calls=body.parallel_tool_calls is not False,
        response_format=to_response_format(body),
        reasoning_effort=None if body.reasoning_effort == "max" else body.reasoning_effort,
        top_logprobs=(body.top_logprobs or 0) if body.logprobs else None,
    )


def to_param(feature: str | None, body: ChatCompletionRequest) -> str | None:
    """A field of the contract -> the name of the field that the client sent."""
    names: dict[Feature | str, str] = {
        "prompt": "messages",
        "images": "messages",
        "logprobs": "top_logprobs" if body.top_logprobs else "logprobs",
        "top_logprobs": "top_logprobs",
        "max_tokens": "max_completion_tokens" if body.max_completion_tokens else "max_tokens",
    }
    return names.get(feature, feature) if feature is not None else None


def refuse_impossible(body: ChatCompletionRequest) -> None:
    for param, asked in _IMPOSSIBLE.items():
        if asked(body):
            raise _unsupported(param)


def check_combinations(body: ChatCompletionRequest) -> None:
    if body.stream_options is not None and not body.stream:
        raise InvalidRequestError(
            "'stream_options' needs 'stream' to be true.", param="stream_options"
        )
    if body.top_logprobs is not None and not body.logprobs:
        raise InvalidRequestError(
            "'top_logprobs' needs 'logprobs' to be true.", param="top_logprobs"
        )


def to_sampling(body: ChatCompletionRequest) -> Sampling:
    return Sampling(
        temperature=body.temperature,
        top_p=body.top_p,
        top_k=body.top_k,
        min_p=body.min_p,
        seed=body.seed,
        frequency_penalty=body.frequency_penalty,
        presence_penalty=body.presence_penalty,
        logit_bias=body.logit_bias,  # type: ignore[arg-type]
    )


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
            raise _unsupported(f"{path}.role")


def _plain(
    role: contract.Role, content: wire.Content, name: str | None, path: str
) -> contract.Message:
    return contract.Message(role=role, content=to_content(content, path), name=name)


def _assistant(message: wire.AssistantMessage, path: str) -> contract.Message:
    """A turn of the model's own; one without content has at least calls, a refusal or thoughts."""
    for name in ("function_call", "audio"):
        if getattr(message, name) is not None:
            raise _unsupported(f"{path}.{name}")
    content = message.content if message.content is not None else message.refusal
    reasoning = message.reasoning_content or message.reasoning
    if content is None and not message.tool_calls and not reasoning:
        raise InvalidRequestError(
            f"'{path}.content' is needed where there are no tool calls.", param=f"{path}.content"
        )
    return contract.Message(
        role="assistant",
        content=() if content is None else to_content(content, path),
        reasoning=reasoning,
        tool_calls=_tool_calls(message.tool_calls or [], f"{path}.tool_calls"),
        name=message.name,
    )


def _tool_calls(
    calls: list[wire.FunctionToolCall | wire.CustomToolCall], path: str
) -> tuple[contract.ToolCall, ...]:
    return tuple(_tool_call(call, f"{path}[{at}]") for at, call in enumerate(calls))


def _tool_call(call: wire.FunctionToolCall | wire.CustomToolCall, path: str) -> contract.ToolCall:
    if isinstance(call, wire.CustomToolCall):
        raise _unsupported(f"{path}.type")
    return contract.ToolCall(call.id, call.function.name, call.function.arguments)


def to_content(content: wire.Content, path: str) -> tuple[contract.ContentPart, ...]:
    if isinstance(content, str):
        return (contract.TextPart(content),)
    return tuple(_part(part, f"{path}.content[{at}]") for at, part in enumerate(content))


def _part(part: wire.Part, path: str) -> contract.ContentPart:
    match part:
        case wire.TextPart(text=text) | wire.RefusalPart(refusal=text):
            return contract.TextPart(text)
        case wire.ImagePart():
            return contract.ImagePart(part.image_url.url)
        case wire.AudioPart():
            raise _unsupported(f"{path}.input_audio")
        case wire.FilePart():
            raise _unsupported(f"{path}.file")


def to_tools(tools: list[wire.FunctionTool | wire.CustomTool]) -> tuple[contract.Tool, ...]:
    return tuple(_tool(tool, f"tools[{at}]") for at, tool in enumerate(tools))


def _tool(tool: wire.FunctionTool | wire.CustomTool, path: str) -> contract.Tool:
    if isinstance(tool, wire.CustomTool):
        raise _unsupported(f"{path}.type")
    function = tool.function
    return contract.Tool(
        function.name, function.description, function.parameters, bool(function.strict)
    )


def to_tool_choice(
    choice: wire.ToolChoice | None, tools: tuple[contract.Tool, ...]
) -> contract.ToolChoice:
    match choice:
        case None:
            return "auto"
        case wire.CustomChoice() | wire.AllowedToolsChoice():
            raise _unsupported("tool_choice")
        case wire.FunctionChoice():
            return _named(choice.function.name, tools)
        case "required" if not tools:
            raise InvalidRequestError("There is no tool to be required.", param="tool_choice")
        case _:
            return choice


def _named(name: str, tools: tuple[contract.Tool, ...]) -> contract.NamedTool:
    if name not in {tool.name for tool in tools}:
        raise InvalidRequestError(
            f"'tool_choice' names '{name[:100]}', which is not among the tools.",
            param="tool_choice",
        )
    return contract.NamedTool(name)


def to_response_format(body: ChatCompletionRequest) -> contract.ResponseFormat | None:
    match body.response_format:
        case None | wire.TextFormat():
            return None
        case wire.JSONObjectFormat():
            return contract.JSONObject()
        case wire.JSONSchemaFormat(json_schema=named):
            return contract.JSONSchema(named.schema, bool(named.strict))


def _unsupported(param: str) -> UnsupportedParameterError:
    return UnsupportedParameterError(f"'{param}' is not supported.", param=param)

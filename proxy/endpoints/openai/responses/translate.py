"""`ResponseRequest` -> `GenerationRequest`."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from msgspec.structs import replace

from adapters import request as contract
from adapters.errors import InvalidRequestError, UnsupportedParameterError
from adapters.request import GenerationRequest
from proxy.endpoints.generation_fields import (
    SCHEMA_PATH,
    check_stream_options,
    only_one,
    sent_as,
    settle,
    to_guided,
    to_request,
)
from proxy.endpoints.openai.responses import request as wire
from proxy.endpoints.openai.responses.conversation import Conversation
from proxy.endpoints.openai.responses.items import (
    JSON,
    AdditionalToolsItem,
    CustomToolCallItem,
    CustomToolCallOutputItem,
    FunctionCallItem,
    FunctionCallOutputItem,
    InputItem,
    InputText,
    MessageItem,
    ToolSearchOutputItem,
)
from proxy.endpoints.openai.responses.request import ResponseRequest
from proxy.endpoints.openai.responses.tools import (
    Toolbox,
    ToolList,
    to_toolbox,
    to_tools_and_choice,
)
from proxy.endpoints.openai.responses.turn import Turn
from proxy.images import path_of_image

_IMPOSSIBLE = ("prompt", "moderation")
"""Fields that no backend can honour."""
_CALLS = (FunctionCallItem, CustomToolCallItem)
_RESULTS = (FunctionCallOutputItem, CustomToolCallOutputItem)
_HINTS: dict[str, Callable[[Any], bool]] = {
    "context_management": lambda _: True,
    "prompt_cache_options": lambda _: True,
    "prompt_cache_retention": lambda _: True,
    "service_tier": lambda value: value not in ("auto", "default"),
}
"""Field -> a predicate: true for a hint that has no effect here. The answer is right without it."""
_PARAMS = {
    "prompt": "input",
    "messages": "input",
    "images": "input",
    "logprobs": "top_logprobs",
    "top_logprobs": "top_logprobs",
    "max_tokens": "max_output_tokens",
    "tools": "tools",
    "tool_choice": "tool_choice",
    "parallel_tool_calls": "parallel_tool_calls",
    "reasoning_effort": "reasoning.effort",
}
"""A feature of the contract -> the field of this API that requests it."""


def fill_types(body: Any, field: str = "input") -> Any:
    """Add the `type` of messages and references in a decoded body, which clients may leave out."""
    known = cast(JSON, body)
    if not isinstance(body, dict) or not isinstance(known.get(field), list):
        return known
    return {**known, field: [_with_type(item) for item in known[field]]}


def _with_type(item: Any) -> Any:
    if not isinstance(item, dict):
        return item
    known = cast(JSON, item)
    if known.get("type") is not None:
        return known
    kind = "message" if "role" in known else "item_reference" if "id" in known else None
    return known if kind is None else {**known, "type": kind}


def check(body: ResponseRequest) -> None:
    """Refuse what no backend can honour, and what conflicts."""
    for param in _IMPOSSIBLE:
        if getattr(body, param) is not None:
            raise UnsupportedParameterError(f"'{param}' is not supported.", param=param)
    check_stream_options(body)
    if body.n not in (None, 1):
        raise UnsupportedParameterError("'n' is not supported: an answer is one.", param="n")
    if body.previous_response_id is not None and body.conversation is not None:
        raise InvalidRequestError(
            "'conversation' conflicts with 'previous_response_id'.", param="conversation"
        )
    if body.input is None and body.previous_response_id is None and body.conversation is None:
        raise InvalidRequestError("Missing required parameter: 'input'.", param="input")


def ignored_hints(body: ResponseRequest, keeps: bool) -> tuple[str, ...]:
    """List the fields with a wish that has no effect here, for `x-tandem-ignored`.

    `keeps` is true if `store: true` has an effect.
    """
    values = {name: getattr(body, name) for name in _HINTS}
    found = [n for n, value in values.items() if value is not None and _HINTS[n](value)]
    if body.store and not keeps:
        found.append("store")
    if body.text is not None and body.text.verbosity not in (None, "medium"):
        found.append("text.verbosity")
    reasoning = body.reasoning
    for name in ("mode", "context"):
        if reasoning is not None and getattr(reasoning, name) is not None:
            found.append(f"reasoning.{name}")
    return tuple(found)


def input_items(body: ResponseRequest) -> Sequence[InputItem]:
    """The input as items; a string is a message of the user."""
    if isinstance(body.input, str):
        return (MessageItem(role="user", content=[InputText(text=body.input)]),)
    return body.input or ()


def to_turn(turn: Turn) -> tuple[Turn, GenerationRequest, tuple[str, ...]]:
    """Translate the request of `turn`, and complete it; third are the paths without effect.

    Raises:
        UnsupportedParameterError: no backend can honour a field; `param` is its path.
        InvalidRequestError: fields conflict, or an item is malformed.
    """
    _check_results(turn)
    toolbox = to_toolbox(_tool_lists(turn))
    conversation = Conversation(toolbox, turn.encryption)
    if turn.body.instructions is not None:
        conversation.say("system", turn.body.instructions)
    for item in turn.earlier:
        conversation.add(item, "previous_response_id")
    for at, item in enumerate(turn.items):
        conversation.add(item, f"input[{at}]")
    messages = conversation.end()
    if not messages:
        raise InvalidRequestError("'input' is empty.", param="input")
    request = to_generation_request(turn.body, messages, toolbox)
    turn = replace(turn, toolbox=toolbox, images=conversation.images)
    return turn, request, (*toolbox.ignored, *conversation.ignored)


def _check_results(turn: Turn) -> None:
    """Refuse a result without its call, where the server itself has all items before it.

    A client that sends its whole history may have cut it.
    """
    if turn.body.previous_response_id is None:
        return
    items = [*turn.earlier, *turn.items]
    calls = {item.call_id for item in items if isinstance(item, _CALLS)}
    for at, item in enumerate(turn.items):
        if isinstance(item, _RESULTS) and item.call_id not in calls:
            raise InvalidRequestError(
                f"No tool call found for function call output with call_id {item.call_id[:100]}.",
                param=f"input[{at}].call_id",
            )


def _tool_lists(turn: Turn) -> list[ToolList]:
    """List the tools of the request, and those within its items; a search may find the former."""
    placed = [("previous_response_id", item) for item in turn.earlier]
    placed += [(f"input[{at}].tools", item) for at, item in enumerate(turn.items)]
    return [ToolList("tools", turn.body.tools or ())] + [
        ToolList(path, item.tools, may_repeat=isinstance(item, ToolSearchOutputItem))
        for path, item in placed
        if isinstance(item, AdditionalToolsItem | ToolSearchOutputItem)
    ]


def to_generation_request(
    body: ResponseRequest, messages: tuple[contract.Message, ...], toolbox: Toolbox
) -> GenerationRequest:
    limit = _to_limit(body)
    settled = settle(body)
    tools, choice = to_tools_and_choice(body.tool_choice, toolbox)
    request = to_request(settled, messages, limit)
    return replace(
        request,
        tools=tools,
        tool_choice=choice,
        parallel_tool_calls=body.parallel_tool_calls is not False,
        response_format=to_response_format(settled),
        reasoning_effort=_to_effort(body.reasoning),
        top_logprobs=_to_top_logprobs(body),
    )


def _to_limit(body: ResponseRequest) -> int | None:
    """Read `max_output_tokens`, or the name that chat completions have for it."""
    newer, older = body.max_output_tokens, body.max_tokens
    if newer is not None and older is not None and newer != older:
        raise InvalidRequestError(
            "'max_tokens' conflicts with 'max_output_tokens'.", param="max_tokens"
        )
    limit = older if newer is None else newer
    if limit == 0:
        raise InvalidRequestError("'max_tokens' is 0; use 1 or more.", param="max_tokens")
    return None if limit is None or limit < 0 else limit


def _to_effort(reasoning: wire.Reasoning | None) -> contract.ReasoningEffort | None:
    effort = reasoning.effort if reasoning is not None else None
    return "xhigh" if effort == "max" else effort


def _to_top_logprobs(body: ResponseRequest) -> int | None:
    if body.top_logprobs:
        return body.top_logprobs
    return 0 if "message.output_text.logprobs" in (body.include or ()) else None


def to_response_format(body: ResponseRequest) -> contract.ResponseFormat | None:
    form = _own_format(body.text)
    own = [("text.format", form)] if form is not None else []
    return only_one([*own, *to_guided(body)])


def _own_format(text: wire.Text | None) -> contract.ResponseFormat | None:
    match text and text.format:
        case wire.JSONObjectFormat():
            return contract.JSONObject()
        case wire.JSONSchemaFormat(schema=schema, strict=strict):
            return contract.JSONSchema(schema, bool(strict))
        case _:
            return None


def to_param(feature: str | None, turn: Turn) -> str | None:
    """A field of the contract -> the name of the field that the client sent."""
    if feature is None:
        return None
    if path := path_of_image(feature, turn.images):
        return path
    if feature.startswith("tools["):
        return _tool_param(feature, turn.toolbox)
    body = turn.body
    has_format = body.text is not None and body.text.format is not None
    if has_format and feature.startswith("response_format"):
        inner = feature.removeprefix(SCHEMA_PATH)
        return f"text.format.schema{inner}" if inner != feature else "text.format"
    if feature == "max_tokens" and body.max_output_tokens is None and body.max_tokens is not None:
        return feature
    return _PARAMS.get(feature) or sent_as(feature, body)


def _tool_param(feature: str, toolbox: Toolbox) -> str:
    """Translate a path inside a tool of the contract, such as `tools[2].function.parameters.a`."""
    place, _, rest = feature.removeprefix("tools[").partition("]")
    offered: Mapping[int, str] = dict(enumerate([each.path for each in toolbox.offered.values()]))
    path = offered.get(int(place), "tools") if place.isdecimal() else "tools"
    return path + rest.removeprefix(".function").replace(".input_format", ".format", 1)

"""A request of Anthropic's Messages API -> a `GenerationRequest`, and names of fields back."""

import re
from collections.abc import Callable
from typing import Any

from msgspec import Struct

from adapters.errors import InvalidRequestError, UnsupportedParameterError
from adapters.request import (
    Feature,
    GenerationRequest,
    JSONSchema,
    ReasoningEffort,
    ResponseFormat,
    Sampling,
)
from proxy.endpoints.anthropic.messages import request as wire
from proxy.endpoints.anthropic.messages.conversation import (
    Conversation,
    continues_turn,
    to_conversation,
)
from proxy.endpoints.anthropic.messages.request import MessagesRequest, PromptFields
from proxy.endpoints.anthropic.messages.tools import Offer, allows_parallel, to_choice, to_offer
from proxy.endpoints.generation_fields import SCHEMA_PATH
from proxy.images import path_of_image

_IMPOSSIBLE: dict[str, str] = {
    "mcp_servers": "no MCP server is called here; declare its tools",
    "thread": "conversations are not kept here; send all messages",
    "compaction": "ask for a summary in a message",
}
"""Field -> what to do instead: an answer without it would be another one."""
_HINTS: dict[str, Callable[[Any], bool]] = {
    "container": lambda _: True,
    "inference_geo": lambda _: True,
    "diagnostics": lambda value: value.get("previous_message_id") is not None,
    "fallbacks": lambda _: True,
    "fallback_credit_token": lambda _: True,
    "billing_policy": lambda _: True,
    "speed": lambda value: value == "fast",
}
"""Field -> a predicate: true for a value without effect here. The answer is right without it."""
_PATH_OF_TOOL = re.compile(r"tools\[(\d+)\](?:\.function\.(?:parameters|(strict)))?")
"""The contract's path of a tool, its schema or its strictness, which are OpenAI's."""


class Translated(Struct, frozen=True):
    request: GenerationRequest
    conversation: Conversation
    offer: Offer
    ignored: tuple[str, ...]
    """Paths of the parts without effect, for `x-tandem-ignored`."""


def translate(body: MessagesRequest, *, interleaves: bool = False) -> Translated:
    """Translate the body; the model keeps its public name.

    `interleaves`: the client knows interleaved thinking, with a budget of all thoughts between
    calls of tools, which may exceed the limit of one answer.

    Raises:
        UnsupportedParameterError: no backend can honour a field; `param` is its path.
        InvalidRequestError: fields conflict.
    """
    _check_limits(body, interleaves)
    return _translate(
        body,
        # Ollama reads 0 as "without limit": one token is generated, and left out of the answer.
        max_tokens=max(1, body.max_tokens),
        stop=tuple(body.stop_sequences or ()),
        names_stop=bool(body.stop_sequences),
        sampling=_to_sampling(body),
    )


def _check_limits(body: MessagesRequest, interleaves: bool) -> None:
    thinking = body.thinking
    is_bound = not (interleaves and body.tools)
    if (
        is_bound
        and isinstance(thinking, wire.ThinkingEnabled)
        and thinking.budget_tokens >= body.max_tokens
    ):
        raise InvalidRequestError(
            f"'thinking.budget_tokens' is {thinking.budget_tokens}, and has to be less than "
            f"'max_tokens', {body.max_tokens}.",
            param="thinking.budget_tokens",
        )
    if body.max_tokens == 0 and body.stream:
        raise InvalidRequestError(
            "'stream' has nothing to send with 'max_tokens' of 0: leave it out.", param="stream"
        )


def translate_prompt(body: PromptFields) -> Translated:
    """Translate a body for a count of its tokens; raises as `translate`."""
    return _translate(body)


def _translate(body: PromptFields, **fields: Any) -> Translated:
    _refuse_impossible(body)
    conversation = to_conversation(body)
    offer = to_offer(body, conversation.changes)
    request = GenerationRequest(
        model=body.model,
        prompt=conversation.messages,
        tools=offer.tools,
        tool_choice=to_choice(body, offer),
        parallel_tool_calls=allows_parallel(body),
        response_format=_to_format(body),
        continue_final_message=continues_turn(body, conversation),
        **_to_reasoning(body),
        **fields,
    )
    ignored = (*conversation.ignored, *offer.ignored, *_ignored_hints(body))
    return Translated(request, conversation, offer, ignored)


def _refuse_impossible(body: PromptFields) -> None:
    for param, advice in _IMPOSSIBLE.items():
        if getattr(body, param, None):
            raise UnsupportedParameterError(f"'{param}' is not supported: {advice}.", param=param)


def _to_sampling(body: MessagesRequest) -> Sampling:
    top_k = 0 if body.top_k == -1 else body.top_k
    return Sampling(temperature=body.temperature, top_p=body.top_p, top_k=top_k)


def _to_format(body: PromptFields) -> ResponseFormat | None:
    """Read the schema of the answer, which Anthropic promises to keep: so it is a strict one."""
    configured = body.output_config.format if body.output_config is not None else None
    if configured is not None and body.output_format is not None:
        raise InvalidRequestError(
            "'output_format' is the old form of 'output_config.format': send one.",
            param="output_format",
        )
    schema = configured or body.output_format
    return None if schema is None else JSONSchema(schema.schema, strict=True)


def _to_reasoning(body: PromptFields) -> dict[str, Any]:
    """Translate `thinking` and the effort.

    As in Anthropic's API, a model thinks if it is asked to: clients that do not ask read the first
    block of the answer as its text. Where a model cannot leave it out, it thinks. `enabled` needs
    a model that can think; `adaptive` leaves that to the model, and its effort is a hint.
    """
    effort = _to_effort(body)
    match body.thinking:
        case wire.ThinkingEnabled(budget_tokens=budget):
            return {
                "reasoning_effort": effort or "medium",
                "reasoning_budget": budget,
                "wishes": frozenset[Feature]({"reasoning_budget"}),
            }
        case wire.ThinkingAdaptive() | wire.ThinkingBetweenTools():
            return {
                "reasoning_effort": effort,
                "wishes": frozenset[Feature]({"reasoning_effort"}),
            }
        case wire.ThinkingDisabled():
            return {"reasoning_effort": "none"}
        case None:
            return {
                "reasoning_effort": "none",
                "wishes": frozenset[Feature]({"reasoning_effort"}),
            }


def _to_effort(body: PromptFields) -> ReasoningEffort | None:
    effort, _ = _effort_of(body)
    return "xhigh" if effort == "max" else effort


def _effort_of(body: PromptFields) -> tuple[wire.Effort | None, str]:
    """The effort of the answer and its path: that of the last system message that has one."""
    for at, message in reversed(list(enumerate(body.messages))):
        config = message.output_config if isinstance(message, wire.SystemMessage) else None
        if config is not None and config.effort is not None:
            return config.effort, f"messages[{at}].output_config.effort"
    own = body.output_config.effort if body.output_config is not None else None
    return own, "output_config.effort"


def _ignored_hints(body: PromptFields) -> tuple[str, ...]:
    ignored = [
        name
        for name, is_ignored in _HINTS.items()
        if (value := getattr(body, name, None)) is not None and is_ignored(value)
    ]
    if body.output_config is not None and body.output_config.task_budget is not None:
        ignored.append("output_config.task_budget")
    effort, path = _effort_of(body)
    if effort is not None and not _thinks(body):
        ignored.append(path)
    if isinstance(body.thinking, wire.ThinkingBetweenTools):
        ignored.append("thinking.type")
    edits = body.context_management.edits if body.context_management is not None else None
    ignored += [
        f"context_management.edits[{at}]"
        for at, edit in enumerate(edits or [])
        if not _changes_nothing(edit)
    ]
    return tuple(ignored)


def _thinks(body: PromptFields) -> bool:
    return not isinstance(body.thinking, wire.ThinkingDisabled | None)


def _changes_nothing(edit: dict[str, Any]) -> bool:
    """True for an edit that keeps all thinking, as is done here."""
    return edit.get("type") == "clear_thinking_20251015" and edit.get("keep") in (
        "all",
        {"type": "all"},
    )


def to_param(feature: str | None, body: PromptFields) -> str | None:
    """A field of the contract -> the name of the field that the client sent."""
    if feature is None:
        return None
    if feature.startswith(SCHEMA_PATH):
        return _format_path(body) + ".schema" + feature.removeprefix(SCHEMA_PATH)
    if (tool := _PATH_OF_TOOL.match(feature)) is not None:
        return _path_in_tool(tool, body) + feature[tool.end() :]
    conversation = to_conversation(body)
    path = path_of_image(feature, conversation.images)
    return path or _SENT_AS.get(feature, lambda _: feature)(body)


def _format_path(body: PromptFields) -> str:
    return "output_format" if body.output_format is not None else "output_config.format"


def _path_in_tool(tool: re.Match[str], body: PromptFields) -> str:
    offer = to_offer(body, to_conversation(body).changes)
    path = offer.paths[int(tool[1])]
    inner = tool[0].partition(".function.")[2]
    return f"{path}.{'strict' if tool[2] else 'input_schema'}" if inner else path


def _effort_path(body: PromptFields) -> str:
    effort, path = _effort_of(body)
    is_adaptive = not isinstance(body.thinking, wire.ThinkingEnabled)
    return path if effort is not None and is_adaptive and _thinks(body) else "thinking"


_SENT_AS: dict[str, Callable[[PromptFields], str]] = {
    "prompt": lambda _: "messages",
    "images": lambda _: "messages",
    "stop": lambda _: "stop_sequences",
    "response_format": _format_path,
    "reasoning_effort": _effort_path,
    "reasoning_budget": lambda _: "thinking.budget_tokens",
    "parallel_tool_calls": lambda _: "tool_choice.disable_parallel_tool_use",
    "continue_final_message": lambda body: f"messages[{len(body.messages) - 1}]",
}
"""A feature of the contract -> the field that requests it; others have the same name."""

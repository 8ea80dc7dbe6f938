"""From messages to token ids, by the model's own chat template."""

# pyright: basic
import json
from typing import Any, NamedTuple

from jinja2 import TemplateError

from adapters.errors import (
    ContextLengthError,
    GenerationError,
    InvalidRequestError,
    UnsupportedParameterError,
)
from adapters.mlx.models.load import LoadedModel
from adapters.mlx.output.reasoning import TAIL, Thinking, is_open
from adapters.mlx.output.tool_calls.mlx_lm_calls import to_openai
from adapters.mlx.output.tool_calls.tools_as_text import tools_as_text
from adapters.mlx.prompt.raw import raw_ids
from adapters.request import GenerationRequest, Message, ReasoningEffort, Tool

_LEVELS: dict[ReasoningEffort, ReasoningEffort] = {"minimal": "low", "xhigh": "high"}
"""Templates that know levels know three: gpt-oss's."""


class Prompt(NamedTuple):
    ids: list[int]
    thinking: Thinking = "none"
    """Whether thinking comes before the answer."""
    is_answering: bool = False
    """It ends with the header of the text for the user, in a model that writes in channels."""


def render(loaded: LoadedModel, request: GenerationRequest) -> Prompt:
    """The ids the model reads. May take milliseconds per thousand tokens: not for the event loop.

    Raises:
        InvalidRequestError: the template refuses these messages, or the model has none.
        UnsupportedParameterError: the model cannot do without thinking here.
        GenerationError: the template itself is broken.
    """
    if not isinstance(request.prompt, tuple):
        return Prompt(raw_ids(loaded.tokenizer, request))
    ids = _apply_template(loaded, request, request.prompt)
    if loaded.reasoning is None:
        return Prompt(ids)
    if request.reasoning_effort == "none":
        return _without_thinking(loaded, request, ids)
    return Prompt(ids, "open" if is_open(loaded.reasoning, loaded.tokenizer, ids) else "may")


def offered_tools(request: GenerationRequest) -> tuple[Tool, ...]:
    """The tools that the model is told of; all of them, even where it must call a certain one."""
    return () if request.tool_choice == "none" else request.tools


def require_room(prompt_tokens: int, context: int | None, request: GenerationRequest) -> None:
    """
    Raises:
        InvalidRequestError: there is nothing to continue.
        ContextLengthError: no room is left for a single token of the answer, if there is to be one.
    """
    param = "messages" if isinstance(request.prompt, tuple) else "prompt"
    if prompt_tokens == 0:
        raise InvalidRequestError("The prompt is empty.", param=param)
    least = 0 if request.max_tokens == 0 else 1
    if context is not None and prompt_tokens + least > context:
        error = ContextLengthError(
            f"The context of '{request.model}' holds {context} tokens; "
            f"the prompt alone has {prompt_tokens}.",
            param=param,
        )
        error.prompt_tokens, error.limit = prompt_tokens, context
        raise error


def _apply_template(
    loaded: LoadedModel, request: GenerationRequest, messages: tuple[Message, ...]
) -> list[int]:
    if not loaded.tokenizer.has_chat_template:
        raise InvalidRequestError("This model has no chat template.", param="messages")
    tools, given = offered_tools(request), _effort(request.reasoning_effort)
    if loaded.syntax is None:
        messages = tools_as_text(messages, tools, forced=request.tool_choice != "auto")
    elif tools:
        given["tools"] = [to_openai(tool) for tool in tools]
    chat = [to_template_message(message) for message in messages]
    try:
        ids = loaded.tokenizer.apply_chat_template(chat, add_generation_prompt=True, **given)
        return list(ids)
    except TemplateError as error:
        # `raise_exception` in a template: "Conversation roles must alternate", and the like.
        raise InvalidRequestError(
            f"The model's chat template refuses these messages: {error}", param="messages"
        ) from error
    except Exception as error:
        raise GenerationError("The model's chat template failed.", lasting=True) from error


def _effort(asked: ReasoningEffort | None) -> dict[str, Any]:
    """What templates call it. mlx-lm renames `enable_thinking` for those that say `thinking`."""
    if asked is None:
        return {}
    return {"enable_thinking": asked != "none", "reasoning_effort": _LEVELS.get(asked, asked)}


def _without_thinking(loaded: LoadedModel, request: GenerationRequest, ids: list[int]) -> Prompt:
    """The prompt, with the thinking closed where the template itself did not."""
    assert loaded.reasoning is not None  # noqa: S101 - the caller has looked.
    is_harmony = loaded.reasoning.is_harmony
    if is_harmony and offered_tools(request):
        # The header of an answer would rule out calls, and without it the model thinks.
        raise UnsupportedParameterError(
            f"'{request.model}' cannot do without thinking where it may call tools.",
            param="reasoning_effort",
        )
    if is_harmony and request.response_format is not None:
        return Prompt(ids)  # The grammar begins with that header.
    text = loaded.reasoning.skipped(loaded.tokenizer.decode(ids[-TAIL:]))
    ids += loaded.tokenizer.encode(text, add_special_tokens=False)
    return Prompt(ids, is_answering=is_harmony)


def to_template_message(message: Message) -> dict[str, Any]:
    """A message as the templates on the hub expect it: call arguments are an object there."""
    shaped: dict[str, Any] = {"role": message.role, "content": message.text}
    if message.reasoning is not None:
        shaped["reasoning_content"] = message.reasoning
    if message.tool_calls:
        shaped["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": _arguments(call.arguments)},
            }
            for call in message.tool_calls
        ]
    if message.tool_call_id is not None:
        shaped["tool_call_id"] = message.tool_call_id
    if message.name is not None:
        shaped["name"] = message.name
    return shaped


def _arguments(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        # A history may hold a call that a model wrote wrongly: show it as it was.
        return text

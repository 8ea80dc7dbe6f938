"""Chat prompts: messages to token ids by the model's own chat template."""

# pyright: basic
import json
from typing import Any, NamedTuple

from jinja2 import TemplateError

from adapters.errors import GenerationError, InvalidRequestError, UnsupportedParameterError
from adapters.mlx.models.load import LoadedModel
from adapters.mlx.output.reasoning import TAIL, Thinking, is_open
from adapters.mlx.output.tool_calls.mlx_lm_calls import to_openai
from adapters.mlx.output.tool_calls.tools_as_text import tools_as_text
from adapters.mlx.prompt.raw import raw_ids
from adapters.request import GenerationRequest, Message, ReasoningEffort, Tool

_LEVELS: dict[ReasoningEffort, ReasoningEffort] = {"minimal": "low", "xhigh": "high"}
"""Templates with levels have the three of gpt-oss."""


class Prompt(NamedTuple):
    ids: list[int]
    thinking: Thinking = "none"
    """State of the thinking that comes before the answer."""
    is_answering: bool = False
    """For models with channels: true if the prompt ends with the header of the final message."""


def render(loaded: LoadedModel, request: GenerationRequest) -> Prompt:
    """Render the prompt. Takes milliseconds per thousand tokens: not for the event loop.

    Raises:
        InvalidRequestError: the template rejects these messages, or the model has none.
        UnsupportedParameterError: thinking cannot be switched off here.
        GenerationError: the template itself is broken.
    """
    if not isinstance(request.prompt, tuple):
        return Prompt(raw_ids(loaded.tokenizer, request))
    ids = _apply_template(loaded, request, request.prompt)
    if loaded.reasoning is None:
        return Prompt(ids)
    if request.continue_final_message:
        return Prompt(ids, is_answering=loaded.reasoning.is_harmony)
    if request.reasoning_effort == "none" and not _must_think(loaded, request):
        return _without_thinking(loaded, request, ids)
    return Prompt(ids, "open" if is_open(loaded.reasoning, loaded.tokenizer, ids) else "may")


def offered_tools(request: GenerationRequest) -> tuple[Tool, ...]:
    """The tools in the prompt: all of the request, even if a certain one must be called."""
    return () if request.tool_choice == "none" else request.tools


def _apply_template(
    loaded: LoadedModel, request: GenerationRequest, messages: tuple[Message, ...]
) -> list[int]:
    if not loaded.tokenizer.has_chat_template:
        raise InvalidRequestError("This model has no chat template.", param="messages")
    tools, arguments = offered_tools(request), _effort(request.reasoning_effort)
    if loaded.syntax is None:
        messages = tools_as_text(messages, tools, forced=request.tool_choice != "auto")
    elif tools:
        arguments["tools"] = [to_openai(tool) for tool in tools]
    chat = [to_template_message(message) for message in messages]
    if request.continue_final_message:
        arguments["continue_final_message"] = True
    else:
        arguments["add_generation_prompt"] = True
    try:
        return _encode(loaded, chat, arguments)
    except TemplateError as error:
        # `raise_exception` in a template, such as "Conversation roles must alternate".
        raise InvalidRequestError(
            f"The model's chat template rejects these messages: {error}", param="messages"
        ) from error
    except Exception as error:
        if request.continue_final_message and isinstance(error, (TypeError, ValueError)):
            # Transformers finds no end of the message in what the template made of it.
            raise UnsupportedParameterError(
                f"The chat template of '{request.model}' cannot continue a message.",
                param="continue_final_message",
            ) from error
        raise GenerationError("The model's chat template failed.", lasting=True) from error


def _encode(loaded: LoadedModel, chat: list[Any], arguments: dict[str, Any]) -> list[int]:
    """Render and tokenize; names of control tokens in messages and tools are text."""
    apply = loaded.tokenizer.apply_chat_template
    if not loaded.control.occur_in([chat, arguments.get("tools")]):
        return list(apply(chat, **arguments))
    hidden, kept = loaded.control.hide([chat, arguments])
    return loaded.control.encode(apply(hidden, tokenize=False, **kept))


def _effort(effort: ReasoningEffort | None) -> dict[str, Any]:
    """Template arguments; mlx-lm renames `enable_thinking` for templates that use `thinking`."""
    if effort is None:
        return {}
    return {"enable_thinking": effort != "none", "reasoning_effort": _LEVELS.get(effort, effort)}


def _must_think(loaded: LoadedModel, request: GenerationRequest) -> bool:
    """Return true for a model that cannot answer `request` without thinking, where it may think.

    Raises:
        UnsupportedParameterError: it cannot, and must not think.
    """
    # The header of a final message excludes calls, and without it the model thinks.
    if loaded.reasoning is None or not (loaded.reasoning.is_harmony and offered_tools(request)):
        return False
    if "reasoning_effort" not in request.wishes:
        raise UnsupportedParameterError(
            f"'{request.model}' cannot switch thinking off in requests with tools.",
            param="reasoning_effort",
        )
    return True


def _without_thinking(loaded: LoadedModel, request: GenerationRequest, ids: list[int]) -> Prompt:
    """The prompt without thinking, closed here if the template did not do it."""
    assert loaded.reasoning is not None  # noqa: S101 - checked by the caller.
    is_harmony = loaded.reasoning.is_harmony
    if is_harmony and request.response_format is not None:
        return Prompt(ids)  # The grammar begins with the header.
    text = loaded.reasoning.skipped(loaded.tokenizer.decode(ids[-TAIL:]))
    ids += loaded.tokenizer.encode(text, add_special_tokens=False)
    return Prompt(ids, is_answering=is_harmony)


def to_template_message(message: Message) -> dict[str, Any]:
    """Convert a message for chat templates, which expect call arguments as an object."""
    converted: dict[str, Any] = {"role": message.role, "content": message.text}
    if message.reasoning is not None:
        converted["reasoning_content"] = message.reasoning
    if message.tool_calls:
        converted["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": _arguments(call.arguments)},
            }
            for call in message.tool_calls
        ]
    if message.tool_call_id is not None:
        converted["tool_call_id"] = message.tool_call_id
    if message.name is not None:
        converted["name"] = message.name
    return converted


def _arguments(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        # Calls of earlier turns may be malformed: they are passed on as text.
        return text

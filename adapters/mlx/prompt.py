"""From messages to token ids, by the model's own chat template."""

# pyright: basic
import json
from typing import Any

from jinja2 import TemplateError

from adapters.errors import ContextLengthError, GenerationError, InvalidRequestError
from adapters.mlx.raw_prompt import raw_ids
from adapters.request import GenerationRequest, Message


def tokenize(tokenizer: Any, request: GenerationRequest) -> list[int]:
    """The ids the model reads. May take milliseconds per thousand tokens: not for the event loop.

    Raises:
        InvalidRequestError: the template refuses these messages, or the model has none.
        GenerationError: the template itself is broken.
    """
    if not isinstance(request.prompt, tuple):
        return raw_ids(tokenizer, request)
    return _apply_template(tokenizer, request.prompt)


def require_room(prompt_tokens: int, context: int | None, request: GenerationRequest) -> None:
    """
    Raises:
        InvalidRequestError: there is nothing to continue.
        ContextLengthError: no room is left for a single token of the answer.
    """
    param = "messages" if isinstance(request.prompt, tuple) else "prompt"
    if prompt_tokens == 0:
        raise InvalidRequestError("The prompt is empty.", param=param)
    if context is not None and prompt_tokens >= context:
        raise ContextLengthError(
            f"The context of '{request.model}' holds {context} tokens; "
            f"the prompt alone has {prompt_tokens}.",
            param=param,
        )


def _apply_template(tokenizer: Any, messages: tuple[Message, ...]) -> list[int]:
    if not tokenizer.has_chat_template:
        raise InvalidRequestError("This model has no chat template.", param="messages")
    chat = [to_template_message(message) for message in messages]
    try:
        return list(tokenizer.apply_chat_template(chat, add_generation_prompt=True))
    except TemplateError as error:
        # `raise_exception` in a template: "Conversation roles must alternate", and the like.
        raise InvalidRequestError(
            f"The model's chat template refuses these messages: {error}", param="messages"
        ) from error
    except Exception as error:
        raise GenerationError("The model's chat template failed.", lasting=True) from error


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

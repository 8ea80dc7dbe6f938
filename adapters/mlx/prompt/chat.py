"""Chat prompts: messages to token ids by the model's own chat template."""

# pyright: basic
import json
from typing import Any, NamedTuple

from msgspec.structs import replace

from adapters.chat_template.form import to_template_message, to_template_tool
from adapters.chat_template.jinja import TemplateRefusalError
from adapters.chat_template.rewriting import rewrite
from adapters.chat_template.template import ChatTemplate
from adapters.errors import (
    BackendError,
    GenerationError,
    InvalidRequestError,
    UnsupportedParameterError,
)
from adapters.mlx.models.load import LoadedModel
from adapters.mlx.output.reasoning import TAIL, Thinking, is_open
from adapters.mlx.output.tool_calls.tools_as_text import with_tools_as_text
from adapters.mlx.prompt.control_tokens import ControlTokens
from adapters.mlx.prompt.efforts import LEFT_OUT, USUAL
from adapters.mlx.prompt.learned import Learned
from adapters.mlx.prompt.raw import raw_ids
from adapters.mlx.vision.protocol import ImagePrompt
from adapters.request import (
    GenerationRequest,
    ImagePart,
    Message,
    ReasoningEffort,
    TextPart,
    Tool,
    ToolCall,
)


class Prompt(NamedTuple):
    ids: list[int]
    thinking: Thinking = "none"
    """State of the thinking that comes before the answer."""
    is_answering: bool = False
    """For models with channels: true if the prompt ends with the header of the final message."""
    rewritten: tuple[str, ...] = ()
    """Names of what was done with the messages; see `adapters.chat_template.rewriting`."""
    images: ImagePrompt | None = None
    """The images, for a prompt that has some."""


class Rendered(NamedTuple):
    """A chat as text."""

    text: str
    is_hidden: bool
    """True if names of control tokens in messages were replaced by stand-ins."""
    images: tuple[ImagePart, ...]
    """The images that the text has placeholders for."""
    rewritten: tuple[str, ...]
    """See `Prompt.rewritten`."""


def render(loaded: LoadedModel, request: GenerationRequest) -> Prompt:
    """Render a prompt without images. Takes milliseconds per thousand tokens: not for the event
    loop. Those with images: see `prompt/images.py`.

    Raises:
        InvalidRequestError: the template rejects these messages, or the model has none.
        UnsupportedParameterError: the template cannot continue a message.
        GenerationError: the template itself is broken.
    """
    if not isinstance(request.prompt, tuple):
        return Prompt(raw_ids(loaded.tokenizer, request))
    rendered = render_text(loaded, request, request.prompt)
    ids = tokenize(loaded, rendered.text, is_hidden=rendered.is_hidden)
    return with_thinking(loaded, request, ids)._replace(rewritten=rendered.rewritten)


def tokenize(loaded: LoadedModel, text: str, *, is_hidden: bool) -> list[int]:
    """Tokenize the text of a `Rendered`; see there for `is_hidden`."""
    if is_hidden:
        ids = loaded.control.encode(text)
    else:
        ids = list(loaded.tokenizer.encode(text, add_special_tokens=False))
    return ids if tuple(ids[: len(loaded.start)]) == loaded.start else [*loaded.start, *ids]


def with_thinking(loaded: LoadedModel, request: GenerationRequest, ids: list[int]) -> Prompt:
    """Return the prompt with the state of thinking that its end has, or that `request` wants."""
    if loaded.reasoning is None:
        return Prompt(ids)
    if request.continue_final_message:
        return Prompt(ids, is_answering=loaded.reasoning.is_harmony)
    # The header of a final message excludes calls: with tools a limit ends each thought.
    ends_at_once = loaded.reasoning.is_harmony and bool(offered_tools(request))
    if request.reasoning_effort == "none" and not ends_at_once:
        return _without_thinking(loaded, request, ids)
    return Prompt(ids, "open" if is_open(loaded.reasoning, loaded.tokenizer, ids) else "may")


def offered_tools(request: GenerationRequest) -> tuple[Tool, ...]:
    """The tools in the prompt: all of the request, even if a certain one must be called."""
    return () if request.tool_choice == "none" else request.tools


def render_text(
    loaded: LoadedModel, request: GenerationRequest, messages: tuple[Message, ...]
) -> Rendered:
    """Apply the chat template; errors as `render`."""
    if loaded.template is None or loaded.learned is None:
        raise InvalidRequestError("This model has no chat template.", param="messages")
    learned, tools = loaded.learned, offered_tools(request)
    done: list[str] = []
    if tools and (not learned.has_tools):
        forced = request.tool_choice != "auto"
        messages = with_tools_as_text(messages, tools, loaded.syntax, forced=forced)
        tools, done = (), ["tools-as-text"]
    chat = _Chat(messages, [to_template_tool(tool) for tool in tools], request)
    try:
        rendered = _write(loaded.template, learned, loaded, chat)
    except TemplateRefusalError as error:
        raise _refusal(learned, error) from error
    done += _effort_note(learned, request.reasoning_effort)
    return rendered._replace(rewritten=(*done, *rendered.rewritten))


def _left_out(messages: tuple[Message, ...], text: str) -> tuple[str, ...]:
    """Name the reasoning since the last message of the user that is not in the prompt.

    Reasoning before it is left out by nearly all templates, as in the training of their models.
    """
    for message in reversed(messages):
        if message.role == "user":
            break
        if message.reasoning and message.reasoning.strip() not in text:
            return ("thoughts-left-out",)
    return ()


def _refusal(learned: Learned, error: TemplateRefusalError) -> BackendError:
    """The error of a conversation that the template refuses, or of a template that refuses all."""
    if "turns" in learned.plan.refused:
        return GenerationError(f"The model's chat template failed: {error}", lasting=True)
    return InvalidRequestError(
        f"The model's chat template rejects these messages: {error}", param="messages"
    )


class _Chat(NamedTuple):
    messages: tuple[Message, ...]
    tools: list[dict[str, Any]]
    request: GenerationRequest


def _write(template: ChatTemplate, learned: Learned, loaded: LoadedModel, chat: _Chat) -> Rendered:
    """Render; names of control tokens in messages and tools will be text."""
    images = tuple(image for message in chat.messages for image in message.images)
    told = rewrite(chat.messages, learned.plan.rewrites, learned.writing)
    converted = [to_template_message(message, learned.plan.form) for message in told.messages]
    arguments = _arguments(loaded, chat.request)
    if not loaded.control.occur_in([converted, chat.tools]):
        text = _render(template, learned, converted, chat.tools, arguments, chat.request)
        return Rendered(text, False, images, (*told.done, *_left_out(chat.messages, text)))
    # The model's own notation, in rewritten messages, keeps its control tokens.
    hidden = tuple(_hidden(loaded.control, message) for message in chat.messages)
    told = rewrite(hidden, learned.plan.rewrites, learned.writing)
    converted = [to_template_message(message, learned.plan.form) for message in told.messages]
    tools = loaded.control.hide(chat.tools)
    text = _render(template, learned, converted, tools, arguments, chat.request)
    return Rendered(text, True, images, (*told.done, *_left_out(hidden, text)))


def _hidden(control: ControlTokens, message: Message) -> Message:
    """Replace the names of control tokens in all texts of a message by stand-ins."""
    return replace(
        message,
        content=tuple(
            TextPart(control.hide(part.text)) if isinstance(part, TextPart) else part
            for part in message.content
        ),
        reasoning=control.hide(message.reasoning),
        tool_calls=tuple(_hidden_call(control, call) for call in message.tool_calls),
        tool_call_id=control.hide(message.tool_call_id),
        name=control.hide(message.name),
    )


def _hidden_call(control: ControlTokens, call: ToolCall) -> ToolCall:
    try:
        # JSON may write a name with escapes.
        arguments = json.dumps(control.hide(json.loads(call.arguments)), ensure_ascii=False)
    except ValueError:
        arguments = control.hide(call.arguments)
    return ToolCall(control.hide(call.id), control.hide(call.name), arguments)


_CONTINUED = "\ue0ff"
"""Marks the end of the text that is to be continued."""


def _render(
    template: ChatTemplate,
    learned: Learned,
    messages: list[dict[str, Any]],
    tools: list[dict[str, Any]],
    arguments: dict[str, Any],
    request: GenerationRequest,
) -> str:
    """
    Raises:
        TemplateRefusalError: the template's own reason.
        UnsupportedParameterError: the template does not show the text that is to be continued.
    """
    given = tools or (None if learned.plan.form.no_tools == "null" else [])
    if not request.continue_final_message:
        return template.render(messages, given, {**arguments, "add_generation_prompt": True})
    content = messages[-1]["content"]
    if isinstance(content, str):
        messages[-1]["content"] += _CONTINUED
    else:
        if "text" not in content[-1]:
            content.append({"type": "text", "text": ""})
        content[-1]["text"] += _CONTINUED
    text = template.render(messages, given, {**arguments, "add_generation_prompt": False})
    before, mark, _ = text.rpartition(_CONTINUED)
    if not mark:
        raise UnsupportedParameterError(
            f"The chat template of '{request.model}' cannot continue a message.",
            param="continue_final_message",
        )
    return before


def _arguments(loaded: LoadedModel, request: GenerationRequest) -> dict[str, Any]:
    """The variables of the template, for the thinking: a model that can think does, as on Ollama,
    unless the request switches it off."""
    effort = request.reasoning_effort
    if effort is None:
        return {"enable_thinking": loaded.reasoning is not None}
    efforts = {} if loaded.learned is None else loaded.learned.efforts
    level = efforts.get(effort, USUAL.get(effort, effort))
    told = {} if level == LEFT_OUT else {"reasoning_effort": level}
    return {"enable_thinking": effort != "none", **told}


def _effort_note(learned: Learned, effort: ReasoningEffort | None) -> tuple[str, ...]:
    """Name the level that the template is told in place of `effort`, which it refuses."""
    if effort is None or effort not in learned.efforts:
        return ()
    level = learned.efforts[effort]
    return ("effort-left-out" if level == LEFT_OUT else f"effort-as-{level}",)


def _without_thinking(loaded: LoadedModel, request: GenerationRequest, ids: list[int]) -> Prompt:
    """The prompt without thinking, closed here if the template did not do it."""
    assert loaded.reasoning is not None  # noqa: S101 - checked by the caller.
    is_harmony = loaded.reasoning.is_harmony
    if is_harmony and request.response_format is not None:
        return Prompt(ids)  # The grammar begins with the header.
    text = loaded.reasoning.skipped(loaded.tokenizer.decode(ids[-TAIL:]))
    ids += loaded.tokenizer.encode(text, add_special_tokens=False)
    return Prompt(ids, is_answering=is_harmony)

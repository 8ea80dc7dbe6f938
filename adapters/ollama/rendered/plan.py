"""Translate a request to what Ollama renders and what is generated from that: pure functions."""

from typing import Any

from msgspec import UNSET, Struct, UnsetType
from msgspec.structs import replace

from adapters.errors import InvalidRequestError, UnsupportedParameterError
from adapters.ollama.rendered.thought_style import ThoughtStyle
from adapters.ollama.translate.grammar_schema import GrammarSchema
from adapters.ollama.translate.request import to_body, to_grammar
from adapters.ollama.translate.tool_choice import is_forced, may_call
from adapters.ollama.wire import ChatBody, RawBody, Think
from adapters.request import GenerationRequest, JSONObject

_ANY_OBJECT: dict[str, Any] = {"type": "object"}


class RenderedPlan(Struct, frozen=True):
    """An answer that is generated from a rendered prompt."""

    chat: ChatBody
    """The conversation to render; also the request for a thought that ends in a control token."""
    answer: RawBody
    """The request for the answer, but for its prompt."""
    begun: str = ""
    """The beginning of the answer that the request itself has."""
    may_think: bool = True
    """False where the answer begins at once."""

    def prompt_for(self, style: ThoughtStyle) -> ChatBody:
        """Return the conversation as it is rendered for an answer without a thought."""
        think: Think | UnsetType = False if style.opening is not None else self.chat.think
        return replace(self.chat, think=think)


def needs_rendering(request: GenerationRequest) -> bool:
    """True for answers of which a part is not left to the model. Images need `/api/chat`."""
    if not isinstance(request.prompt, tuple):
        return False
    if not (
        request.response_format is not None or request.continue_final_message or is_forced(request)
    ):
        return False
    return not any(message.has_images for message in request.prompt)


def to_plan(request: GenerationRequest, shows_tools: bool = True) -> RenderedPlan:
    """Return the plan of an answer to `request`, for which `needs_rendering` is true.

    Raises:
        InvalidRequestError: as `to_body`; there is nothing to continue.
        UnsupportedParameterError: as `to_body`; a format together with a continued message.
    """
    free = replace(request, response_format=None, continue_final_message=False)
    begun = ""
    if request.continue_final_message:
        begun, free = _without_beginning(request, free)
    chat = to_body(free if not is_forced(request) else request, shows_tools)
    assert isinstance(chat, ChatBody)  # noqa: S101 - for the type checker: checked by the caller.
    grammar = enforced(request)
    answer = RawBody(
        model=chat.model,
        prompt="",
        options=chat.options,
        keep_alive=chat.keep_alive,
        format=UNSET if grammar is None else grammar.schema,
        logprobs=chat.logprobs,
        top_logprobs=chat.top_logprobs,
    )
    may_think = not request.continue_final_message and request.reasoning_effort != "none"
    chat = replace(chat, format=UNSET, logprobs=UNSET, top_logprobs=UNSET)
    return RenderedPlan(chat, answer, begun, may_think)


def enforced(request: GenerationRequest) -> GrammarSchema | None:
    """Return the schema of the whole answer after its thought; `None` for free text."""
    if request.response_format is None and not (is_forced(request) or may_call(request)):
        return None
    grammar = to_grammar(request)
    if grammar is None and isinstance(request.response_format, JSONObject):
        return GrammarSchema(_ANY_OBJECT)
    return grammar


def _without_beginning(
    request: GenerationRequest, free: GenerationRequest
) -> tuple[str, GenerationRequest]:
    """Return the text to continue, and the request up to it."""
    messages = request.prompt
    assert isinstance(messages, tuple)  # noqa: S101 - for the type checker: checked by the caller.
    if not messages or messages[-1].role != "assistant":
        raise InvalidRequestError(
            "'continue_final_message' needs a last message of the assistant.", param="messages"
        )
    param = "response_format" if request.response_format is not None else "tools"
    if request.response_format is not None or (request.tools and request.tool_choice != "none"):
        raise UnsupportedParameterError(
            f"'{param}' together with 'continue_final_message' is not supported on Ollama.",
            param=param,
        )
    return messages[-1].text, replace(free, prompt=messages[:-1])

"""Translate a request to what Ollama renders and what is generated from that: pure functions."""

from typing import Any

from msgspec import UNSET, Struct
from msgspec.structs import replace

from adapters.chat_template import Rewrite
from adapters.continuation import require_continuable
from adapters.errors import UnsupportedParameterError
from adapters.ollama.rendered.thought_style import ThoughtStyle
from adapters.ollama.translate.grammar_schema import GrammarSchema
from adapters.ollama.translate.request import NO_QUESTION, stop_strings, to_body, to_grammar
from adapters.ollama.translate.tool_choice import is_forced, may_call
from adapters.ollama.wire import ChatBody, RawBody
from adapters.request import Feature, GenerationRequest, JSONObject

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
    budget: int | None = None
    """Tokens after which a thought is ended."""
    wishes: frozenset[Feature] = frozenset()
    """Features to do without where this Ollama or the model lacks them."""

    @property
    def is_free(self) -> bool:
        """True if nothing but the budget needs a rendered prompt."""
        return self.answer.format is UNSET and not self.begun

    def beginning(self, style: ThoughtStyle) -> tuple[ChatBody, str]:
        """Return the conversation to render, and the text between it and what is generated
        first."""
        if self.may_think and style.has_thoughts:
            return self.chat, style.opening or ""
        return self.without_thought(), style.lead + self.begun

    def without_thought(self) -> ChatBody:
        """Return the conversation to render for an answer without a thought.

        Templates that think are not all listed as such, and think where thinking is not off.
        """
        return replace(self.chat, think=False)


def needs_rendering(request: GenerationRequest) -> bool:
    """True for answers of which a part is not left to the model. Images need `/api/chat`."""
    if not isinstance(request.prompt, tuple):
        return False
    if not (
        request.response_format is not None
        or request.continue_final_message
        or is_forced(request)
        or request.reasoning_budget is not None
    ):
        return False
    return not any(message.has_images for message in request.prompt)


def keeps_budget(request: GenerationRequest) -> bool:
    """True if the budget of reasoning in `request`, if it has one, can be kept: the answer after
    it is generated from a rendered prompt, which Ollama reads no calls in."""
    if request.reasoning_budget is None:
        return True
    may_call_freely = (
        bool(request.tools)
        and request.tool_choice != "none"
        and not (is_forced(request) or may_call(request))
    )
    return needs_rendering(request) and not may_call_freely


def to_plan(
    request: GenerationRequest,
    shows_tools: bool = True,
    rewrites: frozenset[Rewrite] = frozenset(),
) -> RenderedPlan:
    """Return the plan of an answer to `request`, for which `needs_rendering` is true.

    Raises:
        InvalidRequestError: as `to_body`; there is nothing to continue.
        UnsupportedParameterError: as `to_body`; a format together with a continued message.
    """
    free = replace(request, response_format=None, continue_final_message=False)
    begun = ""
    if request.continue_final_message:
        begun, free = _without_beginning(request, free)
    chat = to_body(free if not is_forced(request) else request, shows_tools, rewrites)
    assert isinstance(chat, ChatBody)  # noqa: S101 - for the type checker: checked by the caller.
    grammar = enforced(request)
    options = chat.options
    if grammar is not None:
        options = replace(options, stop=stop_strings(request))
    answer = RawBody(
        model=chat.model,
        prompt="",
        options=options,
        keep_alive=chat.keep_alive,
        format=UNSET if grammar is None else grammar.schema,
        logprobs=chat.logprobs,
        top_logprobs=chat.top_logprobs,
    )
    may_think = not request.continue_final_message and request.reasoning_effort != "none"
    chat = replace(chat, format=UNSET, logprobs=UNSET, top_logprobs=UNSET)
    return RenderedPlan(
        chat,
        answer,
        begun,
        may_think,
        request.reasoning_budget,
        request.wishes,
    )


def free_plan(body: ChatBody | RawBody) -> RenderedPlan | None:
    """Return the plan of a free answer to `body`; `None` where it is not rendered, or has images or
    a grammar."""
    if isinstance(body, RawBody) or body.format is not UNSET:
        return None
    if any(message.images for message in body.messages):
        return None
    answer = RawBody(
        model=body.model,
        prompt="",
        options=body.options,
        keep_alive=body.keep_alive,
        logprobs=body.logprobs,
        top_logprobs=body.top_logprobs,
    )
    chat = replace(body, logprobs=UNSET, top_logprobs=UNSET)
    return RenderedPlan(chat, answer, may_think=body.think is not False)


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
    require_continuable(request)
    if request.tools and request.tool_choice != "none":
        raise UnsupportedParameterError(
            "'tools' is not supported on Ollama for an answer that continues the assistant's last "
            "message.",
            param="tools",
        )
    messages = request.prompt
    assert isinstance(messages, tuple)  # noqa: S101 - for the type checker: it was checked.
    return messages[-1].text, replace(free, prompt=messages[:-1] or (NO_QUESTION,))

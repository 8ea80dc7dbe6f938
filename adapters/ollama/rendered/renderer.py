"""Rendering of conversations by one Ollama; what it shows of a model is kept by digest."""

import logging
from collections.abc import Awaitable, Callable
from functools import partial

from msgspec import UNSET, Struct
from msgspec.structs import replace

from adapters.chat_template import Form, Plan, Probe, Refusal, find_plan, run_async
from adapters.chat_template.plan import THOUGHT_KEYS
from adapters.errors import BadUpstreamError, GenerationError, InvalidRequestError
from adapters.ollama.catalog import TOOLS_AS_TEXT, Catalog, full_name
from adapters.ollama.rendered.thought_style import ThoughtStyle, find_style
from adapters.ollama.translate.request import to_body
from adapters.ollama.wire import ChatBody, Rendering
from adapters.request import GenerationRequest, Message, TextPart

log = logging.getLogger("tandem")

Post = Callable[[ChatBody], Awaitable[Rendering]]
"""Posts a body to `/api/chat` in the context of one request."""
NOT_RENDERED = "not-rendered"
"""The note of a model on an Ollama that does not render."""
_REFUSALS = (InvalidRequestError, GenerationError, BadUpstreamError)
"""Failures that concern one conversation: Ollama reports those of templates in any way."""


class NotRenderedError(Exception):
    """Ollama has generated an answer, or none: it does not know `_debug_render_only`."""


class RenderedModel(Struct, frozen=True, kw_only=True):
    """Properties of a model that its renderings show."""

    style: ThoughtStyle
    first_token: str = ""
    """A text that its vocabulary adds by itself, and that no prompt may begin with."""
    thinks: bool = False
    stops: tuple[str, ...] = ()
    """Stop strings of the Modelfile."""
    ends_in_text: bool = True
    """The end of its thoughts is text, not a control token, which no raw answer shows."""
    reads_thoughts: bool = True
    """False where llama-server's parser takes a thought that the prompt opens for the answer."""


class Renderer:
    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._models: dict[tuple[str, str], RenderedModel | None] = {}
        self._plans: dict[tuple[str, str], Plan] = {}
        self._has_warned = False

    async def model(self, name: str, post: Post) -> RenderedModel | None:
        """Return what rendering shows of `name`, by a few probes for each digest; `None` where this
        Ollama does not render.

        Raises:
            BackendError: Ollama fails for a reason that is not the probe's.
        """
        key = (full_name(name), self._catalog.digest(name))
        if key not in self._models:
            try:
                self._models[key] = await self._probe(name, post)
            except NotRenderedError:
                self._models[key] = None
                self._catalog.note_template(name, (NOT_RENDERED,))
                self._warn()
        return self._models[key]

    async def plan(self, name: str, post: Post) -> Plan | None:
        """Return which conversations the template of `name` takes, by probes for each digest;
        `None` where this Ollama does not render.

        Raises:
            BackendError: as `model`.
        """
        key = (full_name(name), self._catalog.digest(name))
        if key not in self._plans:
            if await self.model(name, post) is None:
                return None
            probing = find_plan(forms=(Form(),), thought_keys=THOUGHT_KEYS[:1])
            plan = self._plans[key] = await run_async(probing, partial(_render, name, post))
            words = () if plan.tools else (TOOLS_AS_TEXT,)
            self._catalog.note_template(name, (*sorted(plan.rewrites), *words))
        return self._plans[key]

    async def prompt(self, body: ChatBody, model: RenderedModel, post: Post) -> str:
        """Return the prompt that Ollama renders of `body`.

        Raises:
            BackendError: the template refuses it, or Ollama fails.
            NotRenderedError: this Ollama does not render.
        """
        rendered = await _rendered(replace(body, stream=False, render_only=True), post)
        return rendered.removeprefix(model.first_token)

    async def _probe(self, name: str, post: Post) -> RenderedModel:
        facts = await self._catalog.facts(name)

        probing = find_style(thinks=facts.thinks, template=facts.jinja, parser=facts.parser)
        style = await run_async(probing, partial(_render, name, post))
        needs_control = facts.adds_first_token or style.has_thoughts
        control = await self._catalog.control_tokens(name) if needs_control else None
        is_open = bool(facts.jinja) and style.opening == "" and style.has_thoughts
        return RenderedModel(
            reads_thoughts=not is_open or await _is_thought_read(name, post),
            style=style,
            first_token=control.first if control and facts.adds_first_token else "",
            thinks=facts.thinks,
            stops=facts.template.stops,
            ends_in_text=control is None or style.end not in control.names,
        )

    def _warn(self) -> None:
        if not self._has_warned:
            self._has_warned = True
            log.warning(
                "Ollama does not render prompts for Tandem ('_debug_render_only'): schemas and"
                " forced calls are left to Ollama's own handling, and messages are not continued."
                " A newer Ollama may render."
            )


async def _is_thought_read(name: str, post: Post) -> bool:
    """Generate the first token of a thought that the prompt opens; false where it is text."""
    ask = Message(role="user", content=(TextPart("Quokka"),))
    body = replace(to_probe_body(name, Probe((ask,), thinking=True)), render_only=UNSET)
    try:
        message = (await post(body)).message
    except _REFUSALS:
        return True
    return message is None or not message.content


async def _render(name: str, post: Post, probe: Probe) -> str | Refusal:
    try:
        return await _rendered(to_probe_body(name, probe), post)
    except _REFUSALS as error:
        return Refusal(error.message)


async def _rendered(body: ChatBody, post: Post) -> str:
    rendering = await post(body)
    if rendering.debug_info is None:
        raise NotRenderedError
    return rendering.debug_info.rendered_template


def to_probe_body(name: str, probe: Probe) -> ChatBody:
    """Return the conversation of `probe` as Ollama renders it."""
    request = GenerationRequest(model=name, prompt=probe.messages, tools=probe.tools)
    body = to_body(request)
    assert isinstance(body, ChatBody)  # noqa: S101 - for the type checker: it has messages.
    think = UNSET if probe.thinking is None else probe.thinking
    return replace(body, think=think, stream=False, render_only=True)

"""One answer from a rendered prompt: the thought first, where one is wanted, then the rest."""

import logging
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from adapters.errors import UnsupportedParameterError
from adapters.ollama.errors import LostAnswerError, UnexplainedError
from adapters.ollama.rendered.plan import RenderedPlan
from adapters.ollama.rendered.renderer import RenderedModel, Renderer
from adapters.ollama.translate.stream import AnswerWriter, Thought, Written
from adapters.ollama.wire import ChatBody, Options, RawBody, Rendering

log = logging.getLogger("tandem")
T = TypeVar("T")
Take = Callable[..., Awaitable[T]]
"""Takes the lines of a response, the `num_ctx` they are generated in, and `cold`."""


class Exchange(Protocol):
    """One request to one server, of several calls."""

    def post(self, body: ChatBody) -> Awaitable[Rendering]:
        """Let the server render `body`."""
        ...

    def ask(self, body: ChatBody | RawBody, take: Take[T]) -> Awaitable[T]:
        """Send `body`, and return what `take` makes of the response."""
        ...


class RenderedAnswer:
    def __init__(
        self, plan: RenderedPlan, writer: AnswerWriter, renderer: Renderer, exchange: Exchange
    ) -> None:
        self._plan = plan
        self._writer = writer
        self._renderer = renderer
        self._exchange = exchange

    async def write(self, as_before: ChatBody | RawBody) -> None:
        """Write the answer. `as_before` is sent to an Ollama that does not render.

        Raises:
            BackendError: as `AnswerWriter.write`.
            UnsupportedParameterError: this Ollama does not render, and there is no other way; a
                thought is requested, and the words around it are not known.
        """
        exchange = self._exchange
        model = await self._renderer.model(self._plan.chat.model, exchange.post)
        if self._plan.budget is not None and (model is None or not model.style.has_thoughts):
            self._leave_out_budget()
            if self._plan.is_free:
                await exchange.ask(as_before, self._writer.write)
                return
        if model is None:
            if self._plan.begun and "continue_final_message" not in self._plan.wishes:
                raise UnsupportedParameterError(
                    "This Ollama does not render prompts for Tandem, which"
                    " 'continue_final_message' needs: update it.",
                    param="continue_final_message",
                )
            await exchange.ask(as_before, self._writer.write)
        elif self._needs_unknown_words(model):
            raise UnsupportedParameterError(
                "'reasoning_effort' is not supported together with a format or a forced call: the"
                f" words around the thoughts of '{self._plan.chat.model}' are not known.",
                param="reasoning_effort",
            )
        elif self._plan.may_think and model.style.has_thoughts:
            await self._write_thought_first(model)
        else:
            body, text = self._plan.beginning(model.style)
            await self._write_answer(await self._prompt(body, model) + text)

    async def write_rest(self, written: Written) -> bool:
        """Write what follows `written`; false where this Ollama does not render.

        Raises:
            BackendError: as `AnswerWriter.write`.
        """
        model = await self._renderer.model(self._plan.chat.model, self._exchange.post)
        if model is None:
            return False
        style = model.style
        if self._plan.may_think and style.has_thoughts and not written.text:
            if not written.reasoning:
                await self._write_thought_first(model)
                return True
            prompt = await self._prompt(self._plan.chat, model) + (style.opening or "")
            prompt += written.reasoning.rstrip() + (style.close or "")
        else:
            body = self._plan.without_thought()
            prompt = await self._prompt(body, model) + style.lead
        await self._write_answer(prompt + written.text, written.tokens)
        return True

    async def write_after_empty_thought(self) -> bool:
        """Write an answer after a thought that ends at once; false where this Ollama does not
        render, or the words around thoughts are not known.

        Raises:
            BackendError: as `AnswerWriter.write`.
        """
        model = await self._renderer.model(self._plan.chat.model, self._exchange.post)
        if model is None or not model.style.has_thoughts:
            return False
        thinking = replace(self._plan.chat, think=True)
        begun = await self._prompt(thinking, model) + (model.style.opening or "")
        await self._write_answer(begun + (model.style.close or ""))
        return True

    def _leave_out_budget(self) -> None:
        if "reasoning_budget" not in self._plan.wishes:
            raise UnsupportedParameterError(
                "'reasoning_budget' is not supported: Ollama does not show the words around the"
                f" thoughts of '{self._plan.chat.model}'.",
                param="reasoning_budget",
            )
        self._writer.ignored += ("reasoning_budget",)

    def _needs_unknown_words(self, model: RenderedModel) -> bool:
        """True for a requested thought if the words around it are not known."""
        is_requested = self._plan.chat.think not in (UNSET, False)
        return model.thinks and is_requested and not model.style.has_thoughts

    async def _prompt(self, body: ChatBody, model: RenderedModel) -> str:
        return await self._renderer.prompt(body, model, self._exchange.post)

    async def _write_thought_first(self, model: RenderedModel) -> None:
        style, answer = model.style, self._plan.answer
        conversation, text = self._plan.beginning(style)
        begun = await self._prompt(conversation, model) + text
        stop = tuple(dict.fromkeys([style.end, *model.stops]))
        limit = answer.options.num_predict
        options = replace(answer.options, stop=stop, num_predict=_smaller(limit, self._plan.budget))
        if model.ends_in_text:
            body: ChatBody | RawBody = _free(answer, prompt=begun, options=options)
        else:
            body = replace(self._plan.chat, options=options)
        thought = await self._read_thought(body)
        if (thought.is_cut and options.num_predict == limit) or thought.takes(limit):
            self._writer.finish_cut(thought)
            return
        after = style.close or ""
        await self._write_answer(begun + thought.text.rstrip() + after, thought.tokens)

    async def _read_thought(self, body: ChatBody | RawBody) -> Thought:
        """Write the thought that `body` requests; one that Ollama's parser loses ends there."""
        try:
            return await self._exchange.ask(body, self._writer.write_thought)
        except (LostAnswerError, UnexplainedError) as error:
            if isinstance(body, RawBody):  # No parser reads it.
                raise
            log.info("Ollama cannot read a thought of '%s': %s", body.model, error)
            return self._writer.lost_thought()

    async def _write_answer(self, prompt: str, used: int = 0) -> None:
        """`used`: tokens of the limit that are spent."""
        body = replace(self._plan.answer, prompt=prompt)
        tokens = _left(body.options.num_predict, used)
        body = replace(body, options=replace(body.options, num_predict=tokens))
        await self._exchange.ask(body, self._writer.write)


def _free(answer: RawBody, *, prompt: str, options: Options) -> RawBody:
    """Return `answer` without its grammar."""
    return replace(
        answer, prompt=prompt, options=options, format=UNSET, logprobs=UNSET, top_logprobs=UNSET
    )


def _smaller(limit: int | UnsetType, budget: int | None) -> int | UnsetType:
    """Return the limit of a thought: that of the answer, or the budget of reasoning."""
    if budget is None:
        return limit
    budget = max(budget, 1)
    return budget if isinstance(limit, UnsetType) or limit < 0 else min(limit, budget)


def _left(limit: int | UnsetType, used: int) -> int | UnsetType:
    """Return the tokens that are left of a limit; negative ones are none."""
    return limit if isinstance(limit, UnsetType) or limit < 0 else max(limit - used, 1)

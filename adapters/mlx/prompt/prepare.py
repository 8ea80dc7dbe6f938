"""Prepare one request for the engine: its prompt, its grammar, its sequences."""

# pyright: basic
import asyncio
from concurrent.futures import Executor
from typing import Any, NamedTuple

from msgspec.structs import asdict, replace

from adapters.errors import InvalidRequestError, UnsupportedParameterError
from adapters.mlx.grammar.lark import Style, calls_syntax
from adapters.mlx.grammar.loop_end import LoopEnd
from adapters.mlx.grammar.processor import GrammarProcessor
from adapters.mlx.grammar.reasoning_limit import ReasoningLimit
from adapters.mlx.models.load import LoadedModel
from adapters.mlx.output.assemble import Reading
from adapters.mlx.prompt.chat import Prompt, offered_tools
from adapters.mlx.prompt.context import context_of, require_room
from adapters.mlx.prompt.images import render_prompt
from adapters.mlx.prompt.raw import raw_text
from adapters.mlx.prompt.turns import find_turns
from adapters.mlx.sequence import LogitsProcessor, Sequence
from adapters.request import Feature, GenerationRequest, Lark, Regex, Sampling, needs

UNBOUNDED = 1 << 20
"""Tokens of an answer that neither the request nor the model bounds."""


_OF_REASONING: frozenset[Feature] = frozenset({"reasoning_effort", "reasoning_budget"})


class Prepared(NamedTuple):
    sequences: list[Sequence]
    """One sequence for each choice; they share the prompt."""
    reading: Reading
    context: int | None
    """Tokens that prompt and answer may have together."""
    ignored: tuple[str, ...] = ()
    """See `Started.ignored`."""
    rewritten: tuple[str, ...] = ()
    """See `Started.template`."""


async def prepare(
    request: GenerationRequest, loaded: LoadedModel, tokenizing: Executor
) -> Prepared:
    """Render, tokenize and constrain a request; tokens are made on the thread `tokenizing`.

    Raises:
        InvalidRequestError: the template, the grammar or the context refuses the request.
        UnsupportedParameterError: this model lacks a feature that others have.
    """
    if loaded.reasoning is None and (lacking := needs(request) & _OF_REASONING):
        raise UnsupportedParameterError(
            f"'{request.model}' is not a reasoning model.", param=max(lacking)
        )
    loop = asyncio.get_running_loop()
    prompt = await render_prompt(loaded, request, tokenizing)
    context = context_of(request, loaded.context_length)
    require_room(len(prompt.ids), context, request)
    _require_tokens(request.sampling.logit_bias or {}, len(loaded.tokenizer))
    processors, ignored = await constrain(request, loaded, prompt)
    processors = [(*own, *_limits(request, loaded, prompt)) for own in processors]
    echo = ""
    if request.echo:
        echo = await loop.run_in_executor(tokenizing, raw_text, loaded.tokenizer, request.prompt)
    turns: tuple[int, ...] = ()
    # With images each rendering would preprocess them again.
    if loaded.takes_snapshots and prompt.images is None:
        turns = await loop.run_in_executor(tokenizing, find_turns, loaded, request, prompt.ids)
    sequences = _to_sequences(request, loaded, prompt, context, processors, turns)
    reading = _to_reading(request, loaded, prompt, echo)
    return Prepared(sequences, reading, context, ignored, prompt.rewritten)


async def constrain(
    request: GenerationRequest, loaded: LoadedModel, prompt: Prompt
) -> tuple[list[tuple[LogitsProcessor, ...]], tuple[str, ...]]:
    """Return the processors of each choice, its grammar if it has one, and what is ignored."""
    style = Style()
    if isinstance(request.prompt, tuple):
        style = Style(loaded.syntax, loaded.reasoning, prompt.thinking)
    matcher, ignored = await loaded.grammars.compile(request, style)
    if matcher is None:
        return [()] * request.n, ignored
    return [
        (GrammarProcessor(matcher.deep_copy()), *_loop_end(request, loaded))
        for _ in range(request.n)
    ], ignored


def _loop_end(request: GenerationRequest, loaded: LoadedModel) -> tuple[LogitsProcessor, ...]:
    """Return what ends loops in JSON; the texts of other formats may have any form."""
    if isinstance(request.response_format, Regex | Lark):
        return ()
    return (LoopEnd(loaded.tokenizer, loaded.end_tokens),)


def _limits(
    request: GenerationRequest, loaded: LoadedModel, prompt: Prompt
) -> tuple[LogitsProcessor, ...]:
    """Return the limit of one choice's reasoning, if it has one. It comes after the grammar."""
    budget = 0 if request.reasoning_effort == "none" else request.reasoning_budget
    if budget is None or loaded.reasoning is None or prompt.thinking == "none":
        return ()
    is_open = prompt.thinking == "open"
    return (ReasoningLimit(loaded.reasoning, budget, loaded.vocabulary, is_open),)


def _to_sequences(
    request: GenerationRequest,
    loaded: LoadedModel,
    prompt: Prompt,
    context: int | None,
    processors: list[tuple[LogitsProcessor, ...]],
    turns: tuple[int, ...],
) -> list[Sequence]:
    room = (context or UNBOUNDED) - len(prompt.ids)
    sampling = _with_defaults(request.sampling, loaded.sampling, request.default_sampling)
    return [
        Sequence(
            model=request.model,
            prompt=prompt.ids,
            max_tokens=room if request.max_tokens is None else min(request.max_tokens, room),
            sampling=_for_choice(sampling, choice),
            processors=processors[choice],
            top_logprobs=request.top_logprobs,
            client=request.client,
            choice=choice,
            bounded=request.max_tokens is not None,
            turns=turns,
            reports_prompt=not needs(request).isdisjoint({"echo_logprobs", "empty_answer"}),
            images=prompt.images,
        )
        for choice in range(request.n)
    ]


def _to_reading(
    request: GenerationRequest, loaded: LoadedModel, prompt: Prompt, echo: str
) -> Reading:
    if not isinstance(request.prompt, tuple):
        return Reading(loaded.vocabulary, request.stop, echo=echo, keeps_space=bool(request.prompt))
    return Reading(
        loaded.vocabulary,
        request.stop,
        reasoning=loaded.reasoning,
        is_open=prompt.thinking == "open",
        is_answering=prompt.is_answering,
        syntax=calls_syntax(request, loaded.syntax),
        tools=offered_tools(request),
        calls_only=bool(request.tools) and request.tool_choice not in ("auto", "none"),
        keeps_space=request.continue_final_message or request.response_format is not None,
    )


def _with_defaults(*samplings: Sampling) -> Sampling:
    """Take each field from the first of `samplings` that has it."""
    fields: dict[str, Any] = {}
    for sampling in reversed(samplings):
        fields |= {name: value for name, value in asdict(sampling).items() if value is not None}
    return Sampling(**fields)


def _for_choice(sampling: Sampling, choice: int) -> Sampling:
    if sampling.seed is None or choice == 0:
        return sampling
    return replace(sampling, seed=sampling.seed + choice)


def _require_tokens(logit_bias: dict[int, float], vocabulary: int) -> None:
    """
    Raises:
        InvalidRequestError: a key is not a token of this model.
    """
    if unknown := [token for token in logit_bias if not 0 <= token < vocabulary]:
        raise InvalidRequestError(
            f"'logit_bias' has the token {unknown[0]}, but the model has {vocabulary} tokens.",
            param="logit_bias",
        )

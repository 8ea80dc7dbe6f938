"""Find out which shapes of conversations a chat template takes, and what to do with the others.

Each shape is a short conversation of words that occur nowhere else. A template takes it if all of
these words are in the rendering, in an order that makes sense. If not, rewritings are tried, the
least first, and the first one that helps belongs to the plan.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from adapters.chat_template.form import USUAL, Form
from adapters.chat_template.probing import Probe, Probing, Refusal
from adapters.chat_template.rewriting import JSON_WRITING, Rewrite, Writing, rewrite
from adapters.request import Message, TextPart, Tool, ToolCall


class Plan(Struct, frozen=True, kw_only=True):
    """Treatment of conversations before a template renders them."""

    form: Form = USUAL
    rewrites: frozenset[Rewrite] = frozenset()
    tools: bool = False
    """True if the template describes the tools of a request."""
    thoughts: bool = True
    """False if the reasoning between the calls of a turn is in no rendering."""
    refused: dict[str, str] = {}
    """Shapes that no rewriting makes acceptable, and the reason of the template."""

    @property
    def notes(self) -> tuple[str, ...]:
        """Names of what is rewritten or left out for this template, for the card of its model."""
        lacks = {"tools-as-text": not self.tools, "thoughts-left-out": not self.thoughts}
        return (*sorted(self.rewrites), *(name for name, is_so in lacks.items() if is_so))


def _of(role: str, text: str = "", *calls: ToolCall, thought: str | None = None) -> Message:
    content = (TextPart(text),) if text else ()
    return Message(role=role, content=content, tool_calls=calls, reasoning=thought)  # pyright: ignore


def _returned(text: str, call: ToolCall) -> Message:
    return Message(role="tool", content=(TextPart(text),), tool_call_id=call.id)


_ONE = ToolCall("call_0123456789abcdef01234567", "lookup", '{"place": "Ushuaia", "days": 3}')
_TWO = ToolCall("call_76543210fedcba9876543210", "lookup", '{"place": "Tromso", "days": 5}')
_BARE = ToolCall("call_aaaaaaaaaaaaaaaaaaaaaaaa", "sundial", "{}")
_TOOLS = (
    Tool(
        "lookup",
        "Find a place.",
        {
            "type": "object",
            "properties": {
                "place": {"type": "string", "description": "A city"},
                "days": {"type": "integer", "description": "A number"},
            },
            "required": ["place"],
        },
    ),
    Tool("sundial", "Tell the hour.", {"type": "object", "properties": {}}),
)

Rewrites = tuple[Rewrite, ...]


class _Shape(NamedTuple):
    """A conversation, the words that must follow each other in its rendering, and the remedies."""

    messages: tuple[Message, ...]
    words: tuple[tuple[str, ...], ...]
    """Sequences of words, each in its order."""
    remedies: tuple[Rewrites, ...]
    tools: tuple[Tool, ...] = ()
    thinking: bool | None = None


_ASK, _REPLY, _MORE = _of("user", "Quokka"), _of("assistant", "Heron"), _of("user", "Badger")
_RULE, _RULES = _of("system", "Lichen"), _of("system", "Bracken")

_PLAIN = _Shape((_ASK, _REPLY, _MORE), (("Quokka", "Heron", "Badger"),), ())
_TURNS: dict[str, _Shape] = {
    "users in a row": _Shape((_ASK, _MORE), (("Quokka", "Badger"),), (("users-joined",),)),
    "an empty answer": _Shape(
        (_ASK, _of("assistant"), _MORE),
        (("Quokka", "Badger"),),
        (("empty-answers-left-out",), ("empty-answers-left-out", "users-joined")),
    ),
    "assistants in a row": _Shape(
        (_ASK, _REPLY, _of("assistant", "Egret"), _MORE),
        (("Quokka", "Heron", "Egret", "Badger"),),
        (("assistants-joined",),),
    ),
    "a system message": _Shape((_RULE, _ASK), (("Lichen",), ("Quokka",)), (("system-as-user",),)),
    "system messages at the beginning": _Shape(
        (_RULE, _RULES, _ASK),
        (("Lichen", "Bracken"), ("Quokka",)),
        (("leading-system-joined",), ("late-system-as-user",), ("system-as-user",)),
    ),
    "a late system message": _Shape(
        (_RULE, _ASK, _REPLY, _RULES, _MORE),
        (("Quokka", "Heron", "Badger"), ("Lichen",), ("Bracken",)),
        (("late-system-as-user",), ("system-as-user",)),
    ),
    "a system message at the end": _Shape(
        (_ASK, _RULE),
        (("Quokka",), ("Lichen",)),
        (("late-system-as-user",), ("late-system-as-user", "users-joined"), ("system-as-user",)),
    ),
    "a system message alone": _Shape((_RULE,), (("Lichen",),), (("lone-system-as-user",),)),
}
"""Shapes without calls."""

_CALL = (_ASK, _of("assistant", "", _ONE), _returned("Walrus", _ONE))
_CALL_WORDS = (("Quokka", "lookup", "Ushuaia", "Walrus"),)
_CALL_REMEDIES: tuple[Rewrites, ...] = (
    ("ids-of-nine",),
    ("results-as-user",),
    ("calls-as-text",),
    ("calls-as-text", "results-as-user"),
)
_CALLS: dict[str, _Shape] = {
    "calls in a row": _Shape(
        (
            _ASK,
            _of("assistant", "", _ONE, _TWO),
            _returned("Walrus", _ONE),
            _returned("Narwhal", _TWO),
        ),
        (("Quokka", "Ushuaia", "Walrus"), ("Quokka", "Tromso", "Narwhal"), ("Walrus", "Narwhal")),
        (("calls-one-by-one",), ("calls-as-text", "results-as-user")),
        _TOOLS,
    ),
    "a call without arguments": _Shape(
        (_ASK, _of("assistant", "", _BARE), _returned("Walrus", _BARE)),
        (("Quokka", "sundial", "Walrus"),),
        (("calls-as-text",),),
        _TOOLS,
    ),
    "text beside a call": _Shape(
        (_ASK, _of("assistant", "Heron", _ONE), _returned("Walrus", _ONE)),
        (("Quokka", "Heron", "Ushuaia", "Walrus"),),
        (("text-before-call",), ("text-and-call-as-text",)),
        _TOOLS,
    ),
    "a call in an earlier turn": _Shape(
        (*_CALL, _REPLY, _MORE),
        (("Quokka", "lookup", "Ushuaia", "Walrus", "Heron", "Badger"),),
        (("calls-as-text",),),
        _TOOLS,
    ),
    "a call of a tool that is not offered": _Shape(
        (*_CALL, _REPLY, _MORE),
        (("Quokka", "lookup", "Ushuaia", "Walrus", "Heron", "Badger"),),
        (("calls-as-text",), ("results-as-user",), ("calls-as-text", "results-as-user")),
    ),
    "a question after a result": _Shape(
        (*_CALL, _MORE),
        (("Quokka", "Ushuaia", "Walrus", "Badger"),),
        (("user-joined-to-result",),),
        _TOOLS,
    ),
}
"""Shapes with calls, for templates that render one call."""

_THOUGHT = _Shape(
    (_ASK, _of("assistant", "", _ONE, thought="Lemur"), _returned("Walrus", _ONE)),
    (("Quokka", "Lemur", "Ushuaia", "Walrus"),),
    (),
    _TOOLS,
    thinking=True,
)
_THOUGHT_AND_TEXT = _Shape(
    (_ASK, _of("assistant", "Heron", _ONE, thought="Lemur"), _returned("Walrus", _ONE)),
    (("Quokka", "Heron", "Ushuaia", "Walrus"), ("Quokka", "Lemur", "Ushuaia")),
    (("text-before-call",), ("text-and-call-as-text",)),
    _TOOLS,
    thinking=True,
)

JINJA_FORMS: tuple[Form, ...] = tuple(
    Form(arguments=arguments, empty=empty, no_tools=no_tools, flat=flat)
    for no_tools in ("null", "empty")
    for flat in (False, True)
    for arguments in ("object", "text")
    for empty in (("text",) if flat else ("text", "absent", "null"))
)
"""Forms that Jinja templates read calls in, the usual one first."""
THOUGHT_KEYS = ("reasoning_content", "thinking", "reasoning")
"""Keys that Jinja templates read reasoning in, the usual one first."""


def find_plan(
    forms: Sequence[Form] = JINJA_FORMS,
    thought_keys: Sequence[str] = THOUGHT_KEYS,
    writing: Writing = JSON_WRITING,
) -> Probing[Plan]:
    """Probe a template. About 20 renderings where it takes everything, up to 40 where it does not.

    Engines with one form of messages pass that form alone, and one key. `writing` is the notation
    in which the same engine will have `rewrite` write.
    """
    plan = Plan(form=forms[0])
    plan = yield from _without_tools(plan, forms)
    for name, shape in _TURNS.items():
        plan = yield from _take(plan, name, shape, writing)
    described = yield Probe((_ASK,), _TOOLS, form=plan.form)
    plan = replace(plan, tools=_has(described, (("lookup",), ("sundial",), ("Quokka",))))
    plan = yield from _take_call(plan, forms, writing)
    if "a call" not in plan.refused:
        for name, shape in _CALLS.items():
            plan = yield from _take(plan, name, shape, writing)
        plan = yield from _take_thought(plan, thought_keys, writing)
    return plan


def _without_tools(plan: Plan, forms: Sequence[Form]) -> Probing[Plan]:
    """Find out how a conversation without tools is rendered."""
    reason = ""
    ways = dict.fromkeys((form.parts, form.no_tools) for form in forms)
    # Templates of vision models may show parts only.
    for parts, no_tools in (*ways, *((True, no_tools) for _, no_tools in ways)):
        tried = replace(plan, form=replace(plan.form, no_tools=no_tools, parts=parts))
        text = yield _probe(tried, _PLAIN, JSON_WRITING)
        if _has(text, _PLAIN.words):
            return tried
        reason = reason or _reason(text)
    return replace(plan, refused={"turns": reason})


def _take_call(plan: Plan, forms: Sequence[Form], writing: Writing) -> Probing[Plan]:
    """Try the forms, then the remedies in each form."""
    reason = ""
    suited = [
        replace(form, parts=plan.form.parts)
        for form in forms
        if form.no_tools == plan.form.no_tools
    ]
    for remedy in ((), *_CALL_REMEDIES):
        for form in suited:
            tried = replace(plan, form=form, rewrites=plan.rewrites.union(remedy))
            text = yield _probe(tried, _Shape(_CALL, _CALL_WORDS, (), _TOOLS), writing)
            if _has(text, _CALL_WORDS) and not _is_garbled(text):
                return tried
            reason = reason or _reason(text)
    return replace(plan, refused={**plan.refused, "a call": reason})


def _take(plan: Plan, name: str, shape: _Shape, writing: Writing) -> Probing[Plan]:
    """Add the first remedy under which the template shows all words of the shape."""
    reason = ""
    for remedy in ((), *shape.remedies):
        tried = replace(plan, rewrites=plan.rewrites.union(remedy))
        text = yield _probe(tried, shape, writing)
        if _has(text, shape.words):
            return tried
        reason = reason or _reason(text)
    return replace(plan, refused={**plan.refused, name: reason})


def _take_thought(plan: Plan, keys: Sequence[str], writing: Writing) -> Probing[Plan]:
    """Find the key of the reasoning between the calls of a turn, or a place for it in the text."""
    as_text = replace(plan, rewrites=plan.rewrites | {"thoughts-as-text"})
    by_key = [replace(plan, form=replace(plan.form, thought=key)) for key in keys]
    for tried in (*by_key, as_text):
        text = yield _probe(tried, _THOUGHT, writing)
        if _has(text, _THOUGHT.words):
            name = "text and reasoning beside a call"
            return (yield from _take(tried, name, _THOUGHT_AND_TEXT, writing))
    return replace(plan, thoughts=False)


def _probe(plan: Plan, shape: _Shape, writing: Writing) -> Probe:
    messages = rewrite(shape.messages, plan.rewrites, writing).messages
    tools = shape.tools if plan.tools else ()  # Else a request tells them in words.
    return Probe(messages, tools, form=plan.form, thinking=shape.thinking)


def _has(text: str | Refusal, words: tuple[tuple[str, ...], ...]) -> bool:
    return isinstance(text, str) and all(_in_order(text, sequence) for sequence in words)


def _in_order(text: str, words: tuple[str, ...]) -> bool:
    """True if the words follow each other. Tools, described anywhere, may have some of them too."""
    at = 0
    return all((at := text.find(word, at)) >= 0 for word in words)


def _is_garbled(text: str | Refusal) -> bool:
    """True if arguments are written as Python writes them, or as JSON within JSON."""
    if not isinstance(text, str):
        return False
    _, _, answer = text.partition("Quokka")  # Tools may be described in any way.
    call, _, _ = answer.partition("Walrus")
    return re.search(r"""'place'\s*:|\\"place""", call) is not None


def _reason(text: str | Refusal) -> str:
    return text.reason if isinstance(text, Refusal) else "The template leaves a part of it out."

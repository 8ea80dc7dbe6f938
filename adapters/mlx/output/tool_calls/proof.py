"""Prove a notation of calls: calls that the template writes have to be read as the same calls."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

from adapters.chat_template.plan import Plan
from adapters.chat_template.probing import Probe, run
from adapters.chat_template.rewriting import rewrite
from adapters.chat_template.template import ChatTemplate, answer_probe
from adapters.mlx.output.tool_calls.span_reader import open_span
from adapters.mlx.output.tool_calls.syntax import ToolSyntax
from adapters.mlx.output.tool_calls.written_calls import TOOLS, read_page
from adapters.request import Message, TextPart, ToolCall

ID_OF_CALL = "abcdef123"
VALUES: tuple[dict[str, Any], ...] = (
    {"place": "Ushuaia", "total": 7, "whole": True},
    {},
    {"place": 'a "b" it\'s, c=d', "total": -2.5},
    {"place": "one\ntwo  three\n", "sort": "<b>x</b> {y}"},
    {"extra": {"deep": [1, "two", None], "flag": False}, "place": "Ushuaia"},
)
"""Arguments of the calls of the proof, the plainest first."""


def count_read(syntax: ToolSyntax, plan: Plan, template: ChatTemplate) -> int:
    """Return how many calls of the proof are read as the template has written them."""
    return sum(1 for call, text in written(plan, template) if read(syntax, text) == [call])


def written(plan: Plan, template: ChatTemplate) -> Iterator[tuple[ToolCall, str]]:
    """Yield the calls of the proof as the template writes them, up to the end of the turn."""
    page = run(read_page(plan, frozenset()), lambda probe: answer_probe(template, probe))
    if page is None:
        return
    for values in VALUES:
        call = ToolCall(ID_OF_CALL, TOOLS[0].name, json.dumps(values, ensure_ascii=False))
        ask = Message(role="user", content=(TextPart("Quokka"),))
        turn = Message(role="assistant", tool_calls=(call,))
        messages = rewrite((ask, turn), plan.rewrites).messages
        text = answer_probe(template, Probe(messages, TOOLS, generate=False, form=plan.form))
        if isinstance(text, str):
            yield call, page.answer(text)


def read(syntax: ToolSyntax, text: str) -> Sequence[ToolCall]:
    """Read the calls in `text`, from the opening marker on."""
    at = text.find(syntax.begin)
    if at < 0:
        return []
    reader = open_span(syntax, TOOLS, syntax.begin)
    pieces, _ = reader.feed(text[at + len(syntax.begin) :])
    pieces = [*pieces, *reader.finish()]
    names = [piece.text for piece in pieces if piece.kind == "call"]
    arguments = [piece.text for piece in pieces if piece.kind == "arguments"]
    return [
        ToolCall(ID_OF_CALL, name, json.dumps(json.loads(text), ensure_ascii=False))
        for name, text in zip(names, arguments, strict=False)
    ]

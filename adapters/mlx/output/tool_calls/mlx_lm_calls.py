"""Calls read by mlx-lm's own parsers, when the span is complete."""

import json
from collections.abc import Callable
from importlib import import_module
from typing import Any, cast

from adapters.chat_template.form import to_template_tool
from adapters.mlx.output.tool_calls.output_pieces import Piece, as_marker, as_shown
from adapters.mlx.output.tool_calls.syntax import ToolSyntax
from adapters.request import Tool

Call = tuple[str, str]
"""A function's name, and its arguments as JSON."""


class MLXLMCalls:
    def __init__(self, syntax: ToolSyntax, tools: tuple[Tool, ...]) -> None:
        self._syntax = syntax
        self._tools = tools
        self._buffer = ""
        self.called = False

    def feed(self, text: str) -> tuple[list[Piece], str | None]:
        end = self._syntax.end
        searched = max(0, len(self._buffer) - len(end) + 1)
        self._buffer += text
        at = self._buffer.find(end, searched)
        if at < 0:
            return [], None
        body, rest = self._buffer[:at], self._buffer[at + len(end) :]
        self._buffer = ""
        return self._read(body, end), rest

    def finish(self) -> list[Piece]:
        """Models that stop after a call omit its closing marker."""
        return self._read(self._buffer, "")

    def _read(self, body: str, end: str) -> list[Piece]:
        span = self._syntax.begin + body + end
        calls = parse(self._syntax.parser, body, self._tools)
        if not calls:
            return [as_shown(span)]
        self.called = True
        pieces = [as_marker(span)]
        for name, arguments in calls:
            pieces += [
                Piece("call", "", name),
                Piece("arguments", "", arguments),
                Piece("end", "", ""),
            ]
        return pieces


def parse(parser: str, body: str, tools: tuple[Tool, ...]) -> list[Call]:
    """Parse the calls in `body`; empty if one of them is not a call of these `tools`."""
    module = import_module(f"mlx_lm.tool_parsers.{parser}")
    parse_span = cast(Callable[[str, Any], Any], module.parse_tool_call)
    try:
        result = parse_span(body, [to_template_tool(tool) for tool in tools])
        return _validate(cast(list[Any], result) if isinstance(result, list) else [result], tools)
    except Exception:
        # These parsers raise any exception on malformed text, which then is not a call.
        return []


def _validate(parsed: list[Any], tools: tuple[Tool, ...]) -> list[Call]:
    names = {tool.name for tool in tools}
    calls: list[Call] = []
    for call in parsed:
        name: Any = call["name"]
        arguments: Any = call.get("arguments") or dict[str, Any]()
        if name not in names or not isinstance(arguments, dict):
            return []
        calls.append((name, json.dumps(arguments, ensure_ascii=False, allow_nan=False)))
    return calls

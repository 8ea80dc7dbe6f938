"""Calls that mlx-lm's own parsers read, once the span is closed."""

import json
from collections.abc import Callable
from importlib import import_module
from typing import Any, cast

from adapters.mlx.output.tool_calls.output_pieces import Piece, as_marker, as_shown
from adapters.mlx.output.tool_calls.syntax import ToolSyntax
from adapters.request import Tool

Call = tuple[str, str]
"""A function's name, and its arguments as JSON."""


class MLXLMCalls:
    def __init__(self, syntax: ToolSyntax, tools: tuple[Tool, ...]) -> None:
        self._syntax = syntax
        self._tools = tools
        self._held = ""
        self.called = False

    def feed(self, text: str) -> tuple[list[Piece], str | None]:
        end = self._syntax.end
        searched = max(0, len(self._held) - len(end) + 1)
        self._held += text
        at = self._held.find(end, searched)
        if at < 0:
            return [], None
        body, rest = self._held[:at], self._held[at + len(end) :]
        self._held = ""
        return self._read(body, end), rest

    def finish(self) -> list[Piece]:
        """Models that end with the call itself leave its closing marker out."""
        return self._read(self._held, "")

    def _read(self, body: str, end: str) -> list[Piece]:
        whole = self._syntax.begin + body + end
        calls = parse(self._syntax.name, body, self._tools)
        if not calls:
            return [as_shown(whole)]
        self.called = True
        pieces = [as_marker(whole)]
        for name, arguments in calls:
            pieces += [
                Piece("call", "", name),
                Piece("arguments", "", arguments),
                Piece("end", "", ""),
            ]
        return pieces


def parse(parser: str, body: str, tools: tuple[Tool, ...]) -> list[Call]:
    """The calls in `body`, or none at all where one of them is no call of these `tools`."""
    module = import_module(f"mlx_lm.tool_parsers.{parser}")
    read = cast(Callable[[str, Any], Any], module.parse_tool_call)
    try:
        found = read(body, [to_openai(tool) for tool in tools])
        several = cast(list[Any], found) if isinstance(found, list) else [found]
        return _checked(several, tools)
    except Exception:
        # Text that a model made up makes these parsers raise whatever Python has; it is no call.
        return []


def _checked(found: list[Any], tools: tuple[Tool, ...]) -> list[Call]:
    names = {tool.name for tool in tools}
    calls: list[Call] = []
    for call in found:
        name: Any = call["name"]
        arguments: Any = call.get("arguments") or dict[str, Any]()
        if name not in names or not isinstance(arguments, dict):
            return []
        calls.append((name, json.dumps(arguments, ensure_ascii=False, allow_nan=False)))
    return calls


def to_openai(tool: Tool) -> dict[str, Any]:
    """A tool as chat templates and mlx-lm's parsers expect it."""
    return {
        "type": "function",
        "function": {
            "name": tool.name,
            "description": tool.description or "",
            "parameters": tool.parameters or {"type": "object", "properties": {}},
        },
    }

"""Parser of calls with arguments one by one, such as `<parameter=city>Rome</parameter>`.

A span is read when it is complete: only then is it certain where a value ends.
"""

import ast
import json
import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, NamedTuple, cast

from adapters.mlx.output.tool_calls.output_pieces import Piece, as_marker, as_shown
from adapters.mlx.output.tool_calls.syntax import ID, INDEX, KEY, NAME, ToolSyntax
from adapters.request import Tool

_STRING = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
"""A string as JSON writes it."""


class TaggedCalls:
    def __init__(self, syntax: ToolSyntax, tools: tuple[Tool, ...]) -> None:
        self._syntax = syntax
        self._tools = {tool.name: tool for tool in tools}
        self._buffer = ""
        self.called = False

    def feed(self, text: str) -> tuple[list[Piece], str | None]:
        end = self._syntax.end
        searched = max(0, len(self._buffer) - len(end) + 1)
        self._buffer += text
        at = self._buffer.find(end, searched)
        while at >= 0 and self._is_in_string(at):
            at = self._buffer.find(end, at + 1)
        if at < 0:
            return [], None
        body, rest = self._buffer[: at + len(end)], self._buffer[at + len(end) :]
        self._buffer = ""
        return self._read(body), rest

    def _is_in_string(self, at: int) -> bool:
        parameters = self._syntax.parameters
        is_json = parameters is not None and parameters.strings_are_json
        return is_json and '"' in _STRING.sub("", self._buffer[:at])

    def finish(self) -> list[Piece]:
        """Models that stop after a call omit its closing marker."""
        return self._read(self._buffer)

    def _read(self, body: str) -> list[Piece]:
        span = self._syntax.begin + body
        calls = [] if not span else read_calls(self._syntax, span, self._tools)
        if not calls:
            return [as_shown(span)] if span else []
        self.called = True
        pieces = [as_marker(span)]
        for name, arguments in calls:
            pieces += [
                Piece("call", "", name),
                Piece("arguments", "", arguments),
                Piece("end", "", ""),
            ]
        return pieces


def read_calls(syntax: ToolSyntax, span: str, tools: dict[str, Tool]) -> list[tuple[str, str]]:
    """Return names and arguments (JSON) of the calls in `span`; empty if there is no such tool."""
    patterns = _patterns(syntax)
    calls: list[tuple[str, str]] = []
    for name, body in _bodies(patterns, syntax, span):
        if name not in tools:
            return []
        arguments = _arguments(patterns, body, _kinds(tools[name].parameters or {}))
        if arguments is None:
            return []
        calls.append((name, json.dumps(arguments, ensure_ascii=False)))
    return calls


class _Patterns(NamedTuple):
    head: re.Pattern[str]
    """From the beginning of a call to its arguments."""
    tail: re.Pattern[str]
    """After the arguments."""
    argument: re.Pattern[str]
    between: re.Pattern[str]
    is_json: bool
    """Strings are written as JSON."""


@lru_cache(maxsize=64)
def _patterns(syntax: ToolSyntax) -> _Patterns:
    parameters = syntax.parameters
    assert parameters is not None  # noqa: S101 - `tagged` syntaxes have them.
    head = loose(syntax.before_name + NAME + syntax.before_arguments)
    tail = loose(syntax.after_arguments)
    following = rf"(?={loose(parameters.between)}{_before_key(parameters.string.head)}|\s*\Z)"
    kinds = {
        (value.head, value.middle, value.tail): None
        for value in (parameters.string, parameters.other)
    }
    # What looks like the next key may stand in a string.
    any_value = f"{_STRING.pattern}|.*?" if parameters.strings_are_json else ".*?"
    written = "|".join(
        f"(?:{_argument(*value, number, following, any_value)})"
        for number, value in enumerate(kinds)
    )
    return _Patterns(
        re.compile(head, re.DOTALL),
        re.compile(tail),
        re.compile(written, re.DOTALL),
        re.compile(rf"\s*(?:{loose(parameters.between)})?\s*"),
        parameters.strings_are_json,
    )


def _argument(
    head: str, middle: str, tail: str, number: int, following: str, any_value: str
) -> str:
    """The pattern of one argument: groups `key…` and `value…`."""
    closing = loose(tail.rstrip()).replace(KEY, rf"(?P=key{number})")
    inner = re.escape(middle.rstrip("\n")) + ("\n?" if middle.endswith("\n") else "")
    outer = ("\n?" if tail.startswith("\n") else "") + closing.removeprefix(r"\s*")
    key = rf"(?P<key{number}>[^\s<>=\"':,{{}}()]+)"
    return f"{loose(head)}{key}{inner}(?P<value{number}>{any_value}){outer}{following}"


def _before_key(head: str) -> str:
    """The pattern that shows where the next argument begins."""
    return loose(head) if head.strip() else r"\s*[\w.-]+\s*[:=]"


def loose(text: str) -> str:
    """Return the pattern of a learned text: white space may be there or not."""
    holes = {NAME: r"(?P<name>[^\s<>\[\]{}()\":,]+)", ID: r"[\w.:-]+", INDEX: r"\d+"}
    parts = re.split(f"([{NAME}{ID}{INDEX}]|\\s+)", text)
    return "".join(
        holes.get(part) or (r"\s*" if part.isspace() else re.escape(part)) for part in parts if part
    )


def _bodies(patterns: _Patterns, syntax: ToolSyntax, span: str) -> Iterator[tuple[str, str]]:
    """Yield the name of each call and the text of its arguments."""
    head = patterns.head.search(span, len(syntax.begin))
    while head is not None:
        is_section = syntax.between_calls is not None
        following = patterns.head.search(span, head.end()) if is_section else None
        limit = len(span) if following is None else following.start()
        tails = [match for match in patterns.tail.finditer(span, head.end(), limit) if match[0]]
        yield head["name"], span[head.end() : tails[-1].start() if tails else limit]
        head = following


def _arguments(patterns: _Patterns, body: str, kinds: dict[str, bool]) -> dict[str, Any] | None:
    """Return the arguments by their keys; `None` if there is other text between them."""
    found: dict[str, Any] = {}
    at = 0
    for match in patterns.argument.finditer(body):
        groups = {name[:3]: text for name, text in match.groupdict().items() if text is not None}
        key, text = groups["key"], groups["val"]
        if not patterns.between.fullmatch(body, at, match.start()):
            return None
        value = _value(patterns, text, is_text=kinds.get(key))
        # A key that is repeated is an item of a list.
        found[key] = [*_items(found[key]), value] if key in found else value
        at = match.end()
    return found if patterns.between.fullmatch(body, at) else None


def _items(value: Any) -> list[Any]:
    return cast(list[Any], value) if isinstance(value, list) else [value]


def _value(patterns: _Patterns, text: str, *, is_text: bool | None) -> Any:
    """Convert the text of an argument. Python's notation occurs where templates print objects."""
    if is_text and not patterns.is_json:
        return text
    readers: tuple[Callable[[str], Any], ...] = (json.loads, ast.literal_eval)
    for read in readers:
        try:
            return read(text.strip())
        except (ValueError, SyntaxError):
            continue
    if not patterns.argument.match(text):
        return text
    nested = _arguments(patterns, text, {})
    return text if nested is None else _as_list(nested)


def _as_list(nested: dict[str, Any]) -> Any:
    """Convert nested arguments: those with one key, `item`, are a list."""
    return _items(nested["item"]) if nested.keys() == {"item"} else nested


def _kinds(schema: dict[str, Any]) -> dict[str, bool]:
    """Return whether each declared argument is a string and nothing else."""
    properties: Any = schema.get("properties") or {}
    return {
        key: isinstance(declared, dict) and is_string(declared)
        for key, declared in properties.items()
    }


def is_string(schema: Any) -> bool:
    """Return whether a schema allows strings only, as far as its `type` or `enum` says."""
    if schema.get("type") in ("string", ["string"]):
        return True
    values = schema.get("enum", [schema["const"]] if "const" in schema else None)
    return "type" not in schema and bool(values) and all(isinstance(v, str) for v in values)

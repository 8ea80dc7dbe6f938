"""Translate a Lark grammar to a regular expression, for the `pattern` of a schema.

Ollama takes no grammars, but holds a string to a pattern. A rule that has itself at its start or
end is a repetition. One that contains itself in another way is written out to a few levels: the
expression allows less than the grammar then. It does not know which of two terminals a lexer would
prefer either, so a text that matches is still to be checked.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import cache
from typing import TypeAlias

from lark import Lark as LarkParser
from lark import Token, Tree
from lark.exceptions import LarkError

from adapters.lark_terminals import TERMINALS
from adapters.ollama.translate.grammar_pattern import UnreadablePatternError

_Node: TypeAlias = Tree[Token]

_LONGEST = 8 * 1024
"""Characters of a grammar; as many are read in some 50 ms."""
_LEVELS = (3, 2, 1, 0)
"""Times that a rule may contain itself; the first that stays within the two limits below counts."""
_MOST_TEXT = 16_000
"""Characters of an expression; llama.cpp writes no slower under one of as many."""
_MOST_STEPS = 5_000
"""Nodes of the grammar that are written, each as often as it is used."""


class _TooLargeError(Exception):
    """The expression, or the work for it, is beyond its limit."""


def to_expression(grammar: str) -> str:
    """Return an expression, in Python's notation, of texts that `grammar` allows.

    Raises:
        UnreadablePatternError: it is no grammar, has what only one reader of grammars knows, or is
            too large.
    """
    if len(grammar) > _LONGEST:
        raise UnreadablePatternError("too long")
    try:
        rules = _Rules(grammar)
        for levels in _LEVELS:
            with suppress(_TooLargeError):
                text = _Writer(rules, levels).rule("start")
                if text is not None:
                    return text
    except (LarkError, RecursionError) as error:
        raise UnreadablePatternError(str(error)) from error
    raise UnreadablePatternError("too large, or without an end")


@cache
def _notation() -> LarkParser:
    """Return the parser of the notation, from Lark's own description of it."""
    return LarkParser.open_from_package(  # pyright: ignore[reportUnknownMemberType]
        "lark", "lark.lark", ("grammars",), parser="lalr", maybe_placeholders=False
    )


class _Rules:
    """The rules and terminals of a grammar, by their names."""

    def __init__(self, grammar: str) -> None:
        self.trees: dict[str, _Node] = {}
        self.expressions: dict[str, str] = {}
        """Imported terminals."""
        self.ignored: list[_Node] = []
        tree = _notation().parse(f"{grammar}\n")  # pyright: ignore[reportUnknownMemberType]
        for item in tree.children:
            self._add(_tree(item))

    def _add(self, item: _Node) -> None:
        match str(item.data):
            case "rule" | "token":
                name, parameters, *_, body = item.children
                _require(isinstance(parameters, Tree) and not parameters.children, name)
                self.trees[str(name).lstrip("!?")] = _tree(body)
            case "ignore":
                self.ignored.append(_tree(item.children[0]))
            case "import":
                path, *alias = (_names(child) for child in item.children)
                self._import(path, path[-1:], *alias)
            case "multi_import":
                path, names = (_names(child) for child in item.children)
                self._import([*path, ""], names)
            case kind:
                raise UnreadablePatternError(kind)

    def _import(self, path: list[str], names: list[str], alias: Iterable[str] = ()) -> None:
        _require(path[:-1] == ["common"], path)
        for name, own in zip(names, [*alias] or names, strict=True):
            _require(name in TERMINALS, name)
            self.expressions[own] = TERMINALS[name]


def _require(holds: bool, what: object) -> None:
    if not holds:
        raise UnreadablePatternError(str(what))


def _tree(node: _Node | Token) -> _Node:
    if isinstance(node, Token):
        raise UnreadablePatternError(node)
    return node


def _names(node: _Node | Token) -> list[str]:
    return [str(name) for name in _tree(node).scan_values(lambda part: part != ".")]


class _Writer:
    """Writes rules as expressions; `None` stands for one that allows no text."""

    def __init__(self, rules: _Rules, levels: int) -> None:
        self._rules = rules
        self._levels = levels
        self._within = Counter[str]()
        """Depth at which each rule is being written just now, within itself."""
        self._steps = 0
        self._gap = ""
        """Text that may follow a terminal."""
        self._gap = _maybe(_either([self._node(tree) for tree in rules.ignored]))

    def rule(self, name: str) -> str | None:
        """
        Raises:
            UnreadablePatternError: there is no such rule, or a part of it has no translation.
            _TooLargeError: it is too large.
        """
        if name in self._rules.expressions:
            return f"(?:{self._rules.expressions[name]}){self._gap}"
        gap = self._gap if name.isupper() else ""
        _require(name in self._rules.trees, name)
        if self._within[name] > self._levels:
            return None
        self._within[name] += 1
        own, self._gap = self._gap, "" if gap else self._gap
        text = self._alternatives(name, self._rules.trees[name])
        self._gap = own
        self._within[name] -= 1
        return text and f"{text}{gap}"

    def _alternatives(self, name: str, tree: _Node) -> str | None:
        """Write `first* base last*`, and as many after it as alternatives join two of them."""
        base: list[str | None] = []
        first, last, joints = list(base), list(base), list(base)
        for items in _alternatives_of(tree):
            starts, ends = _is_name(items[:1], name), _is_name(items[-1:], name)
            if len(items) > 1 and starts and ends:
                joints.append(self._sequence(items[1:-1]))
            elif len(items) > 1 and starts:
                last.append(self._sequence(items[1:]))
            elif len(items) > 1 and ends:
                first.append(self._sequence(items[:-1]))
            elif not starts:
                base.append(self._sequence(items))
        one = _join([_times(_either(first), 0), _either(base), _times(_either(last), 0)])
        joint = _either(joints)
        if one is None or joint is None:
            return one
        return _join([one, _times(_join([joint, one]), 0)])

    def _sequence(self, items: list[_Node]) -> str | None:
        return _join([self._node(item) for item in items])

    def _node(self, node: _Node) -> str | None:
        self._steps += 1
        if self._steps > _MOST_STEPS:
            raise _TooLargeError
        match str(node.data), node.children:
            case "expansions" | "alias" | "expansion", _:
                return _either([self._sequence(items) for items in _alternatives_of(node)])
            case "maybe", [inner]:
                return _maybe(self._node(_tree(inner)))
            case "expr", [inner, *times]:
                return _repeated(self._node(_tree(inner)), [str(time) for time in times])
            case "name", [name]:
                return self.rule(str(name))
            case "literal", [token]:
                return f"{_literal(str(token))}{self._gap}"
            case "literal_range", [low, high]:
                return f"[{_one(str(low))}-{_one(str(high))}]{self._gap}"
            case kind, _:
                raise UnreadablePatternError(kind)


def _alternatives_of(node: _Node) -> Iterator[list[_Node]]:
    """Give the parts of each alternative."""
    match str(node.data):
        case "expansions":
            for child in node.children:
                yield from _alternatives_of(_tree(child))
        case "alias":
            yield from _alternatives_of(_tree(node.children[0]))
        case "expansion":
            yield [_tree(child) for child in node.children]
        case _:
            yield [node]


def _is_name(items: list[_Node], name: str) -> bool:
    return bool(items) and items[0].data == "name" and items[0].children == [name]


def _either(parts: list[str | None]) -> str | None:
    some = [part for part in dict.fromkeys(parts) if part is not None]
    if len(some) < 2:
        return some[0] if some else None
    return f"(?:{'|'.join(some)})"


def _join(parts: list[str | None]) -> str | None:
    some = [part for part in parts if part is not None]
    if len(some) < len(parts):
        return None
    text = "".join(some)
    if len(text) > _MOST_TEXT:
        raise _TooLargeError
    return text


def _repeated(part: str | None, times: list[str]) -> str | None:
    match times:
        case ["?"]:
            return _maybe(part)
        case ["*"]:
            return _times(part, 0)
        case ["+"]:
            return _times(part, 1)
        case _:
            return _times(part, int(times[0]), times[-1])


def _times(part: str | None, least: int, most: str = "") -> str | None:
    """Repeat `part`; `most` is empty where there is no limit."""
    if not part:
        return part if least else ""
    return f"(?:{part}){{{least},{most}}}"


def _maybe(part: str | None) -> str:
    return f"(?:{part})?" if part else ""


def _literal(token: str) -> str:
    """Write a text in quotation marks or an expression between slashes."""
    body, flags = token[1 : token.rindex(token[0])], token[token.rindex(token[0]) + 1 :]
    if token[0] == "/":
        _require(flags in ("", "u"), token)
        body = body.replace("\\/", "/")
        return f"(?:{body})"
    text = _unescaped(body)
    if flags:
        return "".join(f"[{re.escape(c.lower())}{re.escape(c.upper())}]" for c in text)
    return re.escape(text)


def _one(token: str) -> str:
    text = _unescaped(token[1:-1])
    _require(len(text) == 1, token)
    return re.escape(text)


def _unescaped(body: str) -> str:
    try:
        return str(json.loads(f'"{body}"'))
    except ValueError as error:
        raise UnreadablePatternError(body) from error

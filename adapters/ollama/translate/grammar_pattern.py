"""Translate a `pattern` to the few regular expressions that llama.cpp reads.

Its reader has no `\\d`, `\\w` or `\\s`, demands `^` and `$`, and lets `.` and `[^a]` write a bare
quotation mark, which ends the string. The result has only plain letters and digits, classes of
hexadecimal escapes, groups, `|` and repetitions, and matches JSON text as it is written, with
escapes.

Source: `_visit_pattern` in llama.cpp's `common/json-schema-to-grammar.cpp`, and the answers of a
0.33.
"""

# pyright: basic
# The standard library's parser of patterns has no types.
import functools
import re
import unicodedata
from collections.abc import Iterable, Sequence
from re import _parser  # type: ignore[attr-defined]
from typing import Any

_Ranges = list[tuple[int, int]]

_TOP = 0x10FFFF
_BASIC = 0x10000
_UNWRITTEN: _Ranges = [(0, 0x1F), (0x22, 0x22), (0x5C, 0x5C), (0xD800, 0xDFFF)]
"""Characters that JSON does not hold as they are."""
_ESCAPES = {0x22: '"', 0x5C: "\\", 0x08: "b", 0x09: "t", 0x0A: "n", 0x0C: "f", 0x0D: "r"}
_CATEGORIES: dict[str, _Ranges] = {
    "CATEGORY_DIGIT": [(0x30, 0x39)],
    "CATEGORY_WORD": [(0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A)],
    "CATEGORY_SPACE": [(0x09, 0x0D), (0x20, 0x20)],
}
"""ASCII only, as in JavaScript: JSON Schema has the patterns of JavaScript."""
MOST_REPEATS = 1500
"""llama.cpp refuses 2000, and reads more than that as no limit."""


class UnreadablePatternError(ValueError):
    """The pattern has no translation."""


def to_grammar_pattern(pattern: str) -> str:
    """Return a pattern for the JSON text of a string that `pattern` matches somewhere.

    Raises:
        UnreadablePatternError: it is invalid, or has a look-ahead, a back reference, a word
            boundary, ….
    """
    try:
        parsed = _parser.parse(_as_in_python(pattern))
        if parsed.state.flags & ~re.UNICODE:
            raise UnreadablePatternError(pattern)
        return f"^{_sequence(list(parsed), True, True)}$"
    except (re.error, RecursionError, OverflowError) as error:
        raise UnreadablePatternError(pattern) from error


_TOKEN = re.compile(r"\\([pP])\{(\w+)\}|\\.|\(\?<(?![=!])|.", re.DOTALL)


def _as_in_python(pattern: str) -> str:
    """Write the names of groups and the categories of characters in JavaScript as Python does."""
    written: list[str] = []
    in_class = False
    for token in _TOKEN.finditer(pattern):
        text = token[0]
        if token[1]:
            ranges = _of_category(token[2])
            ranges = ranges if token[1] == "p" else _complement(ranges)
            spans = "".join(f"\\U{low:08x}-\\U{high:08x}" for low, high in ranges)
            text = spans if in_class else f"[{spans}]"
        elif text == "(?<" and not in_class:
            text = "(?P<"
        elif text in ("[", "]"):
            in_class = text == "["
        written.append(text)
    return "".join(written)


@functools.cache
def _of_category(name: str) -> _Ranges:
    """Return the characters of a general category, such as `L` or `Lu`.

    Those beyond the first 65,536 are left out: a grammar may allow less than a pattern.
    """
    ranges: _Ranges = []
    for code in range(_BASIC):
        if unicodedata.category(chr(code)).startswith(name):
            if ranges and ranges[-1][1] == code - 1:
                ranges[-1] = (ranges[-1][0], code)
            else:
                ranges.append((code, code))
    if not ranges:
        raise UnreadablePatternError(name)
    return ranges


def _sequence(items: Sequence[Any], open_start: bool, open_end: bool) -> str:
    """`open_start`, `open_end`: any text may come before, or after, unless an anchor excludes it.

    A group at the start or the end may have the anchor inside, so it has the text inside as well.
    """
    if open_start and items and _is(items[0], "AT", "AT_BEGINNING"):
        items, open_start = items[1:], False
    if open_end and items and _is(items[-1], "AT", "AT_END"):
        items, open_end = items[:-1], False
    if not items:
        return _FREE if open_start or open_end else ""
    before = open_start and not _is_group(items[0])
    after = open_end and not _is_group(items[-1])
    last = len(items) - 1
    parts = [
        _item(item, open_start and at == 0, open_end and at == last)
        for at, item in enumerate(items)
    ]
    return f"{_FREE if before else ''}{''.join(parts)}{_FREE if after else ''}"


def _is(item: Any, op: str, value: str) -> bool:
    return str(item[0]) == op and str(item[1]) == value


def _is_group(item: Any) -> bool:
    return str(item[0]) in ("BRANCH", "SUBPATTERN")


def _item(item: Any, open_start: bool, open_end: bool) -> str:
    op, value = item
    match str(op):
        case "LITERAL":
            return _character(value)
        case "NOT_LITERAL":
            return _class(_complement([(value, value)]))
        case "ANY":
            return _class(_complement([(0x0A, 0x0A), (0x0D, 0x0D)]))
        case "IN":
            return _in(value)
        case "BRANCH":
            return _branches([_sequence(part, open_start, open_end) for part in value[1]])
        case "SUBPATTERN":
            if value[1] or value[2]:  # Flags that hold inside.
                raise UnreadablePatternError(str(value))
            return _branches([_sequence(value[3], open_start, open_end)])
        case "MAX_REPEAT" | "MIN_REPEAT":
            return _repeat(*value)
        case _:
            raise UnreadablePatternError(str(op))


def _branches(parts: Sequence[str]) -> str:
    some = [part for part in parts if part]
    if not some:
        return ""
    return f"({'|'.join(some)})" + ("?" if len(some) < len(parts) else "")


def _repeat(least: int, most: Any, items: Any) -> str:
    part = _sequence(list(items), False, False)
    endless = str(most) == "MAXREPEAT"
    if least > MOST_REPEATS or not (endless or most <= MOST_REPEATS):
        raise UnreadablePatternError("too many repetitions")
    return f"({part}){{{least},{'' if endless else most}}}" if part else ""


def _in(items: Iterable[Any]) -> str:
    ranges: _Ranges = []
    negated = False
    for op, value in items:
        match str(op):
            case "NEGATE":
                negated = True
            case "LITERAL":
                ranges.append((value, value))
            case "RANGE":
                ranges.append(value)
            case "CATEGORY":
                ranges += _category(str(value))
            case _:
                raise UnreadablePatternError(str(op))
    return _class(_complement(ranges) if negated else ranges)


def _category(name: str) -> _Ranges:
    if name in _CATEGORIES:
        return _CATEGORIES[name]
    return _complement(_CATEGORIES[name.replace("CATEGORY_NOT_", "CATEGORY_")])


def _complement(ranges: _Ranges) -> _Ranges:
    rest: _Ranges = []
    start = 0
    for low, high in sorted(ranges):
        if low > start:
            rest.append((start, low - 1))
        start = max(start, high + 1)
    return [*rest, (start, _TOP)] if start <= _TOP else rest


def _character(code: int) -> str:
    character = chr(code)
    if character.isascii() and character.isalnum():
        return character
    return _class([(code, code)])


def _class(ranges: _Ranges) -> str:
    """Return the class of `ranges`, with those characters that JSON writes escaped."""
    allowed = _complement([*_UNWRITTEN, *_complement(ranges)])
    parts = [f"[{''.join(_span(low, high) for low, high in allowed)}]"] if allowed else []
    written = (code for code in _ESCAPES if any(low <= code <= high for low, high in ranges))
    parts += [f"[{_hex(0x5C)}][{_hex(ord(_ESCAPES[code]))}]" for code in written]
    if not parts:
        raise UnreadablePatternError("an empty class")
    return parts[0] if len(parts) == 1 and allowed else f"({'|'.join(parts)})"


def _span(low: int, high: int) -> str:
    return _hex(low) if low == high else f"{_hex(low)}-{_hex(high)}"


def _hex(code: int) -> str:
    return f"\\x{code:02X}" if code < 0x100 else f"\\U{code:08X}"


_FREE = _class([(0, _TOP)]) + "*"

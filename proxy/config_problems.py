"""Problems of `config.yaml`: each with its file, line and key."""

import difflib
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from proxy.durations import to_seconds

if TYPE_CHECKING:
    from msgspec import inspect

_T = TypeVar("_T")
_UNKNOWN = re.compile(r"Object contains unknown field `([^`]+)`")
_TAB = re.compile(rb"^ *\t\s*\S", re.MULTILINE)
_STEPS = re.compile(r"\.(\w+)|\[\d+\]")
"""The steps of a path such as `$.keys[0].role`: names, and nothing for an item."""


class Problem(Struct, frozen=True, kw_only=True):
    """One thing that is wrong."""

    message: str
    key: str = ""
    """A path such as `$.server.port`; empty for the file as a whole."""
    file: str | None = None
    line: int | None = None

    def __str__(self) -> str:
        line = f"line {self.line}" if self.line is not None else None
        return ": ".join(part for part in (self.file, line, self.key, self.message) if part)


class ConfigError(Exception):
    """The configuration cannot be used; the text names file, line and key of each problem."""

    def __init__(self, *problems: Problem | str) -> None:
        self.problems = tuple(to_problem(p) if isinstance(p, str) else p for p in problems)
        super().__init__("\n".join(map(str, self.problems)))


class Collector:
    """Runs steps of decoding, and keeps what is wrong instead of stopping at the first problem."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []

    def attempt(self, step: Callable[..., _T], *arguments: object) -> _T | None:
        """Return the result of `step`; `None` where it raises `ValueError`, with the text
        `KEY: message`."""
        try:
            return step(*arguments)
        except ValueError as exc:
            self.problems.append(to_problem(exc))
            return None

    def fields(self, values: dict[str, Any], form: type[_T], key: str) -> _T | None:
        """Convert `values`, the settings below `key`; every wrong one of them is a problem."""
        before = len(self.problems)
        for name, value in values.items():
            self.attempt(convert, {name: value}, form, key)
        return None if len(self.problems) > before else self.attempt(convert, values, form, key)


def convert(value: object, form: type[_T], key: str, *, strict: bool = True) -> _T:
    """`value` as a `form`.

    Raises:
        ValueError: it is not; the text begins with `key`, or a key below it.
    """
    try:
        return msgspec.convert(value, form, strict=strict)
    except msgspec.ValidationError as exc:
        from msgspec import inspect  # Most starts have neither a problem nor a duration as a text.

        if (changed := _with_seconds(value, inspect.type_info(form))) != value:
            return convert(changed, form, key, strict=strict)
        where, what = split(exc)
        hint = _suggest(what, form) if _UNKNOWN.match(what) else _with_choices(what, form, where)
        raise ValueError(f"{key}{where.removeprefix('$')}: {hint}") from exc


def _with_seconds(value: object, found: "inspect.Type | None") -> Any:
    """Return `value` with seconds for durations such as `5m`, where `found` has numbers."""
    match value:
        case str() if _is_duration(found):
            seconds = to_seconds(value)
            return value if seconds is None else seconds
        case dict():
            fields = cast(dict[str, object], value)
            return {name: _with_seconds(each, _below(found, name)) for name, each in fields.items()}
        case _:
            return value


def _is_duration(found: "inspect.Type | None") -> bool:
    """Return whether a setting is a time: every number that is not an integer is one."""
    from msgspec import inspect

    return any(isinstance(kind, inspect.FloatType) for kind in _options(found))


def _with_choices(message: str, form: Any, where: str) -> str:
    """Add the values that the setting at the path `where` of `form` may have, if they are few."""
    from msgspec import inspect  # Most starts have no problem.

    found: inspect.Type | None = inspect.type_info(form)
    for name in _STEPS.findall(where):
        found = _below(found, name)
    if _is_duration(found) and message.endswith("got `str`"):
        return f"{message}; use seconds, or a duration such as 5m or 1h30m"
    values = [value for kind in _options(found) for value in getattr(kind, "values", ())]
    return f"{message}; use {' or '.join(map(str, values))}" if values else message


def _options(found: "inspect.Type | None") -> "Sequence[inspect.Type]":
    """The types of a union, or the one type."""
    return getattr(found, "types", [found] if found is not None else [])


def _below(found: "inspect.Type | None", name: str) -> "inspect.Type | None":
    """The type of the field or entry `name`, or of the items where there is no name."""
    for kind in _options(found):
        if name and hasattr(kind, "fields"):
            fields: Sequence[inspect.Field] = getattr(kind, "fields")  # noqa: B009
            return next((field.type for field in fields if field.encode_name == name), None)
        if name and hasattr(kind, "value_type"):
            return getattr(kind, "value_type")  # noqa: B009
        if not name and hasattr(kind, "item_type"):
            return getattr(kind, "item_type")  # noqa: B009
    return None


def _suggest(message: str, form: Any) -> str:
    """Add the known key that an unknown one resembles."""
    unknown = _UNKNOWN.match(message)
    known = getattr(form, "__struct_encode_fields__", ())
    alike = difflib.get_close_matches(unknown[1], known, n=1) if unknown else []
    return f"{message}; did you mean `{alike[0]}`?" if alike else message


def split(exc: Exception | str) -> tuple[str, str]:
    """The key, empty where the text has none, and the rest of msgspec's text."""
    text = " ".join(str(exc).split()).replace('in "<byte string>", ', "at ")
    what, _, where = text.partition(" - at ")
    return where.strip("`"), what


def to_problem(exc: Exception | str) -> Problem:
    """Read `$.server.port: Expected …`; the key may have colons, as tags of models have."""
    where, what = split(exc)
    if not where and what.startswith("$"):
        where, _, what = what.partition(": ")
    return Problem(key=where, message=what)


def located(problems: Iterable[Problem], path: Path, text: bytes) -> ConfigError:
    """Complete `problems` with the file and the lines of their keys in `text`."""
    import yaml  # Most starts have no problem, or no file.

    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        root: Any = yaml.compose(text, Loader=loader)  # pyright: ignore
    except (yaml.YAMLError, ValueError) as exc:
        mark = getattr(exc, "problem_mark", None)
        line = None if mark is None else mark.line + 1
        found = (_with_tab(problem, text) for problem in problems)
        return ConfigError(*(replace(problem, file=str(path), line=line) for problem in found))
    return ConfigError(
        *(replace(problem, file=str(path), line=_line(root, problem)) for problem in problems)
    )


def _with_tab(problem: Problem, text: bytes) -> Problem:
    """Name the usual reason of a file that is not YAML, if it is there."""
    if (tab := _TAB.search(text)) is None:
        return problem
    line = text.count(b"\n", 0, tab.start()) + 1
    reason = f"line {line} begins with a tab, and YAML takes spaces only"
    return replace(problem, message=f"{problem.message}; {reason}")


def _line(node: Any, problem: Problem) -> int | None:
    """The line of the key that is wrong, or of the nearest key above it that is in the file."""
    import yaml

    rest = problem.key.removeprefix("$")
    if unknown := _UNKNOWN.match(problem.message):
        rest += f".{unknown[1]}"
    line: int | None = None
    while rest and isinstance(node, yaml.MappingNode):
        # A key may contain dots itself, as `llama3.2`: the longest that fits is meant.
        fitting = [
            (str(key.value), key, value)
            for key, value in node.value
            if _is_next(str(key.value), rest)
        ]
        if not fitting:
            break
        name, key, node = max(fitting, key=lambda item: len(item[0]))
        line = key.start_mark.line + 1
        rest = rest.removeprefix(".").removeprefix(repr(name)).removeprefix(name)
    return line


def _is_next(name: str, rest: str) -> bool:
    return any(rest == f".{n}" or rest.startswith((f".{n}.", f".{n}[")) for n in (name, repr(name)))

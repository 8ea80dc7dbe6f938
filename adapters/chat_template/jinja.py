"""Render Jinja chat templates as their authors' tools do, which are more lenient than one another.

The environment is that of transformers (sandbox, `tojson`, `raise_exception`, `strftime_now`,
`{% generation %}`, loop controls), with three differences, each for published templates: lists of
the template's own have `append`; a missing value has missing attributes and adds nothing to a text;
and there are `functions` and `datetime`.

Source: transformers.utils.chat_template_utils (5.23)
"""

# pyright: basic
# Values in templates have no types, nor have Jinja's filters.
import json
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import cache, lru_cache
from typing import Any, NamedTuple

from jinja2 import ChainableUndefined, Template, TemplateError, nodes
from jinja2.ext import Extension, LoopControlExtension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment


class TemplateRefusalError(Exception):
    """The template refuses the conversation; the text is its own reason."""


class _Missing(ChainableUndefined):
    """A missing value: it has missing attributes, and adds nothing to a text."""

    def __add__(self, other: Any) -> Any:
        return other if isinstance(other, str) else super().__add__(other)

    def __radd__(self, other: Any) -> Any:
        return other if isinstance(other, str) else super().__radd__(other)


class _Generation(Extension):
    """`{% generation %}` marks what the model wrote, for training: here it is without effect."""

    tags = {"generation"}  # noqa: RUF012 - as the base class has it.

    def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Unlike Jinja's own filter: no characters are escaped for HTML."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
        default=_to_list,
    )


def _to_list(value: Any) -> Any:
    """Filters such as `map` make generators. Missing values are null."""
    if isinstance(value, _Missing):
        return None
    if isinstance(value, Sequence) or hasattr(value, "__next__"):
        return list(value)
    raise TypeError(f"A {type(value).__name__} cannot be written as JSON.")


def _raise(message: str) -> None:
    raise TemplateError(message)


class _Environment(ImmutableSandboxedEnvironment):
    """Templates may add to lists, and change nothing else of what they are given."""

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if attr == "append" and type(obj) is list:
            return True
        return super().is_safe_attribute(obj, attr, value)


@cache
def _environment() -> _Environment:
    environment = _Environment(
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=_Missing,
        extensions=[_Generation, LoopControlExtension],
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment


_FALLBACKS: dict[str, Callable[[Sequence[Mapping[str, Any]]], str]] = {
    "functions": lambda tools: _tojson([tool["function"] for tool in tools], indent=4),
    "datetime": lambda _: datetime.now().strftime("%Y-%m-%d %H:%M:%S"),
    "bos_token": lambda _: "",
    "eos_token": lambda _: "",
}
"""Variables of published templates that may be missing, and their texts.

Source: https://huggingface.co/fireworks-ai/llama-3-firefunction-v2 (`functions`, `datetime`)
"""


class _Compiled(NamedTuple):
    template: Template
    fallbacks: tuple[str, ...]
    """Names in `_FALLBACKS` that it may read."""


@lru_cache(maxsize=64)
def _compile(text: str) -> _Compiled:
    """Compile a template, which takes 10 to 100 ms."""
    fallbacks = tuple(name for name in _FALLBACKS if mentions(text, name))
    return _Compiled(_environment().from_string(text), fallbacks)


@lru_cache(maxsize=256)
def mentions(text: str, variable: str) -> bool:
    """Return whether the template may read a variable of this name."""
    return re.search(rf"\b{variable}\b", text) is not None


def render_template(
    text: str,
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]] | None = None,
    arguments: Mapping[str, Any] | None = None,
) -> str:
    """Render `messages`. The template may add to the lists that it is given.

    Raises:
        TemplateRefusalError: the template, or Jinja, has a reason not to.
        MemoryError: Python has none left.
    """
    try:
        template, fallbacks = _compile(text)
        given = {"messages": messages, "tools": tools, "documents": None, **(arguments or {})}
        for name in fallbacks:
            if name not in given:
                given[name] = _FALLBACKS[name](tools or ())
        return template.render(given)
    except MemoryError:
        raise
    except RecursionError as error:
        raise TemplateRefusalError("The template does not end.") from error
    except Exception as error:
        # Templates compute: whatever Python raises is about this conversation.
        raise TemplateRefusalError(str(error) or type(error).__name__) from error

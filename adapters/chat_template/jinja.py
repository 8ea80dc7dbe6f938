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
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, NamedTuple

from jinja2 import ChainableUndefined, Template, TemplateError, meta, nodes
from jinja2.ext import Extension, LoopControlExtension
from jinja2.parser import Parser
from jinja2.sandbox import SandboxedEnvironment


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


def _environment() -> SandboxedEnvironment:
    environment = SandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=_Missing,
        extensions=[_Generation, LoopControlExtension],
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment


_OLDER: dict[str, Callable[[Sequence[Mapping[str, Any]]], str]] = {
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
    variables: frozenset[str]
    """The names that it reads and does not set."""


@lru_cache(maxsize=64)
def _compile(text: str) -> _Compiled:
    environment = _environment()
    syntax = environment.parse(text)
    variables = frozenset(meta.find_undeclared_variables(syntax))
    return _Compiled(environment.from_string(syntax), variables)


def reads(text: str, variable: str) -> bool:
    """Return whether the template reads a variable of this name. False for a broken template."""
    try:
        return variable in _compile(text).variables
    except TemplateError:
        return False


def render_template(
    text: str,
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]] | None = None,
    arguments: Mapping[str, Any] | None = None,
) -> str:
    """Render `messages`. The template may change the lists and dictionaries that it is given.

    Raises:
        TemplateRefusalError: the template, or Jinja, has a reason not to.
    """
    try:
        template, variables = _compile(text)
        given = {"messages": messages, "tools": tools, "documents": None, **(arguments or {})}
        for name in variables & _OLDER.keys():
            given.setdefault(name, _OLDER[name](tools or ()))
        return template.render(given)
    except RecursionError as error:
        raise TemplateRefusalError("The template does not end.") from error
    except Exception as error:
        # Templates compute: whatever Python raises is about this conversation.
        raise TemplateRefusalError(str(error) or type(error).__name__) from error

"""Learn from a chat template how its model is talked to: once for each template.

Imports neither mlx nor transformers: the catalogue learns with it too.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from threading import Lock

from msgspec import Struct
from msgspec.structs import replace

from adapters.chat_template.folder import read_templates, special_tokens
from adapters.chat_template.plan import Plan, find_plan
from adapters.chat_template.probing import run
from adapters.chat_template.rewriting import JSON_WRITING, Writing
from adapters.chat_template.template import ChatTemplate, JinjaTemplates, answer_probe
from adapters.mlx.output.reasoning import MARKERS, reasoning_of_template
from adapters.mlx.output.tool_calls.proof import count_read
from adapters.mlx.output.tool_calls.syntax import (
    ToolSyntax,
    find_by_name,
    syntax_of_template,
)
from adapters.mlx.output.tool_calls.written_calls import learn_syntax
from adapters.mlx.output.written_thoughts import learn_markers


class Learned(Struct, frozen=True):
    """Facts about a model that its template shows."""

    plan: Plan
    """Shapes of conversations that it takes."""
    syntax: ToolSyntax | None = None
    """The notation of calls; `None` if the template has no tools."""
    markers: tuple[str, str] | None = None
    """The texts around reasoning; `None` if the template has none."""

    @property
    def writing(self) -> Writing:
        """The notation of calls and reasoning that are written in a message's text."""
        if self.syntax is not None and self.syntax.is_written:
            return Writing(self.syntax.write, self.markers)
        return JSON_WRITING._replace(thought=self.markers)

    @property
    def has_tools(self) -> bool:
        """True if the template describes tools and the notation of their calls is known."""
        return self.plan.tools and self.syntax is not None

    @property
    def notes(self) -> tuple[str, ...]:
        """Names of what is done with conversations; see `adapters.chat_template.rewriting`."""
        is_silent = self.markers is None
        return tuple(n for n in self.plan.notes if n != "thoughts-left-out" or not is_silent)


class _Known:
    """The latest results, by what they were learned from. Safe for threads."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._lock = Lock()
        self._results: OrderedDict[tuple[object, ...], Learned] = OrderedDict()

    def get(self, key: tuple[object, ...], make: Callable[[], Learned]) -> Learned:
        with self._lock:
            if key in self._results:
                self._results.move_to_end(key)
                return self._results[key]
        learned = make()
        with self._lock:
            self._results[key] = learned
            while len(self._results) > self._size:
                self._results.popitem(last=False)
        return learned


_known = _Known(512)


def learn_from_texts(
    texts: Mapping[str, str],
    tokens: Mapping[str, str],
    *,
    ends: frozenset[str] = frozenset(),
    parser: str = "",
    proved: bool = True,
) -> Learned:
    """Learn from Jinja templates; a few hundredths of a second, nothing for a template seen before.

    `tokens`: the texts of `bos_token` and the like. `ends`: those of the tokens that end an answer.
    `parser`: the parser of mlx-lm that the model's files name. `proved`: try the notation of calls
    on calls of the template, for which mlx-lm may be imported.
    """
    key = (*sorted(texts.items()), *sorted(tokens.items()), ends, parser, proved)
    template = JinjaTemplates(texts, tokens)
    text = "\n".join(texts.values())
    return _known.get(key, lambda: learn(template, text, ends=ends, parser=parser, proved=proved))


def learn_from_folder(folder: Path) -> Learned | None:
    """Learn from the files of a model, without its tokenizer; `None` if it has no template."""
    texts = read_templates(folder)
    return learn_from_texts(texts, special_tokens(folder), proved=False) if texts else None


def learn(
    template: ChatTemplate,
    text: str,
    *,
    ends: frozenset[str] = frozenset(),
    parser: str = "",
    proved: bool = True,
) -> Learned:
    """Learn by rendering; `text` is searched for what renderings do not show."""
    render = partial(answer_probe, template)
    listed_markers = reasoning_of_template(text)
    plan = run(find_plan(writing=JSON_WRITING._replace(thought=listed_markers)), render)
    markers = run(learn_markers(plan), render)
    if markers is None or listed_markers == MARKERS[0]:
        markers = listed_markers
    written = run(learn_syntax(plan, ends), render)
    listed = find_by_name(parser) or syntax_of_template(text)
    syntax = _choose(plan, written, listed if plan.tools else None, template, proved=proved)
    return Learned(plan, syntax, markers)


def _choose(
    plan: Plan,
    written: ToolSyntax | None,
    listed: ToolSyntax | None,
    template: ChatTemplate,
    *,
    proved: bool,
) -> ToolSyntax | None:
    """Return the notation that reads most calls of the template: the learned one, if several do."""
    if written is None or listed is None or not proved or written.parameters is None:
        return _with_python_tag(written, listed) or listed
    candidates = [written]
    if listed.parser and written.begin.startswith(listed.begin) and written.end == listed.end:
        marks = tuple(dict.fromkeys((*written.marks, *listed.marks)))
        parsed = replace(written, parser=listed.parser, begin=listed.begin, marks=marks)
        # Without a text before each key, values may look like keys.
        is_clear = bool(written.parameters.string.head.strip())
        candidates = [written, parsed] if is_clear else [parsed, written]
    return max(candidates, key=lambda syntax: count_read(syntax, plan, template))


def _with_python_tag(written: ToolSyntax | None, listed: ToolSyntax | None) -> ToolSyntax | None:
    """Llama may announce a call by a token that its template writes for other calls only."""
    if written is None or listed is None or listed.name != "llama" or written.begin:
        return written
    return replace(
        written, name="llama", begin=listed.begin, marks=listed.marks, between_calls="; "
    )

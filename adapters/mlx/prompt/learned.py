"""Learn from a chat template how its model is talked to: once for each template.

Imports neither mlx nor transformers: the catalogue learns with it too.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from functools import cache, partial
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from threading import Lock

from msgspec import Struct
from msgspec.structs import replace

from adapters import chat_template
from adapters.chat_template.folder import read_templates, special_tokens
from adapters.chat_template.plan import Plan, find_plan
from adapters.chat_template.probing import run
from adapters.chat_template.rewriting import JSON_WRITING, Writing
from adapters.chat_template.template import ChatTemplate, JinjaTemplates, answer_probe
from adapters.chat_template.thought_markers import MARKERS, markers_of_template
from adapters.mlx.kept_results import keep_result, read_result
from adapters.mlx.output.tool_calls.proof import count_read
from adapters.mlx.output.tool_calls.syntax import (
    ToolSyntax,
    find_by_name,
    syntax_of_template,
)
from adapters.mlx.output.tool_calls.written_calls import learn_syntax
from adapters.mlx.output.written_thoughts import learn_markers
from adapters.mlx.prompt.efforts import find_efforts

_FOLDER = "templates"
_PROBING = (
    Path(chat_template.__file__).parent,
    Path(__file__).parent,
    Path(__file__).parents[1] / "output",
)
"""The folders of the code that decides what is learned."""


class Learned(Struct, frozen=True):
    """Facts about a model that its template shows."""

    plan: Plan
    """Shapes of conversations that it takes."""
    syntax: ToolSyntax | None = None
    """The notation of calls; `None` if the template has no tools."""
    markers: tuple[str, str] | None = None
    """The texts around reasoning; `None` if the template has none."""
    efforts: dict[str, str] = {}
    """See `efforts.find_efforts`."""

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


class _Kept(Struct, frozen=True):
    """A result on the disk."""

    edition: str
    learned: Learned


@cache
def _edition() -> str:
    """Identify the code that probes and renders: what another one learned is not used."""
    digest = sha256(repr([_version(name) for name in ("jinja2", "mlx-lm")]).encode())
    for folder in _PROBING:
        for file in sorted(folder.rglob("*.py")):
            digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None  # Folders are listed without mlx-lm too.


class _Known:
    """The latest results, by what they were learned from. Safe for threads: what one is learning
    others wait for."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._lock = Lock()
        self._results: OrderedDict[str, Future[Learned]] = OrderedDict()

    def get(self, key: str, make: Callable[[], Learned]) -> Learned:
        with self._lock:
            future = self._results.get(key)
            is_mine = future is None
            if future is None:
                future = self._results[key] = Future()
            self._results.move_to_end(key)
            while len(self._results) > self._size:
                self._results.popitem(last=False)
        if is_mine:
            self._fill(key, future, make)
        return future.result()

    def _fill(self, key: str, future: Future[Learned], make: Callable[[], Learned]) -> None:
        try:
            future.set_result(make())
        except BaseException as error:
            with self._lock:
                self._results.pop(key, None)
            future.set_exception(error)


_known = _Known(512)


def learn_from_texts(
    texts: Mapping[str, str],
    tokens: Mapping[str, str],
    *,
    ends: frozenset[str] = frozenset(),
    parser: str = "",
    proved: bool = True,
) -> Learned:
    """Learn from Jinja templates, once for each: results are kept in the user's state folder.

    `tokens`: the texts of `bos_token` and the like. `ends`: those of the tokens that end an answer.
    `parser`: the parser of mlx-lm that the model's files name. `proved`: try the notation of calls
    on calls of the template, for which mlx-lm may be imported.
    """
    given = (sorted(texts.items()), sorted(tokens.items()), sorted(ends), parser, proved)
    key = sha256(repr(given).encode()).hexdigest()[:32]
    template = JinjaTemplates(texts, tokens)

    def make() -> Learned:
        kept = read_result(_FOLDER, key, _Kept)
        if kept is not None and kept.edition == _edition():
            return kept.learned
        text = "\n".join(texts.values())
        learned = learn(template, text, ends=ends, parser=parser, proved=proved)
        keep_result(_FOLDER, key, _Kept(_edition(), learned))
        return learned

    return _known.get(key, make)


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
    listed_markers = markers_of_template(text)
    plan = run(find_plan(writing=JSON_WRITING._replace(thought=listed_markers)), render)
    markers = run(learn_markers(plan), render)
    if markers is None or listed_markers == MARKERS[0]:
        markers = listed_markers
    efforts = run(find_efforts(plan), render) if "reasoning_effort" in text else {}
    written = run(learn_syntax(plan, ends, markers), render)
    listed = find_by_name(parser) or syntax_of_template(text)
    syntax = _choose(plan, written, listed if plan.tools else None, template, proved=proved)
    return Learned(plan, syntax, markers, efforts)


def _choose(
    plan: Plan,
    written: ToolSyntax | None,
    listed: ToolSyntax | None,
    template: ChatTemplate,
    *,
    proved: bool,
) -> ToolSyntax | None:
    """Return the notation that reads most calls of the template: the learned one, if several do.

    One that reads none is left out. Channels are read by their names.
    """
    is_read_back = written is not None and written.body != "harmony" and proved
    if written is not None and is_read_back and not count_read(written, plan, template):
        written = None
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

"""Split an answer into its sections: reasoning, content, tool calls."""

from collections.abc import Callable
from typing import Literal, Protocol

from adapters.mlx.output.reasoning import Reasoning
from adapters.mlx.output.tool_calls.harmony import HarmonyReader
from adapters.mlx.output.tool_calls.output_pieces import (
    Piece,
    SpanReader,
    as_marker,
    as_shown,
    split_marks,
)
from adapters.mlx.output.tool_calls.span_reader import open_span
from adapters.mlx.output.tool_calls.syntax import ToolSyntax
from adapters.request import Tool
from adapters.stop_strings import overlap


class SectionReader(Protocol):
    @property
    def in_reasoning(self) -> bool: ...
    def feed(self, text: str) -> list[Piece]: ...
    def finish(self) -> list[Piece]:
        """Return the rest at the end of the answer."""
        ...


def create_reader(
    reasoning: Reasoning | None,
    *,
    is_open: bool,
    syntax: ToolSyntax | None,
    tools: tuple[Tool, ...],
    hidden: tuple[str, ...] = (),
    is_answering: bool = False,
) -> SectionReader | None:
    """Create the reader of one answer; `None` if all of its text is content.

    `tools`: the functions that may be called. `hidden`: the control tokens among the markers, which
    are never shown. `is_answering`: the prompt ends with the header of the final channel.
    """
    if (reasoning is not None and reasoning.is_harmony) or (
        syntax is not None and syntax.body == "harmony"
    ):
        return HarmonyReader(frozenset(tool.name for tool in tools), is_answering=is_answering)
    if reasoning is None and not (syntax is not None and tools):
        return None
    taught = syntax if tools else None
    return Sections(reasoning, is_open=is_open, syntax=taught, tools=tools, hidden=hidden)


class Sections:
    """Splits text at markers. Reasoning is at the beginning only, or after a call; calls open with
    their marker anywhere, or bare at the beginning. Text that is no call after all is content."""

    def __init__(
        self,
        reasoning: Reasoning | None,
        *,
        is_open: bool,
        syntax: ToolSyntax | None,
        tools: tuple[Tool, ...],
        hidden: tuple[str, ...] = (),
    ) -> None:
        self._think = reasoning
        self._syntax = syntax
        self._tools = tools
        self._begin = syntax.begin if syntax is not None else ""
        self._bare = syntax is not None and syntax.is_bare
        self._marks = hidden
        self._text = ""
        self._space = ""
        self._span: SpanReader | None = None
        self._state: Literal["start", "content", "reasoning", "span"] = "start"
        # White space after reasoning or a call belongs to neither.
        self._trims = False
        self._fresh = False
        if is_open:
            self._begin_reasoning()

    @property
    def in_reasoning(self) -> bool:
        return self._state == "reasoning"

    def feed(self, text: str) -> list[Piece]:
        self._text += text
        pieces: list[Piece] = []
        steps: dict[str, Callable[[], list[Piece]]] = {
            "start": self._read_start,
            "content": self._read_content,
            "reasoning": self._read_reasoning,
            "span": self._read_span,
        }
        while True:
            before = self._state, len(self._text)
            pieces += steps[self._state]()
            if before == (self._state, len(self._text)) or not self._text:
                return pieces

    def finish(self) -> list[Piece]:
        if self._state == "span" and self._span is not None:
            pieces = self._resolve(self._span.finish())
        elif self._state == "reasoning":
            rest = self._text
            pieces = [Piece("reasoning", rest, rest)] if rest else []
        elif self._state == "start" and self._trims and not self._text.strip():
            pieces = [as_marker(self._text)] if self._text else []
        else:
            pieces = split_marks(self._space + self._text, self._marks, "content")
        self._text = self._space = ""
        return pieces

    def _read_start(self) -> list[Piece]:
        bare = self._text.lstrip()
        space = self._text[: len(self._text) - len(bare)]
        think = self._think.start if self._think is not None else ""
        openings = [opening for opening in (think, self._begin) if opening]
        if not bare or any(len(bare) < len(o) and o.startswith(bare) for o in openings):
            return []
        if think and bare.startswith(think):
            self._text = bare[len(think) :]
            self._begin_reasoning()
            return [as_marker(space + think)]
        if self._bare and self._may_call(bare):
            self._text = bare
            return self._open("", space)
        self._state = "content"
        if space and self._trims:
            self._text = bare
            return [as_marker(space)]
        return []

    def _may_call(self, text: str) -> bool:
        """Return whether a bare call may begin with `text`: as JSON, or with a function's name."""
        if self._syntax is not None and self._syntax.body == "header":
            return any(
                text.startswith(tool.name) or tool.name.startswith(text) for tool in self._tools
            )
        return text[0] in "{["

    def _read_content(self) -> list[Piece]:
        marks = [mark for mark in (self._begin, *self._marks) if mark]
        positions = [(at, -len(m), m) for m in marks if (at := self._text.find(m)) >= 0]
        if not positions:
            return self._show_certain(marks)
        at, _, mark = min(positions)
        before, self._text = self._text[:at], self._text[at + len(mark) :]
        if mark != self._begin:
            shown = self._space + before
            self._space = ""
            return [*([as_shown(shown)] if shown else []), as_marker(mark)]
        kept = before.rstrip()
        pieces = [as_shown(self._space + kept)] if kept else []
        return pieces + self._open(mark, before[len(kept) :] if kept else self._space + before)

    def _show_certain(self, marks: list[str]) -> list[Piece]:
        """Return the text that cannot become a marker, nor white space before one."""
        text, self._text = self._text, ""
        keep = max((overlap(text, mark) for mark in marks), default=0)
        text, self._text = text[: len(text) - keep], text[len(text) - keep :]
        if self._begin:
            kept = text.rstrip()
            if not kept:
                self._space += text
                return []
            text, self._space = self._space + kept, text[len(kept) :]
        return [as_shown(text)] if text else []

    def _open(self, begin: str, space: str) -> list[Piece]:
        assert self._syntax is not None  # noqa: S101 - only syntaxes have markers.
        self._space = space
        self._span = open_span(self._syntax, self._tools, begin)
        self._state = "span"
        return []

    def _read_span(self) -> list[Piece]:
        assert self._span is not None  # noqa: S101 - the state says so.
        text, self._text = self._text, ""
        pieces, rest = self._span.feed(text)
        if pieces or rest is not None:
            pieces = self._resolve(pieces)
        if rest is not None:
            self._trims = self._span.called
            self._state = "start" if self._span.called else "content"
            self._text, self._span = rest, None
        return pieces

    def _resolve(self, pieces: list[Piece]) -> list[Piece]:
        """Drop white space before a call; before text that was no call it is content."""
        space, self._space = self._space, ""
        called = self._span is not None and self._span.called
        before = as_marker(space) if called else as_shown(space)
        resolved = [before] if space else []
        for piece in pieces:
            resolved += (
                split_marks(piece.source, self._marks, "content")
                if piece.kind == "content"
                else [piece]
            )
        return resolved

    def _begin_reasoning(self) -> None:
        self._state, self._fresh = "reasoning", True

    def _read_reasoning(self) -> list[Piece]:
        assert self._think is not None  # noqa: S101 - the state says so.
        pieces: list[Piece] = []
        if self._fresh:
            bare = self._text.lstrip()
            if space := self._text[: len(self._text) - len(bare)]:
                pieces.append(as_marker(space))
            self._text, self._fresh = bare, not bare
        at = self._text.find(self._think.end)
        if at < 0:
            keep = overlap(self._text, self._think.end)
            certain = self._text[: len(self._text) - keep].rstrip()
            self._text = self._text[len(certain) :]
            return [*pieces, *([Piece("reasoning", certain, certain)] if certain else [])]
        thought = self._text[:at].rstrip()
        marker = self._text[len(thought) : at + len(self._think.end)]
        self._text = self._text[at + len(self._think.end) :]
        self._state, self._trims = "start", True
        return [
            *pieces,
            *([Piece("reasoning", thought, thought)] if thought else []),
            as_marker(marker),
        ]


def visible_texts(reasoning: Reasoning | None, syntax: ToolSyntax | None) -> tuple[str, ...]:
    """Return the texts that may consist of control tokens and that a reader has to see."""
    texts = syntax.marks if syntax is not None else ()
    texts += (syntax.begin, syntax.end) if syntax is not None else ()
    return texts + ((reasoning.start, reasoning.end) if reasoning is not None else ())

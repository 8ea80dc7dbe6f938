"""An answer that grows on the terminal: thoughts dimmed, text as markdown."""

import re
from typing import Literal

from rich.console import RenderableType
from rich.live import Live
from rich.markdown import Markdown
from rich.text import Text

_FENCE = re.compile(r"^ {0,3}(?:```|~~~)", re.MULTILINE)
_BLANK_LINES = re.compile(r"\n\s*\n(?=\S)")

Kind = Literal["thoughts", "text"]


class GrowingAnswer:
    """Prints what is complete for good, and only draws the rest anew with each piece.

    A terminal cannot draw anew what has left its screen: a long answer would be on it many times.
    """

    def __init__(self, live: Live) -> None:
        self._live = live
        self._kind: Kind = "text"
        self._rest = ""

    def add(self, kind: Kind, piece: str) -> None:
        """Show the next piece of the answer."""
        if kind != self._kind:
            self._end_kind()
            self._kind = kind
        split = split_lines if kind == "thoughts" else split_blocks
        complete, self._rest = split(self._rest + piece)
        self._live.update(_render(kind, self._rest))
        self._print(complete)

    def _end_kind(self) -> None:
        """Print the rest of the thoughts, or of the text, before the other follows."""
        rest, self._rest = self._rest, ""
        self._live.update("")
        self._print(rest)
        if self._kind == "thoughts":
            self._live.console.print()

    def _print(self, complete: str) -> None:
        if complete.strip():
            self._live.console.print(_render(self._kind, complete))
            if self._kind == "text":
                self._live.console.print()


def _render(kind: Kind, text: str) -> RenderableType:
    return Text(text, style="dim italic") if kind == "thoughts" else Markdown(text)


def split_lines(text: str) -> tuple[str, str]:
    """Split thoughts into complete lines, without the last line end, and the rest."""
    complete, _, rest = text.rpartition("\n")
    return complete, rest


def split_blocks(text: str) -> tuple[str, str]:
    """Split markdown into complete blocks and the rest.

    A block ends at blank lines outside fences of code, before a line that is not indented.
    """
    ends = [
        blank
        for blank in _BLANK_LINES.finditer(text)
        if len(_FENCE.findall(text, 0, blank.start())) % 2 == 0
    ]
    return (text[: ends[-1].start()], text[ends[-1].end() :]) if ends else ("", text)

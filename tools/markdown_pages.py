"""The Markdown of README, docs and the package READMEs: its fenced blocks, links and headings."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = (README, *DOCS)
"""Pages with snippets."""
MAPS = (ROOT / "adapters" / "README.md", ROOT / "proxy" / "README.md")
"""The READMEs of the packages."""

_FENCED = re.compile(
    r"(?:^<!-- not run: (?P<reason>.*?) -->\n)?^```(?P<language>.*)\n(?P<text>(?:.*\n)*?)^```$",
    re.MULTILINE,
)
_LINK = re.compile(r"\[[^\]]*\]\((?!https?:)([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)


class Block(Struct, frozen=True, kw_only=True):
    page: Path
    line: int
    language: str
    text: str
    reason: str | None
    """Why no test runs it, by the comment before it."""

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [
        Block(
            page=page,
            line=text.count("\n", 0, fence.start("language")) + 1,
            language=fence["language"],
            text=fence["text"],
            reason=fence["reason"],
        )
        for fence in _FENCED.finditer(text)
    ]


def prose(page: Path) -> str:
    """The page without its fenced blocks."""
    return _FENCED.sub("", page.read_text(encoding="utf-8"))


def commands(block: Block) -> Iterator[tuple[str, list[str]]]:
    """Each command of a `sh` block, as written and in words; `&&` separates commands too."""
    for line in block.text.replace("\\\n", " ").splitlines():
        for command in line.split(" && "):
            if words := shlex.split(command, comments=True):
                yield command, words


def links(page: Path) -> list[str]:
    """Targets of the page's relative links."""
    return _LINK.findall(prose(page))


def anchors(page: Path) -> set[str]:
    """GitHub's anchors of the page's headings."""
    return {_to_anchor(heading) for heading in _HEADING.findall(prose(page))}


def _to_anchor(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def with_part(page: str, begin: str, end: str, part: str) -> str:
    """Replace the text of `page` from `begin` to `end`, which stay, by `part`."""
    before, _, rest = page.partition(begin)
    _, _, after = rest.partition(end)
    return f"{before}{begin}\n{part}\n{end}{after}"

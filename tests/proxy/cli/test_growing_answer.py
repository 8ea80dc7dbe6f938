"""An answer on the terminal: every part once, however long it is."""

import io

import pytest
from rich.console import Console
from rich.live import Live

from proxy.cli.growing_answer import GrowingAnswer, Kind, split_blocks

LONG = "\n\n".join(f"paragraph {number}" for number in range(40))
PIECES: list[tuple[Kind, str]] = [
    ("thoughts", "First I th"),
    ("thoughts", "ink.\nThen I "),
    ("thoughts", "decide."),
    *[("text", word) for word in LONG.splitlines(keepends=True)],
]


def test_each_line_of_a_long_answer_is_on_the_screen_once():
    console = Console(file=io.StringIO(), force_terminal=True, width=40, height=10)
    with Live(console=console, auto_refresh=False) as live:
        answer = GrowingAnswer(live)
        for kind, piece in PIECES:
            answer.add(kind, piece)
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    parts = ["First I think.", "Then I decide.", "paragraph 0 ", "paragraph 20 ", "paragraph 39 "]
    assert [shown.count(part) for part in parts] == [1] * len(parts)


@pytest.mark.parametrize(
    ("text", "complete", "rest"),
    [
        ("one\n\ntwo", "one", "two"),
        ("one\n\n", "", "one\n\n"),
        ("- a\n\n  more of a", "", "- a\n\n  more of a"),
        ("```py\na\n\nb", "", "```py\na\n\nb"),
        ("```py\na\n\nb\n```\n\ntext", "```py\na\n\nb\n```", "text"),
    ],
)
def test_markdown_is_complete_up_to_a_blank_line_outside_code(text: str, complete: str, rest: str):
    assert split_blocks(text) == (complete, rest)

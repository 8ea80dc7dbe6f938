"""Text that is generated as a string in JSON."""

import json

import pytest

from adapters.events import Event, TextDelta, TokenLogprob
from adapters.ollama.translate.quoted_text import QuotedTextReader

TEXTS = ["", "plain", 'a "quoted" word', "back\\slash", "line\nbreak", "\U0001f600 and \u00e9"]


def read(*pieces: str) -> str:
    events: list[Event] = []
    reader = QuotedTextReader()
    reader.emit = events.append
    for piece in pieces:
        reader.take(TextDelta(piece))
    return "".join(event.text for event in events if isinstance(event, TextDelta))


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("ascii_only", [True, False])
@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_text_is_that_of_the_string_in_pieces_of_any_size(text: str, ascii_only: bool, size: int):
    quoted = json.dumps(text, ensure_ascii=ascii_only) + "\n"
    assert read(*[quoted[at : at + size] for at in range(0, len(quoted), size)]) == text


def test_nothing_follows_the_end_of_the_string():
    assert read('"a"', " and more") == "a"


def test_log_probabilities_of_quotes_are_kept():
    events: list[Event] = []
    reader = QuotedTextReader()
    reader.emit = events.append
    report = (TokenLogprob(token='"', logprob=-0.5),)
    reader.take(TextDelta('"', report))
    assert events == [TextDelta("", report)]

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


def tokens(*pieces: str) -> list[TokenLogprob]:
    events: list[Event] = []
    reader = QuotedTextReader()
    reader.emit = events.append
    for piece in pieces:
        reader.take(TextDelta(piece, (token(piece, top=(token(piece), token('"no"'))),)))
    return [t for event in events if isinstance(event, TextDelta) for t in event.logprobs or ()]


def token(text: str, top: tuple[TokenLogprob, ...] = ()) -> TokenLogprob:
    return TokenLogprob(token=text, logprob=-0.5, bytes=tuple(text.encode()), top=top)


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("ascii_only", [True, False])
@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_tokens_are_those_of_the_text(text: str, ascii_only: bool, size: int):
    quoted = json.dumps(text, ensure_ascii=ascii_only) + "\n"
    read = tokens(*[quoted[at : at + size] for at in range(0, len(quoted), size)])
    assert "".join(t.token for t in read) == text
    assert b"".join(bytes(t.bytes or ()) for t in read).decode() == text


def test_quotes_are_no_tokens_of_the_text():
    assert tokens('"', "yes", '"') == [token("yes", top=(token("yes"), token("no")))]


def test_text_that_comes_with_its_quotes_is_a_token_without_them():
    assert tokens('"yes"') == [token("yes", top=(token("yes"), token("no")))]


def test_token_of_a_part_of_a_character_keeps_its_bytes():
    part = TokenLogprob(token="\ufffd", logprob=-0.5, bytes=(0xF0, 0x9F))
    events: list[Event] = []
    reader = QuotedTextReader()
    reader.emit = events.append
    reader.take(TextDelta('"'))
    reader.take(TextDelta("", (part,)))
    assert events == [TextDelta("", (part,))]

"""Cut text for models that speak: at sentences, and for dialogues at the turns of the speakers."""

import re
from collections.abc import Iterable, Iterator

_SENTENCE_END = re.compile(r"(?<=[.!?…])[\"'”’)\]]*\s+|(?<=[。！？])|\n+")
_CLAUSE_END = re.compile(r"(?<=[,;:])\s+|(?<=[、，；：])|\s+[–—-]+\s+")
_TURN = re.compile(r"(\[S\d\])")


def to_pieces(text: str, limit: int) -> list[str]:
    """Cut `text` into pieces of at most `limit` characters, the first of one sentence.

    Sentences are joined as far as they fit; one that is too long is cut at clauses, then at words.
    Nothing but white space is lost.
    """
    sentences = list(_short(text, limit))
    return sentences[:1] + _joined(sentences[1:], limit)


def to_turns(text: str, limit: int) -> list[str]:
    """Cut a dialogue with the tags `[S1]`, `[S2]`: each piece begins with the tag of its speaker.

    A turn of `[S1]` and its answer of `[S2]` stay together where they fit. Text before the first
    tag is `[S1]`'s.
    """
    turns: list[str] = []
    for tag, words in _turns(text):
        length = limit - len(tag) - 1
        for piece in _joined(_short(words, length), length):
            turn = f"{tag} {piece}"
            answers = turns and turns[-1].startswith("[S1]") and "[S2]" not in turns[-1]
            if tag == "[S2]" and answers and len(turns[-1]) + 1 + len(turn) <= limit:
                turns[-1] = f"{turns[-1]} {turn}"
            else:
                turns.append(turn)
    return turns


def _turns(text: str) -> Iterator[tuple[str, str]]:
    before, *tagged = _TURN.split(text)
    if before.strip():
        yield "[S1]", before
    yield from zip(tagged[::2], tagged[1::2], strict=True)


def _joined(sentences: Iterable[str], limit: int) -> list[str]:
    pieces: list[str] = []
    for sentence in sentences:
        if pieces and len(pieces[-1]) + 1 + len(sentence) <= limit:
            pieces[-1] = f"{pieces[-1]} {sentence}"
        else:
            pieces.append(sentence)
    return pieces


def _short(text: str, limit: int) -> Iterator[str]:
    """Yield the sentences of `text`, and parts of those that are longer than `limit`."""
    for sentence in _parts(text, _SENTENCE_END):
        if len(sentence) <= limit:
            yield sentence
            continue
        for clause in _parts(sentence, _CLAUSE_END):
            yield from _by_words(clause, limit)


def _parts(text: str, ends: re.Pattern[str]) -> Iterator[str]:
    begin = 0
    for end in ends.finditer(text):
        if part := text[begin : end.end()].strip():
            yield part
        begin = end.end()
    if part := text[begin:].strip():
        yield part


def _by_words(text: str, limit: int) -> Iterator[str]:
    while len(text) > limit:
        cut = text.rfind(" ", 1, limit + 1)
        cut = cut if cut > 0 else limit
        yield text[:cut].strip()
        text = text[cut:].strip()
    if text:
        yield text

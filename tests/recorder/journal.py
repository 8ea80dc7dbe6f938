"""Journals of what an application sends: pieces of bodies in order, in memory or in a file."""

import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import msgspec
from msgspec import Struct


class Head(Struct, tag=True, omit_defaults=True):
    """The beginning of an answer."""

    answer: str
    """Identifies the answer among those of all processes."""
    method: str
    path: str
    status: int
    """0 for a WebSocket."""
    content_type: str
    request_headers: list[str]
    """Names, in lower case."""
    is_openai_error: bool
    """Errors of this route have OpenAI's body."""


class Piece(Struct, tag=True):
    """A part of the body, or a frame of a WebSocket."""

    answer: str
    data: bytes


class End(Struct, tag=True):
    """The end of a complete body, or of a WebSocket."""

    answer: str


Entry = Head | Piece | End
Journal = Callable[[Entry], object]
"""Takes the entries of all answers in the order in which they are sent."""

_numbers = itertools.count(1)


def new_answer() -> str:
    return f"{os.getpid()}-{next(_numbers)}"


class Answer(Struct):
    """The entries of one answer, put together."""

    head: Head
    pieces: list[bytes] = []
    complete: bool = False


def answers(entries: Iterable[Entry], unfinished: dict[str, Answer]) -> Iterator[Answer]:
    """Put `entries` together; answers without an end stay in `unfinished` for the next call."""
    for entry in entries:
        match entry:
            case Head():
                unfinished[entry.answer] = Answer(entry)
            case Piece():
                unfinished[entry.answer].pieces.append(entry.data)
            case End():
                answer = unfinished.pop(entry.answer)
                answer.complete = True
                yield answer


class FileJournal:
    """Appends to a file that several processes share; each entry is one write."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def __call__(self, entry: Entry) -> None:
        os.write(self._file, msgspec.json.encode(entry) + b"\n")


def read_file(path: Path, start: int) -> tuple[list[Entry], int]:
    """Read the entries from byte `start` on; returns them and where to go on reading."""
    if not path.exists():
        return [], start
    with path.open("rb") as file:
        file.seek(start)
        lines = file.read()
    whole = lines[: lines.rfind(b"\n") + 1]
    return msgspec.json.Decoder(Entry).decode_lines(whole), start + len(whole)

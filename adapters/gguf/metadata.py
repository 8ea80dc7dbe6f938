"""The head of a GGUF file: its metadata without its tensors, read in one go.

The `gguf` package makes several numpy objects of each token, seconds for a large vocabulary, and
maps the whole file; here nothing but the head is read.

Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from adapters.gguf.conversion import UnsupportedGGUFError

_MAGIC = b"GGUF"
_STRING, _ARRAY = 8, 9
_MOST_BYTES = 200_000_000
"""Far more than any vocabulary: a broken length must not fill the memory."""

_NUMBERS: dict[int, str] = {
    0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d",
}  # fmt: skip


def read_metadata(path: Path, wanted: Callable[[str], bool]) -> dict[str, Any]:
    """The values of the keys that are `wanted`.

    Raises:
        UnsupportedGGUFError: it is no GGUF of version 2 or 3, or it breaks off.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        try:
            return _Head(file).read(wanted)
        except (struct.error, UnicodeDecodeError, KeyError) as error:
            raise UnsupportedGGUFError(f"{path.name} is no whole GGUF.") from error


class _Head:
    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._read = 0

    def read(self, wanted: Callable[[str], bool]) -> dict[str, Any]:
        if self._take(4) != _MAGIC or self._number("I") not in (2, 3):
            raise UnsupportedGGUFError("The file is no GGUF of version 2 or 3.")
        self._number("Q")  # How many tensors there are.
        found: dict[str, Any] = {}
        for _ in range(self._number("Q")):
            key, value = self._string(), self._value(self._number("I"))
            if wanted(key):
                found[key] = value
        return found

    def _value(self, kind: int) -> Any:
        if kind == _STRING:
            return self._string()
        if kind == _ARRAY:
            return self._array(self._number("I"), self._number("Q"))
        return self._number(_NUMBERS[kind])

    def _array(self, kind: int, length: int) -> list[Any]:
        if kind in (_STRING, _ARRAY):
            return [self._value(kind) for _ in range(length)]
        size = struct.calcsize(f"<{_NUMBERS[kind]}")
        return list(struct.unpack(f"<{length}{_NUMBERS[kind]}", self._take(size * length)))

    def _string(self) -> str:
        return self._take(self._number("Q")).decode()

    def _number(self, form: str) -> Any:
        return struct.unpack(f"<{form}", self._take(struct.calcsize(f"<{form}")))[0]

    def _take(self, size: int) -> bytes:
        self._read += size
        if self._read > _MOST_BYTES:
            raise UnsupportedGGUFError("The head of the file is too long.")
        return self._file.read(size)

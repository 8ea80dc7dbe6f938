"""Read the metadata of a GGUF file without its tensors.

The `gguf` package makes several numpy objects for each token, which takes seconds for a large
vocabulary, and maps the entire file; here only the header is read.

Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from adapters.gguf.conversion import UnsupportedGGUFError

_MAGIC = b"GGUF"
_STRING, _ARRAY = 8, 9
_MAX_BYTES = 200_000_000
"""Far more than any vocabulary: a corrupt length must not fill the memory."""

_NUMBERS: dict[int, str] = {
    0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d",
}  # fmt: skip


def read_metadata(path: Path, select: Callable[[str], bool]) -> dict[str, Any]:
    """The values of all keys that `select` accepts.

    Raises:
        UnsupportedGGUFError: not a GGUF of version 2 or 3, or truncated.
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        try:
            return _HeaderReader(file).read(select)
        except (struct.error, UnicodeDecodeError, KeyError, RecursionError) as error:
            raise UnsupportedGGUFError(f"{path.name} is truncated or corrupt.") from error


class _HeaderReader:
    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._read = 0

    def read(self, select: Callable[[str], bool]) -> dict[str, Any]:
        if self._take(4) != _MAGIC or self._number("I") not in (2, 3):
            raise UnsupportedGGUFError("The file is not a GGUF of version 2 or 3.")
        self._number("Q")  # The number of tensors.
        values: dict[str, Any] = {}
        for _ in range(self._number("Q")):
            key, value = self._string(), self._value(self._number("I"))
            if select(key):
                values[key] = value
        return values

    def _value(self, kind: int) -> Any:
        if kind == _STRING:
            return self._string()
        if kind == _ARRAY:
            item, length = self._number("I"), self._number("Q")
            if item in (_STRING, _ARRAY):
                return [self._value(item) for _ in range(length)]
            size = struct.calcsize(f"<{_NUMBERS[item]}")
            return list(struct.unpack(f"<{length}{_NUMBERS[item]}", self._take(size * length)))
        return self._number(_NUMBERS[kind])

    def _string(self) -> str:
        return self._take(self._number("Q")).decode()

    def _number(self, form: str) -> Any:
        return struct.unpack(f"<{form}", self._take(struct.calcsize(f"<{form}")))[0]

    def _take(self, size: int) -> bytes:
        self._read += size
        if self._read > _MAX_BYTES:
            raise UnsupportedGGUFError("The header of the file is too long.")
        return self._file.read(size)

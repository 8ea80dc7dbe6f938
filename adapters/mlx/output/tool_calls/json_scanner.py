"""Follows JSON a character at a time, so that a call can be passed on while it is written."""

import json
import re
from typing import Literal

State = Literal[
    "value", "item", "member", "key", "colon", "after", "string", "escape", "hex", "number", "word"
]
_SPACE = " \t\n\r"
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_WORDS = {"t": "true", "f": "false", "n": "null"}
_CLOSES = {"}": "{", "]": "["}


class JSONScanner:
    """One JSON object. Line breaks inside strings are let pass, as many models write them."""

    def __init__(self) -> None:
        self.state: State = "value"
        self.depth = 0
        self._open: list[str] = []
        self._is_key = False
        self._part = ""

    @property
    def done(self) -> bool:
        return self.state == "after" and not self._open

    def feed(self, char: str) -> bool:
        """False, and nothing changed, where `char` cannot follow."""
        match self.state:
            case "string":
                return self._in_string(char)
            case "escape" | "hex":
                return self._in_escape(char)
            case "number":
                return self._in_number(char)
            case "word":
                return self._in_word(char)
            case _:
                return (char in _SPACE and not self.done) or self._between(char)

    def _between(self, char: str) -> bool:
        match self.state, char:
            case (("value" | "item"), _) if self._begin_value(char):
                return True
            case (("key" | "member"), '"'):
                self.state, self._is_key = "string", True
            case "colon", ":":
                self.state = "value"
            case "after", "," if self._open:
                self.state = "key" if self._open[-1] == "{" else "value"
            case ("after", "}" | "]") | ("member", "}") | ("item", "]"):
                return self._close(char)
            case _:
                return False
        return True

    def _begin_value(self, char: str) -> bool:
        if char in "{[":
            self._open.append(char)
            self.depth += 1
            self.state = "member" if char == "{" else "item"
        elif char == '"':
            self.state, self._is_key = "string", False
        elif char == "-" or (char.isascii() and char.isdigit()):
            self.state, self._part = "number", char
        elif char in _WORDS:
            self.state, self._part = "word", _WORDS[char][1:]
        else:
            return False
        return True

    def _close(self, char: str) -> bool:
        if not self._open or self._open[-1] != _CLOSES[char]:
            return False
        self._open.pop()
        self.depth -= 1
        self.state = "after"
        return True

    def _in_string(self, char: str) -> bool:
        if char == '"':
            self.state = "colon" if self._is_key else "after"
        elif char == "\\":
            self.state = "escape"
        return True

    def _in_escape(self, char: str) -> bool:
        if self.state == "escape" and char == "u":
            self.state, self._part = "hex", ""
            return True
        if self.state == "escape":
            valid = char in '"\\/bfnrt'
        else:
            valid = char in "0123456789abcdefABCDEF"
            self._part += char if valid else ""
        if valid and (self.state == "escape" or len(self._part) == 4):
            self.state = "string"
        return valid

    def _in_number(self, char: str) -> bool:
        if char in "0123456789.eE+-":
            self._part += char
            return True
        if not _NUMBER.fullmatch(self._part):
            return False
        self.state = "after"
        return char in _SPACE or self._between(char)

    def _in_word(self, char: str) -> bool:
        if char != self._part[0]:
            return False
        self._part = self._part[1:]
        if not self._part:
            self.state = "after"
        return True


def escaped(char: str) -> str:
    """`char` as it may stand in a JSON string, where it is a control character."""
    return json.dumps(char)[1:-1] if char < " " else char

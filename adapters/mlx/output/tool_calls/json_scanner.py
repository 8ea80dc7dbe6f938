"""Incremental JSON scanner, one character at a time: calls are streamed while they are written."""

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
    """Scan one JSON object. Line breaks in strings are accepted: many models write them."""

    def __init__(self) -> None:
        self.state: State = "value"
        self.depth = 0
        self._open: list[str] = []
        self._is_key = False
        self._token = ""

    @property
    def done(self) -> bool:
        return self.state == "after" and not self._open

    def feed(self, char: str) -> bool:
        """Accept `char`; return false, with the state unchanged, if it is not valid here."""
        match self.state:
            case "string":
                if char == '"':
                    self.state = "colon" if self._is_key else "after"
                elif char == "\\":
                    self.state = "escape"
                return True
            case "escape" | "hex":
                return self._in_escape(char)
            case "number":
                return self._in_number(char)
            case "word":
                if char != self._token[0]:
                    return False
                self._token = self._token[1:]
                if not self._token:
                    self.state = "after"
                return True
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
                if not self._open or self._open[-1] != _CLOSES[char]:
                    return False
                self._open.pop()
                self.depth -= 1
                self.state = "after"
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
            self.state, self._token = "number", char
        elif char in _WORDS:
            self.state, self._token = "word", _WORDS[char][1:]
        else:
            return False
        return True

    def _in_escape(self, char: str) -> bool:
        if self.state == "escape" and char == "u":
            self.state, self._token = "hex", ""
            return True
        if self.state == "escape":
            valid = char in '"\\/bfnrt'
        else:
            valid = char in "0123456789abcdefABCDEF"
            self._token += char if valid else ""
        if valid and (self.state == "escape" or len(self._token) == 4):
            self.state = "string"
        return valid

    def _in_number(self, char: str) -> bool:
        if char in "0123456789.eE+-":
            self._token += char
            return True
        if not _NUMBER.fullmatch(self._token):
            return False
        self.state = "after"
        return char in _SPACE or self._between(char)


def escaped(char: str) -> str:
    """Escape `char` for a JSON string if it is a control character."""
    return json.dumps(char)[1:-1] if char < " " else char

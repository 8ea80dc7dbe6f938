"""The text of a JSON string that is still being written."""

import json
import re

_COMPLETE = re.compile(r'(?:[^"\\]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*')
"""The inside of a string as far as its escapes are complete."""
_HALF_CHARACTER = re.compile(r"\\u[dD][89abAB][0-9a-fA-F]{2}$")
"""The first of two escapes that are one character."""


def complete_text(unread: str) -> tuple[str, str]:
    """Return the text up to the end of the string or to an escape that is not complete, and what
    follows, unread. Half a character without its other half is U+FFFD: no UTF-8 has it."""
    complete = _COMPLETE.match(unread)
    assert complete is not None  # noqa: S101 - it matches the empty text.
    end = complete.end()
    half = _HALF_CHARACTER.search(unread, 0, end)
    end = half.start() if half is not None else end
    text = str(json.loads(f'"{unread[:end]}"', strict=False))
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace"), unread[end:]

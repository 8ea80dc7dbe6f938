"""Text of a JSON string, cut at any place."""

import pytest

from adapters.json_text import complete_text

CUTS = [
    ("abc", "abc", ""),
    ('abc" rest', "abc", '" rest'),
    ("a\\n\\", "a\n", "\\"),
    ("a\\u00", "a", "\\u00"),
    ("\\ud83d\\ude00!", "\U0001f600!", ""),
    ("a\\ud83d", "a", "\\ud83d"),
    ("a\\ud83d\\ude", "a", "\\ud83d\\ude"),
    ("a\\ud83dbc\\ude00", "a\ufffdbc\ufffd", ""),
]


@pytest.mark.parametrize(("unread", "text", "rest"), CUTS)
def test_text_is_read_as_far_as_it_is_complete(unread: str, text: str, rest: str):
    assert complete_text(unread) == (text, rest)

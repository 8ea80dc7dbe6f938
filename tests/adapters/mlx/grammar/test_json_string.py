"""Grammars of a text, and of the same text inside a JSON string, accept the same texts."""

import json

import pytest
from llguidance import LLMatcher, LLTokenizer

from adapters.mlx.grammar.json_string import (
    NotInStringError,
    grammar_in_string,
    pattern_in_string,
)

PATCH = r"""
start: begin_patch hunk+ end_patch
begin_patch: "*** Begin Patch" LF
end_patch: "*** End Patch" LF?
hunk: add_hunk | update_hunk
add_hunk: "*** Add File: " filename LF add_line+
update_hunk: "*** Update File: " filename LF change?
filename: /(.+)/
add_line: "+" /(.*)/ LF -> line
change: (change_context | change_line)+
change_context: ("@@" | "@@ " /(.+)/) LF
change_line: ("+" | "-" | " ") /(.*)/ LF
%import common.LF
"""
GRAMMARS = {
    "lines": r"start: /[^\n]*/",
    "any text": r"start: /(?s:.*)x/",
    "classes": r'start: /["\\]+\s\w\W?/',
    "folded": r'start: "a\n\"B"i "q"',
    "flags": r'start: /(?i)\n[a-z"]+/',
    "terminal": 'start: A ".."\nA: /[^a]/',
    "repetition": 'start: "a" LETTER ~ 0..2 | LF~2 | Q~1..2 "a"?\nQ: /q/ | "é"~1\n'
    "%import common.LF\n%import common.LETTER",
    "range": r'start: " ".."~" /q/',
    "ignored": 'start: X+\nX: "a".."c"\n%ignore /[ \\n]+/',
    "alternatives": 'start: a\n  | "b" // a comment\na: /[\\n]+|x|/',
    "import": 'start: NEWLINE WS? "é"\n%import common (NEWLINE, WS)',
}
TEXTS = (
    *("", "x", '"', "\\", "\n", "a\n", "ab", 'a\n"bq', 'A\n"Bq', '"\\ q!', '\nz"', "b..", "\n.."),
    *("~q", '"q', "\\q", "a b\nc", "b", "\n\n", "\r\n \té", "é", "\x00x", "😀x", "\x1f", "a/"),
)
TOKENIZER = LLTokenizer("byte")


def accepts(grammar: str, text: str) -> bool:
    matcher = LLMatcher(TOKENIZER, grammar, log_level=0)
    assert not matcher.is_error(), matcher.get_error()
    data = list(text.encode())
    return matcher.try_consume_tokens(data) == len(data) and matcher.is_accepting()


def in_json(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]


@pytest.mark.slow
@pytest.mark.parametrize("grammar", GRAMMARS.values(), ids=GRAMMARS)
def test_rewritten_grammar_accepts_the_escaped_texts_of_the_original(grammar: str):
    rewritten = grammar_in_string(grammar)
    accepted = {text for text in TEXTS if accepts(grammar, text)}
    assert {text for text in TEXTS if accepts(rewritten, in_json(text))} == accepted
    assert accepted


@pytest.mark.parametrize(
    ("text", "is_patch"),
    [
        ('*** Begin Patch\n*** Update File: a.py\n@@ f("x")\n-\t"\\n"\n+é\n \n*** End Patch', True),
        ("*** Begin Patch\n*** Add File: a\n+\n*** End Patch\n", True),
        ("*** Begin Patch\n*** Add File: a\n*** End Patch", False),
        ("*** Begin Patch\n*** Update File: a.py\n@@f\n*** End Patch", False),
    ],
)
def test_patch_keeps_its_lines_inside_a_string(text: str, is_patch: bool):
    assert accepts(PATCH, text) is is_patch
    assert accepts(grammar_in_string(PATCH), in_json(text)) is is_patch


def test_text_without_escapes_is_no_text_of_the_rewritten_grammar():
    assert not accepts(grammar_in_string('start: "a\\nb"'), "a\nb")


def test_pattern_matches_the_whole_text():
    rewritten = pattern_in_string(r'^"\d+"$')
    assert accepts(rewritten, in_json('"12"'))
    assert not accepts(rewritten, in_json('"12" '))


@pytest.mark.parametrize(
    "grammar",
    [
        "start: <|end|>",
        "start: @other",
        'start: %json {"type": "object"}',
        "start: A\nA: /[^a]/ & /[^b]/",
        "start: ~/a/",
        r"start: /(?=a)./",
        r"start: /.*?x/",
        'start[stop="\\n"]: /.*/',
        "%import common.UNKNOWN",
    ],
)
def test_part_without_a_form_in_a_string_is_refused(grammar: str):
    with pytest.raises(NotInStringError):
        grammar_in_string(grammar)

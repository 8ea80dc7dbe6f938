"""Translation of Lark grammars to regular expressions."""

import re
from pathlib import Path
from time import process_time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adapters.ollama.translate.grammar_pattern import UnreadablePatternError, to_grammar_pattern
from adapters.ollama.translate.lark_pattern import to_expression
from adapters.request import Lark
from adapters.text_format import TextFormat

CODEX = (Path(__file__).parents[3] / "data" / "codex" / "apply_patch.lark").read_text()
SUM = """
start: sum
sum: sum ("+" | "-") product | product
product: factor (("*" | "/") factor)*
factor: INT | "(" sum ")"
%import common.INT
%import common.WS_INLINE
%ignore WS_INLINE
"""
SPACED = """
start: INT ("+" INT | "(" INT* ")")*
%import common.INT
%import common.WS
%ignore WS
"""
QUERY = """
// A comment
start: "SELECT" columns "FROM" NAME where? ";"
columns: "*" | NAME ("," NAME)*
where: "WHERE" condition ("AND" condition)*
condition: NAME OPERATOR value -> compared
OPERATOR: "=" | "<" | ">"
?value: SIGNED_NUMBER | ESCAPED_STRING
NAME: /[a-z_]+/
%import common (SIGNED_NUMBER, ESCAPED_STRING)
%import common.WS_INLINE -> SPACE
%ignore SPACE
"""
JSON = """
?start: value
?value: object | array | ESCAPED_STRING | SIGNED_NUMBER | "true" | "false" | "null"
array: "[" [value ("," value)*] "]"
object: "{" [pair ("," pair)*] "}"
pair: ESCAPED_STRING ":" value
%import common.ESCAPED_STRING
%import common.SIGNED_NUMBER
"""


def ends_of(name: str, ends: str) -> str:
    return f"start: {name}\n{name}: {ends}\nitem: /[a-z]/"


@pytest.mark.parametrize(
    ("grammar", "fitting", "others"),
    [
        ('start: "yes"i | "no"', ["yes", "YES", "yEs", "no"], ["NO", "", "yesno"]),
        (r'start: "a\n\"\u00fc." /\/[^\/]+/u', ['a\n"ü./x'], ['a\n"ü../x', "a"]),
        ('start: D~3..5 "-" H~2 D~0..1\nD: "0".."9"\nH: /[0-9a-f]/', ["123-ff"], ["1"]),
        ('start: ["a"] ("b" | "c")? "d"+ "e"*', ["d", "abdd", "cde"], ["abcd", "ab"]),
        ('start: a\na: "x" -> one\n | "y" "z"\n | -> none', ["x", "yz", ""], ["y"]),
        (ends_of("list", 'item | list "," item'), ["a", "a,b,c,d,e,f,g"], ["", "a,", ",a"]),
        (ends_of("list", 'item | item "," list'), ["a", "a,b,c,d,e,f,g"], ["", "a,", ",a"]),
        (ends_of("tree", 'tree "+" tree | "(" tree ")" | item'), ["a+b", "(a+(b))+c"], ["+", "("]),
        (ends_of("both", '"<" both | both ">" | item'), ["a", "<<a", "<a>>"], ["<>", ">a"]),
        ("start: a\na: b\nb: a | /x/", ["x"], ["", "xx"]),
        ("%import common.ESCAPED_STRING\nstart: ESCAPED_STRING", ['"a\n\\""', '""'], ['"', '"""']),
        ("%import common.C_COMMENT\nstart: C_COMMENT", ["/* a */", "/***/"], ["/* a */ b */"]),
        (SUM, ["1", "1+2", "(1 + 2) * (3-4)/5", "((1))"], ["1+", "()", "+1"]),
        (QUERY, ["SELECT a, b FROM t WHERE a = -1.5 AND b<\"x\\\"y\";"], ["SELECT FROM t;"]),
        (JSON, ['{"a":[1,{}],"c":""}', "[]"], ["{", "[1,]"]),
        (CODEX, ["*** Begin Patch\n*** Update File: a b\n@@\n-x\n+\"\\\t\n*** End Patch"], [""]),
    ],
)  # fmt: skip
def test_expression_allows_what_the_grammar_allows(
    grammar: str, fitting: list[str], others: list[str]
):
    form = TextFormat(Lark(grammar), "format")
    expression = to_expression(grammar)
    assert to_grammar_pattern(f"^(?:{expression})$")
    for texts, fits in ((fitting, True), (others, False)):
        assert [form.matches(text) for text in texts] == [fits] * len(texts)
        assert [bool(re.fullmatch(expression, text)) for text in texts] == [fits] * len(texts)


@pytest.mark.slow
@pytest.mark.parametrize(
    "grammar", [SPACED, JSON, CODEX, ends_of("t", 't "+" t | "(" t ")" | item')]
)
def test_texts_of_the_expression_match_the_grammar(grammar: str):
    form, expression = TextFormat(Lark(grammar), "format"), to_expression(grammar)

    @settings(max_examples=40, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
    @given(st.from_regex(expression, fullmatch=True, alphabet=st.characters(codec="utf-8")))
    def matches(text: str) -> None:
        assert form.matches(text)

    matches()


@pytest.mark.parametrize(
    "grammar",
    [
        "",
        "start",
        "start: missing",
        'start: "a" start "b"',
        "start: a[capture]\na: /x/",
        "start: /x/i",
        'start: %json {"type": "null"}',
        'start: pair{"a", "b"}\npair{x, y}: x y',
        "start: A\n%declare A",
        "start: A\n%import .other.A",
        "start: A\n%import python.NAME -> A",
        'start: "\\q"',
        "start: /x/\n" * 3000,
    ],
)
def test_grammar_without_a_translation(grammar: str):
    with pytest.raises(UnreadablePatternError):
        to_expression(grammar)


def test_work_for_a_grammar_has_a_bound():
    names = [f"r{n}" for n in range(40)]
    each = " | ".join(f'"(" {name} ")"' for name in names)
    doubled = "\n".join(f"d{n}: d{n + 1} d{n + 1}" for n in range(60))
    begun = process_time()
    for grammar in (
        "start: r0\n" + "\n".join(f"{name}: {each}" for name in names[:20]),
        f'start: d0\n{doubled}\nd60: "x"',
        "start: " + '"a" (' * 2000 + '"x"' + ")" * 2000,
        f"start: {'x' * 9000}",
    ):
        with pytest.raises(UnreadablePatternError):
            to_expression(grammar)
    assert process_time() - begun < 5

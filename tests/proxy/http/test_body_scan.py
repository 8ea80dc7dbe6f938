"""The scan of a body: its items are counted before any is built, without blocking the loop."""

import json

import pytest

from adapters.errors import InvalidRequestError
from proxy.http.body_scan import PIECE, BodyLimitError, BodyScan


def scan(body: bytes, depth: int = 64, piece: int = PIECE) -> bytes:
    scan = BodyScan(depth)
    try:
        for at in range(0, len(body), piece):
            scan.feed(body[at : at + piece])
    except BodyLimitError as exceeded:
        raise scan.to_error(exceeded) from exceeded
    return scan.end()


DEPTHS = [
    (b"[" * 3 + b"]" * 3, False),
    (b"[" * 4 + b"]" * 4, True),
    (b'[{"a":[]}]', False),
    (b'[{"a":[{}]}]', True),
    (b"[[],[[]]," * 100, True),
    (b"[" + b"[]," * 100, False),
    (b"[[[" + b'"[[[[\\"[["' + b"]]]", False),
    (b"[[[[", True),
    (b'["[[[[', False),
    (b"[[[" + b'"\\\\"' + b"[", True),
    (b'[[["\\\\\\""]],[["[[["]]]', False),
]


@pytest.mark.parametrize("piece", [1, 2, 3, PIECE])
@pytest.mark.parametrize(("body", "deep"), DEPTHS, ids=repr)
def test_depth_of_three(body: bytes, deep: bool, piece: int):
    if deep:
        with pytest.raises(InvalidRequestError, match="deeper than 3 levels"):
            scan(body, 3, piece)
    else:
        assert scan(body, 3, piece) == body


@pytest.mark.parametrize("piece", [b'"\\"["', b'"\\"', b" ", b"1"], ids=repr)
def test_large_body_that_is_flat_is_accepted(piece: bytes):
    """Time that grows with the square of the body would take hours."""
    scan(piece * (1_000_000 // len(piece)))


@pytest.mark.parametrize("body", [b"]", b"[]]", b"]]]][[[[", b"\xff", b'"\xe6\xbc', b'"\xc0\xaf"'])
def test_what_no_decoder_takes_is_refused_at_once(body: bytes):
    with pytest.raises(InvalidRequestError, match="not valid JSON in UTF-8"):
        scan(body)


def test_letters_may_be_divided_between_pieces():
    body = json.dumps("漢字\U0001f600" * 10, ensure_ascii=False).encode()
    assert scan(body, piece=1) == body


MANY = [
    (b'{"model":"m","messages":[', b'{"type":"text"},', "lists and objects", "messages"),
    (b'{"tools":[],"input":[', b"[],", "lists and objects", "input"),
    (b'{"logit_bias":{', b'"1":1,', "keys", "logit_bias"),
    (b"{", b'"a":1,', "keys", None),
    (b'{"stop":[', b'"",', "values", "stop"),
    (b'{"a":{"input":[1],"b":[', b"1,", "values", "a"),
    (b'{"x\\"y":[', b"1,", "values", 'x\\"y'),
    (b"[", b"1,", "values", None),
    (b'{"prompt":"', b"\\n", "escapes in strings", None),
    (b'{"prompt":"', "漢字漢字漢字漢字".encode(), "bytes of letters that are not ASCII", None),
    (b"", b'""' * 2, "strings", None),
]


@pytest.mark.parametrize("padding", [b"", b" " * (PIECE - 5)], ids=len)
@pytest.mark.parametrize(("head", "piece", "what", "param"), MANY, ids=[row[2] for row in MANY])
def test_too_many_values_are_refused_with_the_field(
    head: bytes, piece: bytes, what: str, param: str | None, padding: bytes
):
    with pytest.raises(InvalidRequestError, match=f"more than [0-9]+ {what}") as refused:
        scan(padding + head + piece * (2_100_000 if b"\\" in piece else 520_000))
    assert refused.value.param == param


def test_as_many_values_as_a_long_conversation_has_are_accepted():
    parts = [{"type": "text", "text": "x"}] * 5
    body = json.dumps({"messages": [{"role": "user", "content": parts}] * 4096}).encode()
    assert scan(body) == body
    assert scan(json.dumps({"input": [[1] * 512] * 512}).encode())

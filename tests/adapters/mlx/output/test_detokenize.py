import pytest

from adapters.stop_strings import StopMatcher


def feed_all(pieces: list[str], stop: tuple[str, ...]) -> tuple[str, str | None]:
    matcher, shown = StopMatcher(stop), ""
    for piece in pieces:
        text, matched = matcher.feed(piece)
        shown += text
        if matched is not None:
            return shown, matched
    return shown + matcher.flush(), None


@pytest.mark.parametrize(
    ("pieces", "stop", "expected"),
    [
        (["one two"], (), ("one two", None)),
        (["one", " END two"], ("END",), ("one ", "END")),
        (["one E", "N", "D two"], ("END",), ("one ", "END")),
        (["one E", "N", "E"], ("END",), ("one ENE", None)),
        (["one EN"], ("END",), ("one EN", None)),
        (["aab"], ("ab",), ("a", "ab")),
        (["a", "a", "b"], ("ab",), ("a", "ab")),
        (["xyz"], ("z", "yz"), ("x", "yz")),
        (["ab"], ("a", "ab"), ("", "ab")),
        (["END"], ("END",), ("", "END")),
        (["é🙂", "\n\n"], ("\n\n",), ("é🙂", "\n\n")),
    ],
)
def test_stop_strings_are_found_across_pieces(
    pieces: list[str], stop: tuple[str, ...], expected: tuple[str, str | None]
) -> None:
    assert feed_all(pieces, stop) == expected


def test_no_part_of_a_stop_string_is_shown_before_it_is_decided() -> None:
    matcher = StopMatcher(("STOP",))
    assert matcher.feed("go S") == ("go ", None)
    assert matcher.feed("T") == ("", None)
    assert matcher.feed("ART") == ("START", None)


def test_cutting_the_text_elsewhere_changes_nothing() -> None:
    text, stop = "abcabdabcabe!", ("abe", "cabd!")
    expected = feed_all([text], stop)
    for at in range(len(text)):
        for to in range(at, len(text)):
            assert feed_all([text[:at], text[at:to], text[to:]], stop) == expected

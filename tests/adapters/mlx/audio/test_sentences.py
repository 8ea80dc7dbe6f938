"""Texts in pieces that a model can speak."""

import pytest

from adapters.mlx.audio.sentences import to_pieces, to_turns


def test_first_piece_is_one_sentence_when_more_would_fit():
    text = "Hello there. How are you? I am well, thanks."
    assert to_pieces(text, 200) == ["Hello there.", "How are you? I am well, thanks."]


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("One two, three four five.", ["One two,", "three four", "five."]),
        ("Supercalifragilistic", ["Supercalif", "ragilistic"]),
        ("你好。再见。", ["你好。", "再见。"]),
        ('He said "no." Then', ["He said", '"no." Then']),
        ("first\n\nsecond", ["first", "second"]),
        ("  \n ", []),
    ],
)
def test_no_piece_is_longer_than_its_limit(text: str, pieces: list[str]):
    assert to_pieces(text, 10) == pieces


def test_turn_and_answer_stay_together_when_they_fit():
    text = "[S1] Hi. [S2] Hello! (laughs) [S1] Bye."
    assert to_turns(text, 100) == ["[S1] Hi. [S2] Hello! (laughs)", "[S1] Bye."]


def test_each_piece_of_a_long_turn_has_its_speaker():
    text = "[S2] Yes. [S1] One sentence here. And another one."
    assert to_turns(text, 26) == ["[S2] Yes.", "[S1] One sentence here.", "[S1] And another one."]


def test_text_without_a_tag_is_the_first_speaker_s():
    assert to_turns("Just words.", 100) == ["[S1] Just words."]

"""Phonemes of espeak-ng's library."""

from adapters.mlx.audio.espeak import to_phonemes


def test_text_goes_on_after_a_null_character():
    assert to_phonemes("one\0two", "a") == to_phonemes("one two", "a")

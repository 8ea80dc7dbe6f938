"""Phonemes for Kokoro from the library of espeak-ng, in the wheel `espeakng-loader`.

mlx-audio uses misaki, which needs spaCy and torch for English.

Sources: `speak_lib.h` of espeak-ng; the table of misaki's `espeak.py` (Apache 2.0), which has the
phonemes that Kokoro was trained on.
"""

# pyright: basic
import ctypes
import re
from functools import cache
from threading import Lock
from typing import Any

_VOICES = {
    "a": "en-us",
    "b": "en-gb",
    "e": "es",
    "f": "fr-fr",
    "h": "hi",
    "i": "it",
    "j": "ja",
    "p": "pt-br",
    "z": "cmn",
}
"""Kokoro's code of a language -> espeak-ng's voice."""
_RETRIEVAL = 1
_IPA_WITH_TIES = 0x02 | 0x80 | ord("^") << 8
_UTF8 = 1
_TO_KOKORO = sorted(
    {
        "ʔˌn\u0329": "tᵊn",
        "ʔn\u0329": "tᵊn",
        "ʔn": "tᵊn",
        "ʔ": "t",
        "a^ɪ": "I",
        "a^ʊ": "W",
        "d^ʒ": "ʤ",
        "e^ɪ": "A",
        "e": "A",
        "t^ʃ": "ʧ",
        "ɔ^ɪ": "Y",
        "ə^l": "ᵊl",
        "ʲo": "jo",
        "ʲə": "jə",
        "ʲ": "",
        "ɚ": "əɹ",
        "r": "ɹ",
        "x": "k",
        "ç": "k",
        "ɐ": "ə",
        "ɬ": "l",
        "\u0303": "",
    }.items(),
    key=lambda pair: -len(pair[0]),
)
_BRITISH = {"e^ə": "ɛː", "iə": "ɪə", "ə^ʊ": "Q"}
_AMERICAN = {"o^ʊ": "O", "ɜːɹ": "ɜɹ", "ɜː": "ɜɹ", "ɪə": "iə", "ː": ""}
_PUNCTUATION = re.compile(r"([;:,.!?—…\"()“”]+\s*)")
_lock = Lock()
"""The library has one state for the whole process."""


def to_phonemes(text: str, language: str) -> str:
    """Return Kokoro's phonemes of `text`; `language` is the first letter of a voice's name."""
    parts = _PUNCTUATION.split(text)
    with _lock:
        library = _library()
        library.espeak_SetVoiceByName(_VOICES[language].encode())
        spoken = [_ipa(library, part) for part in parts[::2]]
    return "".join(
        _translate(ipa, language) + mark
        for ipa, mark in zip(spoken, [*parts[1::2], ""], strict=True)
    ).strip()


def _ipa(library: Any, text: str) -> str:
    if not text.strip():
        return ""
    rest = ctypes.c_char_p(text.replace("\0", " ").encode())  # NUL would end the text.
    words: list[str] = []
    while rest.value:
        ipa = library.espeak_TextToPhonemes(ctypes.byref(rest), _UTF8, _IPA_WITH_TIES)
        words.append((ipa or b"").decode())
    return " ".join(words)


def _translate(ipa: str, language: str) -> str:
    if language in "ab":
        for theirs, ours in _TO_KOKORO:
            ipa = ipa.replace(theirs, ours)
        for theirs, ours in (_BRITISH if language == "b" else _AMERICAN).items():
            ipa = ipa.replace(theirs, ours)
        ipa = re.sub(r"(\S)\u0329", r"ᵊ\1", ipa).replace("\u0329", "")
    return ipa.replace("^", "")


@cache
def _library() -> Any:
    import espeakng_loader

    library = ctypes.CDLL(espeakng_loader.get_library_path())
    library.espeak_TextToPhonemes.restype = ctypes.c_char_p
    library.espeak_Initialize(_RETRIEVAL, 0, espeakng_loader.get_data_path().encode(), 0)
    return library

"""Kokoro's text to phonemes without misaki, which needs spaCy and torch for English."""

# pyright: basic
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mlx_audio.tts.models.kokoro.pipeline import LANG_CODES, KokoroPipeline
from mlx_audio.tts.models.kokoro.voice import load_voice_tensor

from adapters.mlx.audio.espeak import to_phonemes


class EspeakPipeline(KokoroPipeline):
    """mlx-audio's pipeline with the phonemes of espeak-ng."""

    def __init__(self, model: Any, language: str, path: Path) -> None:
        # Not the parent's: it imports misaki.
        self.model = model
        self.model_path = path
        self.repo_id = ""
        self.voices = {}
        # For English the parent expects misaki's tokens, for all other languages a function.
        self.lang_code = language if language not in "ab" else "e"
        self.g2p = lambda text: to_phonemes(text, language)

    def load_single_voice(self, voice: str) -> Any:
        # The parent would warn of a voice of another language, and download a missing one.
        if voice not in self.voices:
            file = self.model_path / "voices" / f"{voice}.safetensors"
            self.voices[voice] = load_voice_tensor(str(file))
        return self.voices[voice]


def add_pipelines(model: Any, path: Path) -> None:
    """Give a Kokoro model a pipeline for each language, unless misaki is installed."""
    if find_spec("misaki") is not None:
        return
    for language in LANG_CODES:
        model._pipelines[language] = EspeakPipeline(model, language, path)

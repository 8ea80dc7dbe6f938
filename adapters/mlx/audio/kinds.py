"""Which models speak or transcribe, by their `config.json`. Neither mlx nor mlx-audio is imported.

mlx-audio's own `registry` needs the package, but models that lack it are listed with the reason.
"""

import json
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, cast
from zipfile import BadZipFile, ZipFile

from msgspec import Struct

from adapters.audio import Voice
from adapters.mlx.models.architectures import module_of, read_module

AudioCapability = Literal["speech", "transcription"]

EXTRA = "tandem-proxy[audio]"
_PACKAGES = ("mlx_audio", "greenlet")
"""The packages of the extra that the engine needs."""

# Folders of `mlx_audio/tts/models` and `stt/models` in 0.6.2, without those that are mostly text
# models: llama, qwen3, dense, qwen2_audio.
_SPEECH = frozenset(
    [
        "arktts",
        "bailingmm",
        "bark",
        "breeze_tts",
        "chatterbox",
        "chatterbox_turbo",
        "confucius4",
        "dia",
        "dramabox",
        "echo_tts",
        "fish_drama3",
        "fish_qwen3_omni",
        "higgs_audio",
        "higgs_audio_v3",
        "indextts",
        "irodori_tts",
        "kitten_tts",
        "kokoro",
        "kugelaudio",
        "lingv3_tts",
        "longcat_audiodit",
        "melotts",
        "moss_tts",
        "moss_tts_nano",
        "omnivoice",
        "outetts",
        "pocket_tts",
        "qwen3_tts",
        "rumik_oss",
        "sesame",
        "soprano",
        "spark",
        "tada",
        "vibevoice",
        "voxcpm",
        "voxcpm2",
        "voxtral_tts",
        "zonos2",
    ]
)
_TRANSCRIPTION = frozenset(
    [
        "canary",
        "cohere_asr",
        "fireredasr2",
        "fun_asr_nano",
        "glmasr",
        "granite_speech",
        "granite_speech5_ctc",
        "granite_speech_nar",
        "higgs_audio_3",
        "mega_asr",
        "mimo_v2_asr",
        "ming_v3_asr",
        "mms",
        "moonshine",
        "nemotron_asr",
        "parakeet",
        "phonon",
        "phonon2",
        "qwen3_asr",
        "sensevoice",
        "vibevoice_asr",
        "voxtral",
        "voxtral_realtime",
        "whisper",
    ]
)
# Its `MODEL_REMAPPING`s.
_ALIASES = {
    "audiodit": "longcat_audiodit",
    "breeze": "breeze_tts",
    "csm": "sesame",
    "dramabox-tts": "dramabox",
    "gradium_phonon_tts": "pocket_tts",
    "granite_speech_plus": "granite_speech",
    "higgs_multimodal_qwen3": "higgs_audio_v3",
    "kitten": "kitten_tts",
    "marvis": "sesame",
    "moss_tts_delay": "moss_tts",
    "moss_tts_local": "moss_tts",
    "nemotron_asr_streaming": "nemotron_asr",
    "parakeet_tdt": "parakeet",
    "parakeet_tdt_five_value": "phonon2",
    "vibevoice_streaming": "vibevoice",
    "voxcpm1.5": "voxcpm",
}
_BY_NAME = {"orpheus": "llama", "outetts": "outetts"}
"""A word of a model's name -> its family, for language models with tokens of audio."""
_BY_KEYS: dict[str, frozenset[str]] = {
    "kokoro": frozenset({"istftnet", "plbert", "vocab"}),
    "whisper": frozenset({"n_mels", "n_audio_ctx", "n_text_ctx"}),
    "parakeet": frozenset({"preprocessor", "encoder", "joint"}),
}
"""Families with a `config.json` that names no type, by keys that it has."""
_VOICE_FILES = (".safetensors", ".npz")
_VOICE_FOLDERS = ("voices", "voice_embedding")
_ORPHEUS = ("tara", "leah", "jess", "leo", "dan", "mia", "zac", "zoe")
"""The voices of the English Orpheus, which are words of its prompt. Source:
https://github.com/canopyai/Orpheus-TTS"""
_LANGUAGES = {
    "a": "en-US",
    "b": "en-GB",
    "e": "es",
    "f": "fr",
    "h": "hi",
    "i": "it",
    "j": "ja",
    "p": "pt-BR",
    "z": "zh",
}
"""First letter of Kokoro's voices -> language."""


class AudioKind(Struct, frozen=True):
    capability: AudioCapability
    family: str
    """The package of mlx-audio that has the model's code."""


def audio_kind(name: str, config: dict[str, Any]) -> AudioKind | None:
    """Return what the model of a `config.json` does with audio; `None` for any other model."""
    family = _family(name, config)
    if family in _TRANSCRIPTION:
        return AudioKind("transcription", family)
    if family in _SPEECH or family == "llama":
        return AudioKind("speech", family)
    return None


def _family(name: str, config: dict[str, Any]) -> str | None:
    for word, family in _BY_NAME.items():
        if word in name.lower():
            return family
    kind = config.get("model_type")
    if isinstance(kind, str):
        # mlx-audio also reads words of folders' names, such as `glm` and `mimo`, which are
        # families of text models too.
        is_text = read_module(module_of(config)) is not None
        return None if is_text else _ALIASES.get(kind, kind)
    for family, keys in _BY_KEYS.items():
        if keys <= config.keys():
            return family
    model, data = config.get("model"), config.get("data")
    if isinstance(model, dict) and isinstance(data, dict) and "audio_length" in data:
        return "dia"
    return None


def missing_packages() -> str | None:
    """Return what to install for models of audio, as a clause; `None` if nothing is missing."""
    if all(map(_is_installed, _PACKAGES)):
        return None
    return f"it needs the extra {EXTRA}, as in `pip install '{EXTRA}'`"


@cache
def _is_installed(package: str) -> bool:
    return find_spec(package) is not None


def incomplete(kind: AudioKind, path: Path) -> str | None:
    """Return what an audio model's folder lacks beside weights; `None` for nothing."""
    if kind.family == "whisper" and not (path / "tokenizer.json").is_file():
        return "it has no tokenizer.json; repositories named *-asr-* have one"
    return missing_packages()


def own_voices(kind: AudioKind, path: Path) -> list[Voice]:
    """List the voices in a speech model's folder or `config.json`, the default first."""
    files = sorted(file for folder in _VOICE_FOLDERS for file in (path / folder).glob("*"))
    names = [file.stem for file in files if file.suffix in _VOICE_FILES]
    names = names or _in_one_file(path / "voices.npz") or _speakers(path)
    if not names and kind.family == "llama":
        names = [*_ORPHEUS]
    first = [name for name in names if name == "af_heart"]
    is_kokoro = kind.family == "kokoro"
    return [
        Voice(id=name, language=_LANGUAGES.get(name[:1]) if is_kokoro else None)
        for name in dict.fromkeys(first + names)
    ]


def _in_one_file(path: Path) -> list[str]:
    """Voices in an archive of arrays, as Kitten has them."""
    try:
        with ZipFile(path) as arrays:
            return sorted(name.removesuffix(".npy") for name in arrays.namelist())
    except (OSError, BadZipFile):
        return []


def _speakers(path: Path) -> list[str]:
    """Voices that a `config.json` names, as those of Qwen3-TTS and MeloTTS do."""
    try:
        config = cast(dict[str, Any], json.loads((path / "config.json").read_bytes()))
    except (OSError, ValueError):
        return []
    for part in (config, config.get("talker_config") or {}):
        speakers = part.get("spk_id") or part.get("spk2id") or part.get("voices")
        if isinstance(speakers, dict | list):
            return [str(name) for name in cast(list[Any], speakers)]
    return []

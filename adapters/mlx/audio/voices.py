"""The voices of a speech model: its own, and clips of the configuration that it imitates."""

# pyright: basic
import errno
import stat
from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct

from adapters.audio import Voice
from adapters.config import MLXVoice
from adapters.errors import GenerationError, InvalidRequestError
from adapters.mlx.audio.kinds import AudioKind, own_voices

OPENAI_VOICES = frozenset(
    [
        "alloy",
        "ash",
        "ballad",
        "cedar",
        "coral",
        "echo",
        "fable",
        "marin",
        "nova",
        "onyx",
        "sage",
        "shimmer",
        "verse",
    ]
)
"""Clients offer these for every model."""
_CLONING = frozenset(
    [
        "arktts",
        "bailingmm",
        "breeze_tts",
        "chatterbox",
        "chatterbox_turbo",
        "confucius4",
        "dia",
        "echo_tts",
        "fish_drama3",
        "fish_qwen3_omni",
        "higgs_audio_v3",
        "indextts",
        "irodori_tts",
        "lingv3_tts",
        "llama",
        "longcat_audiodit",
        "moss_tts",
        "moss_tts_nano",
        "omnivoice",
        "outetts",
        "pocket_tts",
        "qwen3_tts",
        "sesame",
        "spark",
        "voxcpm",
        "voxcpm2",
        "zonos2",
    ]
)
"""Families of mlx-audio with a `generate` that takes `ref_audio`."""


class Speaker(Struct, frozen=True):
    """The voice of one request."""

    name: str | None = None
    """The model's own name; `None`: it has one voice."""
    clip: MLXVoice | None = None
    is_mixed: bool = False
    """`name` has several, with commas."""
    is_default: bool = False
    """The request named one of OpenAI's voices that the model does not have."""


def list_voices(kind: AudioKind, path: Path, clips: Mapping[str, MLXVoice]) -> list[Voice]:
    voices = own_voices(kind, path)
    if kind.family in _CLONING:
        voices += [Voice(id=name, cloned=True) for name in clips]
    return voices


def find_speaker(
    voice: str | None, model: str, voices: list[Voice], clips: Mapping[str, MLXVoice]
) -> Speaker:
    """Find the voice of a request.

    `alloy` finds Kokoro's `af_alloy`. One of OpenAI's names that the model lacks is its default,
    because clients send one to every model. Several names of its own, with `,` or Kokoro-FastAPI's
    `+`, are a mixture.

    Raises:
        InvalidRequestError: there is no such voice; lists those that there are.
    """
    own = [known.id for known in voices if not known.cloned]
    first = own[0] if own else None
    if voice is None:
        return Speaker(first)
    if any(known.cloned and known.id == voice for known in voices):
        return Speaker(clip=clips[voice])
    mixed = voice.replace("+", ",")
    if voice in own:
        return Speaker(voice)
    if own and all(part in own for part in mixed.split(",")):
        return Speaker(mixed, is_mixed=True)
    if voice in OPENAI_VOICES:
        alike = [name for name in own if name.partition("_")[2] == voice]
        return Speaker(alike[0]) if alike else Speaker(first, is_default=True)
    names = ", ".join(known.id for known in voices)
    raise InvalidRequestError(
        f"'{model}' has no voice '{voice[:100]}'."
        + (f" Its voices: {names}." if names else " It has one voice, without a name."),
        param="voice",
    )


def check_clip(clip: MLXVoice, voice: str | None) -> None:
    """Check that the clip of a voice is there, and sound. Reads the disk.

    Raises:
        GenerationError: its file cannot be read; names its place in the settings.
    """
    path = Path(clip.audio).expanduser()
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # Opening a pipe would wait.
            raise OSError(errno.EINVAL, "it is not a regular file")
        path.open("rb").close()
        reason = "" if path.suffix.lower() not in _SOUND or _is_sound(path) else "it is no sound"
    except OSError as error:
        reason = str(error.strerror)
    if reason:
        raise GenerationError(
            f"The clip of the voice '{voice}' cannot be read: {reason} "
            f"(`backends.mlx.voices.{voice}.audio`)."
        )


_SOUND = (".flac", ".mp3", ".wav")
"""Endings of files that mlx-audio reads with miniaudio."""


def _is_sound(path: Path) -> bool:
    import miniaudio

    try:
        return miniaudio.get_file_info(str(path)).num_frames > 0
    except miniaudio.MiniaudioError:
        return False

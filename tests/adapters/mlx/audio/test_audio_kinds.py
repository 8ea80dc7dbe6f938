"""Models of audio by their files: what they do, what they lack, their voices."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adapters.audio import Voice
from adapters.config import MLXVoice
from adapters.errors import GenerationError, InvalidRequestError
from adapters.mlx.audio.kinds import AudioKind, audio_kind, incomplete
from adapters.mlx.audio.speech import to_samples
from adapters.mlx.audio.voices import Speaker, check_clip, find_speaker, list_voices

KOKORO, DIA = AudioKind("speech", "kokoro"), AudioKind("speech", "dia")
CLIPS = {"mary": MLXVoice(audio="mary.wav", text="Hello.")}


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        ({"model_type": "whisper"}, AudioKind("transcription", "whisper")),
        (
            {"n_mels": 80, "n_audio_ctx": 1500, "n_text_ctx": 448},
            AudioKind("transcription", "whisper"),
        ),
        ({"model_type": "parakeet_tdt"}, AudioKind("transcription", "parakeet")),
        ({"model_type": "csm"}, AudioKind("speech", "sesame")),
        ({"istftnet": {}, "plbert": {}, "vocab": {}}, KOKORO),
        ({"model": {"encoder": {}}, "data": {"audio_length": 3072}}, DIA),
    ],
)
def test_kind_by_configuration(config: dict[str, Any], kind: AudioKind | None):
    assert audio_kind("org/model", config) == kind


@pytest.mark.parametrize("module", ["glm", "mimo", "llama", "qwen3"])
def test_text_model_is_no_audio_model(module: str):
    assert find_spec(f"mlx_lm.models.{module}") is not None
    assert audio_kind("org/model", {"model_type": module}) is None


def test_language_model_speaks_when_its_name_says_so():
    assert audio_kind("org/Orpheus-3b", {"model_type": "llama"}) == AudioKind("speech", "llama")


def test_folder_without_its_tokenizer_is_listed_with_the_reason(tmp_path: Path):
    (tmp_path / "model.safetensors").touch()
    reason = incomplete(AudioKind("transcription", "whisper"), tmp_path)
    assert reason == "it has no tokenizer.json; repositories named *-asr-* have one"


def test_voices_of_files_and_of_the_configuration(tmp_path: Path):
    (tmp_path / "voices").mkdir()
    for name in ("bm_fable.safetensors", "af_heart.safetensors", "README.md"):
        (tmp_path / "voices" / name).touch()
    assert list_voices(KOKORO, tmp_path, CLIPS) == [
        Voice(id="af_heart", language="en-US"),
        Voice(id="bm_fable", language="en-GB"),
    ]
    assert list_voices(DIA, tmp_path / "none", CLIPS) == [Voice(id="mary", cloned=True)]


def test_voices_of_one_file_and_of_a_model_that_has_them_by_heart(tmp_path: Path):
    arrays: dict[str, Any] = {"expr-voice-2-m": [1.0], "expr-voice-2-f": [1.0]}
    np.savez(tmp_path / "voices.npz", **arrays)
    kitten, orpheus = AudioKind("speech", "kitten_tts"), AudioKind("speech", "llama")
    assert [voice.id for voice in list_voices(kitten, tmp_path, {})] == [
        "expr-voice-2-f",
        "expr-voice-2-m",
    ]
    assert list_voices(orpheus, tmp_path / "none", {})[0] == Voice(id="tara")


VOICES = [Voice(id="af_heart"), Voice(id="af_alloy"), Voice(id="mary", cloned=True)]


@pytest.mark.parametrize(
    ("voice", "speaker"),
    [
        (None, Speaker("af_heart")),
        ("af_alloy", Speaker("af_alloy")),
        ("alloy", Speaker("af_alloy")),
        ("af_heart,af_alloy", Speaker("af_heart,af_alloy", is_mixed=True)),
        ("af_heart+af_alloy", Speaker("af_heart,af_alloy", is_mixed=True)),
        ("shimmer", Speaker("af_heart", is_default=True)),
        ("mary", Speaker(clip=CLIPS["mary"])),
    ],
)
def test_speaker_of_a_voice(voice: str | None, speaker: Speaker):
    assert find_speaker(voice, "m", VOICES, CLIPS) == speaker


@pytest.mark.parametrize("voice", ["absent", "../af_heart", "af_heart,x", "/etc/v.safetensors"])
def test_unknown_voice_is_refused_with_the_known_ones(voice: str):
    with pytest.raises(InvalidRequestError, match="Its voices: af_heart, af_alloy, mary") as caught:
        find_speaker(voice, "m", VOICES, CLIPS)
    assert caught.value.param == "voice"


def test_clip_that_is_not_there_is_named(tmp_path: Path):
    clip = MLXVoice(audio=str(tmp_path / "mary.wav"))
    with pytest.raises(GenerationError, match=r"'mary' .* \(`backends.mlx.voices.mary.audio`\)"):
        check_clip(clip, "mary")


@pytest.mark.parametrize("content", [b"", b"no sound" * 100])
def test_clip_that_is_no_sound_is_named(tmp_path: Path, content: bytes):
    (tmp_path / "mary.wav").write_bytes(content)
    with pytest.raises(GenerationError, match="'mary' cannot be read: it is no sound"):
        check_clip(MLXVoice(audio=str(tmp_path / "mary.wav")), "mary")


def test_samples_are_one_channel_of_sound():
    stereo = np.array([[0.5, np.nan, np.inf, -3.0], [0.25, 0.5, np.inf, -3.0]], "<f4")
    assert np.frombuffer(to_samples(stereo), "<f4").tolist() == [0.375, 0.0, 1.0, -1.0]
    assert np.frombuffer(to_samples([0.5]), "<f4").tolist() == [0.5]

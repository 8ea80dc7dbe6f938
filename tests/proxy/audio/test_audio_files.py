"""Files of audio: written in each format, read back by another decoder, and refused."""

import asyncio
import io
import struct
import threading
import wave
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import av
import numpy as np
import pytest
import soundfile
from fakes.tiny_audio import sine

from adapters.errors import InvalidRequestError
from proxy.audio.decode import decode, decode_beside
from proxy.audio.encode import AudioFormat, Encoder
from proxy.config import AudioConfig

LIMITS = AudioConfig()
RATE = 24_000


def encoded(form: AudioFormat, seconds: float = 1.0, rate: int = RATE, speed: float = 1.0) -> bytes:
    encoder, samples = Encoder(form, rate, speed), sine(seconds, rate)
    cuts = range(0, len(samples), 4 * 5000)
    return b"".join(encoder.encode(samples[at : at + 4 * 5000]) for at in cuts) + encoder.finish()


def pitch(samples: np.ndarray, rate: int) -> float:
    spectrum = np.abs(np.fft.rfft(samples))
    return float(np.argmax(spectrum) * rate / len(samples))


@pytest.mark.parametrize(
    ("form", "rate"), [("wav", RATE), ("flac", RATE), ("mp3", RATE), ("opus", 48_000)]
)
def test_file_is_read_back(form: AudioFormat, rate: int):
    samples, its_rate = soundfile.read(io.BytesIO(encoded(form)))
    assert (its_rate, samples.ndim) == (rate, 1)
    assert len(samples) / its_rate == pytest.approx(1.0, abs=0.1)
    assert pitch(samples, its_rate) == pytest.approx(440, abs=5)


def test_aac_is_read_back():
    with av.open(io.BytesIO(encoded("aac")), "r") as container:
        frames = [frame.to_ndarray() for frame in container.decode(audio=0)]
        assert container.streams.audio[0].codec_context.sample_rate == RATE
    assert sum(frame.shape[1] for frame in frames) / RATE == pytest.approx(1.0, abs=0.1)


def test_pcm_has_24_khz_whatever_the_model_has():
    samples = np.frombuffer(encoded("pcm", rate=44_100), dtype="<i2")
    assert len(samples) == pytest.approx(24_000, abs=50)
    assert pitch(samples, 24_000) == pytest.approx(440, abs=5)


@pytest.mark.parametrize("speed", [0.25, 0.7, 4.0])
def test_speed_changes_the_length_and_not_the_pitch(speed: float):
    samples, rate = soundfile.read(io.BytesIO(encoded("wav", 2.0, speed=speed)))
    assert len(samples) / rate == pytest.approx(2 / speed, rel=0.05)
    assert pitch(samples, rate) == pytest.approx(440, abs=8)


def test_first_bytes_come_before_the_end():
    encoder = Encoder("mp3", RATE)
    assert encoder.encode(sine(0.5, RATE))


def test_wav_has_its_length_when_all_samples_are_known():
    encoder = Encoder("wav", RATE)
    data = encoder.encode(sine(0.5, RATE), is_all=True) + encoder.finish()
    with wave.open(io.BytesIO(data)) as file:
        assert (file.getnframes(), file.getnchannels(), file.getframerate()) == (12_000, 1, RATE)


@pytest.mark.parametrize("form", ["wav", "flac", "mp3", "opus", "aac"])
def test_upload_becomes_16_khz(form: AudioFormat):
    samples = np.frombuffer(decode(encoded(form), LIMITS), dtype="<f4")
    assert len(samples) == pytest.approx(16_000, abs=1_600)
    assert pitch(samples, 16_000) == pytest.approx(440, abs=5)
    assert 0.4 < np.abs(samples).max() < 0.6


@pytest.mark.parametrize("container", ["aiff", "au", "caf", "w64"])
def test_upload_of_uncompressed_samples(container: str):
    """A Mac's `say` and its recorder write the first and the third."""
    data = contained(container, "pcm_s16le" if container == "w64" else "pcm_s16be")
    assert len(decode(data, LIMITS)) / 64_000 == pytest.approx(1.0, abs=0.01)


def contained(container: str, codec: str, rate: int = 24_000) -> bytes:
    """A file of one second, one channel."""
    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        stream: Any = output.add_stream(codec, rate=rate)
        stream.layout = "mono"
        frame = av.AudioFrame.from_ndarray(
            np.frombuffer(sine(1.0, rate), "<f4")[None], "flt", "mono"
        )
        frame.sample_rate, frame.time_base = rate, Fraction(1, rate)
        output.mux([*stream.encode(frame), *stream.encode(None)])
    return file.getvalue()


@pytest.mark.parametrize("container", ["mp4", "webm", "ogg"])
def test_upload_of_stereo_in_a_video_container(container: str):
    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        stream = output.add_stream("aac" if container == "mp4" else "libopus", rate=48_000)
        stream.layout = "stereo"
        frame = av.AudioFrame.from_ndarray(
            np.tile(np.frombuffer(sine(1.0, 48_000), "<f4"), (2, 1)), "fltp", "stereo"
        )
        frame.sample_rate, frame.time_base = 48_000, Fraction(1, 48_000)
        output.mux([*stream.encode(frame), *stream.encode(None)])
    assert len(decode(file.getvalue(), LIMITS)) / 64_000 == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello",
        b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/x.ts\n",
        b"ffconcat version 1.0\nfile /etc/passwd\n",
        b"RIFF\x00\x00\x00\x00WAVE",
        b"ID3" + bytes(2000),
        b"fLaC" + b"\xff" * 200,
    ],
)
def test_what_is_no_audio_is_refused(data: bytes):
    with pytest.raises(InvalidRequestError) as caught:
        decode(data, LIMITS)
    assert caught.value.param == "file"


def test_long_audio_is_refused_by_its_header():
    with pytest.raises(InvalidRequestError, match="3 seconds long; at most 2 seconds"):
        decode(encoded("flac", 3.0), AudioConfig(max_seconds=2))


def test_long_audio_is_refused_when_its_header_does_not_say_so():
    with pytest.raises(InvalidRequestError, match="at most 2 seconds"):
        decode(encoded("aac", 4.0), AudioConfig(max_seconds=2))


def test_damaged_end_is_left_out():
    data = encoded("mp3", 2.0)
    assert len(decode(data[: len(data) // 2], LIMITS)) / 64_000 == pytest.approx(1.0, abs=0.2)


def test_empty_file_is_called_so():
    with pytest.raises(InvalidRequestError, match="The file is empty"):
        decode(b"", LIMITS)


def test_shortest_audio():
    with pytest.raises(InvalidRequestError, match=r"shorter than 0\.1 seconds"):
        decode(encoded("wav", 0.05), LIMITS)


TAG = b"ID3\x04\x00\x00\x00\x00\x01\x00" + bytes(128)
"""An ID3v2 tag of 128 bytes, as programs put before files of any format."""


@pytest.mark.parametrize("form", ["wav", "flac", "mp3", "aac"])
def test_audio_is_found_behind_tags(form: AudioFormat):
    samples = decode(TAG + TAG + encoded(form), LIMITS)
    assert len(samples) / 64_000 == pytest.approx(1.0, abs=0.15)


@pytest.mark.parametrize("form", ["mp3", "aac"])
def test_joined_files_of_two_rates_are_read_to_the_end(form: AudioFormat):
    samples = decode(encoded(form, 1.0, 24_000) + encoded(form, 1.0, 44_100), LIMITS)
    assert len(samples) / 64_000 == pytest.approx(2.0, abs=0.2)


def test_joined_vorbis_of_two_rates_is_refused_for_what_it_is():
    """FFmpeg's reader of Ogg does not take it."""
    joined = io.BytesIO()
    for rate in (24_000, 44_100):
        file = io.BytesIO()
        soundfile.write(file, np.frombuffer(sine(1.0, rate), "<f4"), rate, format="OGG")
        joined.write(file.getvalue())
    with pytest.raises(InvalidRequestError, match="changes its form midway"):
        decode(joined.getvalue(), LIMITS)


def test_program_stream_of_mpeg_is_read():
    data = contained("mpeg", "mp2")
    assert len(decode(data, LIMITS)) / 64_000 == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize(("codec", "bits"), [(0x9999, 16), (1, 0)])
def test_unknown_codec_is_named_as_the_reason(codec: int, bits: int):
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, codec, 1, 16_000, 32_000, 2, bits)
    data = struct.pack("<4sI", b"data", 32_000) + bytes(32_000)
    with pytest.raises(InvalidRequestError, match="of a codec that cannot be read"):
        decode(b"RIFF" + struct.pack("<I", 32_036) + b"WAVE" + form + data, LIMITS)


def test_decoding_ends_with_the_next_frame_once_it_is_given_up():
    calls = iter([False] * 9)
    samples = decode(encoded("wav", 60.0), LIMITS, lambda: next(calls, True))
    assert 0 < len(samples) / 4 / 16_000 < 20


async def test_cancelled_calls_give_their_decoding_up():
    """Both threads are free at once for another file."""
    began, is_over = threading.Semaphore(0), threading.Event()

    def scripted(data: bytes, _: AudioConfig, is_given_up: Callable[[], bool]) -> bytes:
        began.release()
        while data == b"long" and not is_given_up() and not is_over.wait(0.001):
            pass
        return data

    calls = [asyncio.create_task(decode_beside(b"long", LIMITS, scripted)) for _ in range(2)]
    for call in calls:
        await asyncio.to_thread(began.acquire)
        assert not call.done()
    for call in calls:
        call.cancel()
    try:
        async with asyncio.timeout(20):
            assert await decode_beside(b"short", LIMITS, scripted) == b"short"
    finally:
        is_over.set()

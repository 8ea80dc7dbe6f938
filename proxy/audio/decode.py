"""Audio files of requests to samples for transcription.

FFmpeg's libraries, in the wheel of PyAV, read the files. The format is found by the first bytes,
and no other demuxer is tried: some of FFmpeg's (HLS, concat) open what a file names.
"""

# pyright: basic
import asyncio
import io
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, groupby
from typing import Any

from adapters.audio import TRANSCRIPTION_RATE
from adapters.errors import InvalidRequestError
from proxy.config import AudioConfig

FORMATS = "aiff, au, caf, flac, m4a, mp3, mp4, mpeg, mpga, oga, ogg, w64, wav or webm"
_MIN_SECONDS = 0.1
"""OpenAI's minimum."""
_MAX_CHANNELS, _MAX_RATE = 8, 384_000
_FLOAT_BYTES = 4
_MAGIC: tuple[tuple[re.Pattern[bytes], str], ...] = tuple(
    (re.compile(pattern, re.DOTALL), name)
    for pattern, name in (
        (rb"RIFF....WAVE", "wav"),
        (rb"RF64....WAVE", "wav"),
        (rb"riff\x2e\x91\xcf\x11", "w64"),
        (rb"FORM....AIF[FC]", "aiff"),
        (rb"caff", "caf"),
        (rb"\.snd", "au"),
        (rb"fLaC", "flac"),
        (rb"OggS", "ogg"),
        (rb"\x1aE\xdf\xa3", "matroska"),
        (rb"....ftyp", "mov"),
        (rb"\x00\x00\x01\xba", "mpeg"),
        (rb"\xff[\xf0\xf1\xf8\xf9]", "aac"),
        (rb"\xff[\xe2-\xff]", "mp3"),
    )
)
_ID3_HEADER = 10
"""Bytes of the header of an ID3v2 tag."""


_DECODERS = ThreadPoolExecutor(2, "audio")
"""Two files are decoded at a time, of all requests: a file of 100 kB can have an hour of audio,
which takes 200 MB and, at high rates, minutes. Other work has threads of its own."""


def decode(
    data: bytes, config: AudioConfig, is_given_up: Callable[[], bool] = lambda: False
) -> bytes:
    """Decode a file to mono float32 at `TRANSCRIPTION_RATE`, until `is_given_up`. Blocks.

    Its header is checked before anything is decoded, and decoding ends at `max_seconds`, whatever
    the header says.

    Raises:
        InvalidRequestError: it is no audio file of `FORMATS`, is damaged, or too long or short.
    """
    import av
    from av.error import FFmpegError, PatchWelcomeError

    if not data:
        raise _invalid("The file is empty.")
    audio = _without_tags(data)
    # Behind a tag, an mp3 may have other bytes before its first frame.
    usual = "mp3" if len(audio) < len(data) else None
    kind = next((name for magic, name in _MAGIC if magic.match(audio)), usual)
    if kind is None:
        raise _invalid(f"The file is no audio that can be read. Send {FORMATS}.")
    try:
        with av.open(io.BytesIO(audio), format=kind) as container:
            samples = _read(container, config, is_given_up)
    except PatchWelcomeError as exc:
        raise _invalid("The audio changes its form midway, which is not supported.") from exc
    except (FFmpegError, ValueError, OverflowError) as exc:
        raise _invalid("The audio file is damaged, or empty.") from exc
    if len(samples) < _MIN_SECONDS * TRANSCRIPTION_RATE * _FLOAT_BYTES:
        raise _invalid(f"The audio is shorter than {_MIN_SECONDS} seconds.")
    return samples


async def decode_beside(
    data: bytes, config: AudioConfig, decoder: Callable[..., bytes] = decode
) -> bytes:
    """Decode as `decode`, beside the event loop; a cancelled call ends with the next frame."""
    given_up = threading.Event()
    loop = asyncio.get_running_loop()
    try:
        return await loop.run_in_executor(_DECODERS, decoder, data, config, given_up.is_set)
    finally:
        given_up.set()


def _without_tags(data: bytes) -> bytes:
    """Leave out the ID3v2 tags before the audio, which FFmpeg skips in mp3 alone.

    Source: https://id3.org/id3v2.4.0-structure; a size has four times seven bits.
    """
    while data.startswith(b"ID3") and len(data) > _ID3_HEADER:
        size = sum(byte << shift for byte, shift in zip(data[6:10], (21, 14, 7, 0), strict=True))
        data = data[_ID3_HEADER + size :]
    return data


def _read(container: Any, config: AudioConfig, is_given_up: Callable[[], bool]) -> bytes:
    if not container.streams.audio:
        raise _invalid("The file has no audio.")
    stream = container.streams.audio[0]
    _check_header(container, stream, config)
    stream.thread_type = "NONE"
    limit = int(config.max_seconds * TRANSCRIPTION_RATE) * _FLOAT_BYTES
    samples = bytearray()
    for resampled in _resampled(_frames(container, stream)):
        samples += bytes(resampled.planes[0])[: resampled.samples * _FLOAT_BYTES]
        if len(samples) > limit:
            raise _too_long(None, config)
        if is_given_up():
            break
    return bytes(samples)


def _frames(container: Any, stream: Any) -> Iterator[Any]:
    """Yield decoded frames, without the packets that are damaged."""
    from av.error import InvalidDataError

    for packet in container.demux(stream):
        try:
            yield from packet.decode()
        except InvalidDataError:
            continue


def _resampled(frames: Iterable[Any]) -> Iterator[Any]:
    """Yield mono frames at `TRANSCRIPTION_RATE`. Files that were joined change rate and channels
    midway, and a resampler takes one form of frame."""
    import av

    for _, alike in groupby(frames, lambda f: (f.format.name, f.layout.name, f.sample_rate)):
        resampler = av.AudioResampler(format="flt", layout="mono", rate=TRANSCRIPTION_RATE)
        for frame in chain(alike, (None,)):
            yield from resampler.resample(frame)


def _check_header(container: Any, stream: Any, config: AudioConfig) -> None:
    """
    Raises:
        InvalidRequestError: the header says that the audio is too long, is of an unknown codec, or
            has impossible numbers.
    """
    context = stream.codec_context
    if context is None:
        raise _invalid("The audio in the file is of a codec that cannot be read.")
    if not 0 < context.channels <= _MAX_CHANNELS or not 0 < context.sample_rate <= _MAX_RATE:
        raise _invalid(
            f"The audio has {context.channels} channels at {context.sample_rate} Hz; at most "
            f"{_MAX_CHANNELS} channels at {_MAX_RATE} Hz are read."
        )
    seconds = 0.0
    if stream.duration is not None and stream.time_base is not None:
        seconds = float(stream.duration * stream.time_base)
    elif container.duration is not None:
        seconds = container.duration / 1e6
    if seconds > config.max_seconds:
        raise _too_long(seconds, config)


def _too_long(seconds: float | None, config: AudioConfig) -> InvalidRequestError:
    length = f"{seconds:.0f} seconds long; " if seconds is not None else "too long: "
    return _invalid(
        f"The audio is {length}at most {config.max_seconds:.0f} seconds are transcribed "
        "(`server.audio.max_seconds`)."
    )


def _invalid(message: str) -> InvalidRequestError:
    return InvalidRequestError(message, param="file")

"""Encode the samples of an answer as an audio file, piece by piece: FFmpeg's libraries, in PyAV."""

# pyright: basic
import io
import struct
from typing import Any, Literal

from msgspec import Struct

AudioFormat = Literal["mp3", "opus", "aac", "flac", "wav", "pcm"]

PCM_RATE = 24_000
"""Samples a second of `pcm`, which has no header to say it. As OpenAI."""
_OPUS_RATE = 48_000
_USUAL_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
"""Samples a second that all encoders take; mp3 no others."""
_SLOWEST, _FASTEST = 0.5, 100.0
"""The range of FFmpeg's `atempo`."""
_UNKNOWN_SIZE = 0xFFFFFFFF
"""The size in the header of a wav file that is sent while it is made. As OpenAI and FFmpeg."""
_FLOAT_BYTES = 4


class Codec(Struct, frozen=True):
    media_type: str
    container: str = ""
    """FFmpeg's muxer; empty: the samples themselves, of 16 bits."""
    encoder: str = ""
    options: dict[str, str] = {}
    has_length: bool = False
    """Its header has the length, without which common readers fail: it is sent at the end."""


CODECS: dict[AudioFormat, Codec] = {
    # The frame with the length of the file would have to be written after all others.
    "mp3": Codec("audio/mpeg", "mp3", "libmp3lame", {"write_xing": "0"}),
    "opus": Codec("audio/ogg; codecs=opus", "ogg", "libopus", {"page_duration": "200000"}),
    "aac": Codec("audio/aac", "adts", "aac"),
    "flac": Codec("audio/flac", "flac", "flac", has_length=True),
    "wav": Codec("audio/wav"),
    "pcm": Codec("audio/pcm"),
}


class Encoder:
    """Encodes one answer. Its methods block for milliseconds: run them in a thread."""

    def __init__(self, form: AudioFormat, rate: int, speed: float = 1.0) -> None:
        """`rate` is that of the samples; `speed` a factor that keeps the pitch."""
        import av

        self._codec = CODECS[form]
        self._rate = rate
        self._graph = _tempo(rate, speed) if speed != 1.0 else None
        self._sink = io.BytesIO() if self._codec.has_length else _Pieces()
        self._at = 0
        self._needs_header = self._drained = False
        if self._codec.container:
            self._container = av.open(
                self._sink, "w", format=self._codec.container, options=self._codec.options
            )
            usual = rate if rate in _USUAL_RATES else _OPUS_RATE
            own_rate = _OPUS_RATE if form == "opus" else usual
            self._stream: Any = self._container.add_stream(self._codec.encoder, rate=own_rate)
            self._stream.layout = "mono"
        else:
            own_rate = PCM_RATE if form == "pcm" else rate
            self._resampler = av.AudioResampler(format="s16", layout="mono", rate=own_rate)
            self._needs_header = form == "wav"
            self._own_rate = own_rate

    def encode(self, samples: bytes, *, is_all: bool = False) -> bytes:
        """Return the bytes of the file that are complete: none, if the encoder waits for more.

        `is_all`: no other samples come, so that the header of a wav file has their number.
        """
        import av

        count = len(samples) // _FLOAT_BYTES
        if count:
            frame = av.AudioFrame(format="flt", layout="mono", samples=count)
            frame.planes[0].update(samples.ljust(frame.planes[0].buffer_size, b"\0"))
            frame.sample_rate, frame.pts = self._rate, self._at
            frame.time_base = _time_base(self._rate)
            self._at += count
            self._write(self._paced(frame))
        if isinstance(self._sink, io.BytesIO):
            return b""
        if is_all:
            self._drain()
        return self._headed(self._sink.take(), is_all=is_all)

    def finish(self) -> bytes:
        """Return the end of the file."""
        self._drain()
        if self._codec.container:
            self._container.close()
        if isinstance(self._sink, io.BytesIO):
            return self._sink.getvalue()
        return self._headed(self._sink.take())

    def _drain(self) -> None:
        """Write what filter and encoder still hold."""
        if self._drained:
            return
        self._drained = True
        if self._graph is not None:
            self._write(self._paced(None))
        self._write([None])

    def _headed(self, data: bytes, *, is_all: bool = False) -> bytes:
        if not self._needs_header or not (data or is_all):
            return data
        self._needs_header = False
        return _wav_header(self._own_rate, len(data) if is_all else None) + data

    def _paced(self, frame: Any) -> list[Any]:
        """Return the frames that are ready at the requested speed; `None` ends the samples."""
        from av.error import BlockingIOError as NothingYetError
        from av.error import EOFError as EndOfFileError

        if self._graph is None:
            return [frame]
        self._graph.push(frame)
        frames: list[Any] = []
        while True:
            try:
                frames.append(self._graph.pull())
            except (NothingYetError, EndOfFileError):
                return frames

    def _write(self, frames: list[Any]) -> None:
        for frame in frames:
            if self._codec.container:
                for packet in self._stream.encode(frame):
                    self._container.mux(packet)
            else:
                for resampled in self._resampler.resample(frame):
                    self._sink.write(bytes(resampled.planes[0])[: resampled.samples * 2])


class _Pieces:
    """A file to write; its bytes are taken while it grows."""

    def __init__(self) -> None:
        self._data = bytearray()

    def write(self, data: bytes) -> int:
        self._data += data
        return len(data)

    def take(self) -> bytes:
        data, self._data = bytes(self._data), bytearray()
        return data


def _tempo(rate: int, speed: float) -> Any:
    """Create a filter that changes the speed and keeps the pitch."""
    from av.filter import Graph

    graph = Graph()
    nodes = [
        graph.add_abuffer(format="flt", sample_rate=rate, layout="mono", time_base=_time_base(rate))
    ]
    while not _SLOWEST <= speed <= _FASTEST:
        nodes.append(graph.add("atempo", str(_SLOWEST)))
        speed /= _SLOWEST
    nodes += [graph.add("atempo", f"{speed:.6f}"), graph.add("abuffersink")]
    graph.link_nodes(*nodes).configure()
    return graph


def _time_base(rate: int) -> Any:
    from fractions import Fraction

    return Fraction(1, rate)


def _wav_header(rate: int, size: int | None) -> bytes:
    """Source: the WAVE format, mono, 16 bits. `size`: bytes of samples, if they are known."""
    file_size, size = (_UNKNOWN_SIZE, _UNKNOWN_SIZE) if size is None else (size + 36, size)
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, rate, 2 * rate, 2, 16)
    riff = struct.pack("<4sI4s", b"RIFF", file_size, b"WAVE")
    return riff + form + struct.pack("<4sI", b"data", size)

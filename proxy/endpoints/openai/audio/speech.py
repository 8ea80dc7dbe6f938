"""`POST /v1/audio/speech`.

Source: https://platform.openai.com/docs/api-reference/audio/createSpeech
"""

import asyncio
import base64
from functools import partial
from typing import Annotated, Literal, cast, get_args

import msgspec
from litestar import post
from litestar.response.base import ASGIResponse
from msgspec import Meta, Struct

from adapters.audio import AudioSink, SpeechAudio, SpeechEvent, SpeechFinished, SpeechRequest
from adapters.audio import SpeechStarted as Started
from adapters.errors import InvalidRequestError, UnsupportedParameterError
from proxy.access.metering import metered_audio
from proxy.audio import require_codecs
from proxy.audio.encode import CODECS, AudioFormat, Encoder
from proxy.endpoints.server_request import ServerRequest
from proxy.errors import Failure
from proxy.http.event_stream import SSE, EventSink, Framing, Put, sse
from proxy.keep_alive import KeepAlive, to_keep_alive
from proxy.openapi import Operation

_encode = msgspec.json.Encoder().encode


class VoiceId(Struct):
    id: str


class SpeechBody(Struct, kw_only=True):
    model: str
    input: Annotated[str, Meta(min_length=1)]
    voice: str | VoiceId | None = None
    """OpenAI requires one; without it the model's default speaks."""
    instructions: Annotated[str, Meta(max_length=4096)] | None = None
    response_format: str | None = None
    """`mp3`, which is the default, `opus`, `aac`, `flac`, `wav` or `pcm`."""
    speed: Annotated[float, Meta(ge=0.25, le=4)] | None = None
    """1 is the voice's own."""
    stream_format: Literal["audio", "sse"] | None = None
    backend: str | None = None
    """The name of the backend that must answer."""
    keep_alive: KeepAlive | None = None
    ttl: Annotated[float, Meta(ge=0)] | None = None


class SpeechAudioDelta(Struct, kw_only=True, tag_field="type", tag="speech.audio.delta"):
    audio: str
    """A piece of the file, in base64."""


class SpeechUsage(Struct):
    input_tokens: int
    output_tokens: int
    total_tokens: int


class SpeechAudioDone(Struct, kw_only=True, tag_field="type", tag="speech.audio.done"):
    usage: SpeechUsage


class SpeechIncompleteError(Exception):
    """Speech failed after its first bytes: the connection ends, because a file has no place for an
    error."""


def to_speech_request(body: SpeechBody, model: str) -> SpeechRequest:
    voice = body.voice.id if isinstance(body.voice, VoiceId) else body.voice
    return SpeechRequest(
        model=model,
        text=body.input,
        voice=voice or None,
        speed=1.0 if body.speed is None else body.speed,
        instructions=body.instructions or None,
        keep_alive=to_keep_alive(body.keep_alive, body.ttl),
    )


def to_format(name: str) -> AudioFormat:
    """
    Raises:
        UnsupportedParameterError: audio cannot be written in this format; lists those that can.
    """
    if name in get_args(AudioFormat):
        return cast(AudioFormat, name)
    raise UnsupportedParameterError(
        f"'response_format' {name[:50]!r} is not supported; use {', '.join(CODECS)}.",
        param="response_format",
    )


class _Encoding:
    """Encodes speech to pieces of a file, beside the event loop."""

    def __init__(self, form: AudioFormat, sink: EventSink[bytes | SpeechFinished]) -> None:
        self._form: AudioFormat = form
        self._sink = sink
        self._events: list[SpeechEvent] = []
        self._encoder: Encoder | None = None

    def write(self, event: SpeechEvent, /) -> bool:
        self._events.append(event)
        return True

    async def drain(self) -> None:
        events, self._events = self._events, []
        for event in events:
            if data := await asyncio.to_thread(self._to_bytes, event):
                self._sink.write(data)
            if isinstance(event, SpeechFinished):
                self._sink.write(event)
        await self._sink.drain()

    def _to_bytes(self, event: SpeechEvent) -> bytes:
        match event:
            case Started():
                self._encoder = Encoder(self._form, event.rate, event.speed)
                return b""
            case SpeechAudio():
                return self._started.encode(event.samples, is_all=event.is_all)
            case SpeechFinished():
                return self._started.finish()

    @property
    def _started(self) -> Encoder:
        if self._encoder is None:
            raise RuntimeError("The backend has not begun its answer.")
        return self._encoder


class FileRenderer:
    """Sends the bytes of the file as they are."""

    def __init__(self, put: Put) -> None:
        self._put = put

    def write(self, event: bytes | SpeechFinished, /) -> bool:
        return self._put(event) if isinstance(event, bytes) else False

    def error(self, failure: Failure, /) -> bytes:
        raise SpeechIncompleteError(failure.message)


class EventRenderer:
    """Sends OpenAI's events."""

    def __init__(self, put: Put) -> None:
        self._put = put

    def write(self, event: bytes | SpeechFinished, /) -> bool:
        if isinstance(event, bytes):
            delta = SpeechAudioDelta(audio=base64.b64encode(event).decode())
            return self._put(sse(_encode(delta)))
        ins, outs = event.input_tokens, event.output_tokens
        return self._put(sse(_encode(SpeechAudioDone(usage=SpeechUsage(ins, outs, ins + outs)))))

    def error(self, failure: Failure, /) -> bytes:
        return sse(_encode(failure.body))


_SPEECH = Operation(
    summary="OpenAI's speech",
    asks=(SpeechBody,),
    answers=(),
    other_types=tuple(codec.media_type for codec in CODECS.values()),
    events=(SpeechAudioDelta, SpeechAudioDone),
    may_force=True,
)


@post("/v1/audio/speech", status_code=200, operation=_SPEECH, fast=True)
async def create_speech(request: ServerRequest) -> ASGIResponse:
    request.record.operation = "speech"
    body = await request.read(SpeechBody)
    form = to_format("mp3" if body.response_format is None else body.response_format)
    require_codecs("model")
    limit = request.config.server.audio.max_input
    if len(body.input) > limit:
        raise InvalidRequestError(
            f"'input' has {len(body.input)} characters; at most {limit} are spoken.", param="input"
        )
    routed = to_speech_request(body, request.forced(body.model, body.backend))
    request.check_keep_alive(routed.keep_alive)
    is_file = body.stream_format != "sse"
    request.record.streamed = not is_file
    media_type = CODECS[form].media_type
    return await request.begin_stream(
        partial(_speak, request, routed, form),
        FileRenderer if is_file else EventRenderer,
        framing=Framing(media_type, media_type.encode(), None) if is_file else SSE,
    )


async def _speak(
    request: ServerRequest,
    routed: SpeechRequest,
    form: AudioFormat,
    sink: EventSink[bytes | SpeechFinished],
) -> None:
    encoding: AudioSink[SpeechEvent] = _Encoding(form, sink)
    limits, record = request.grant.limits, request.record
    with limits.answer_in_progress(), metered_audio(limits, record, len(routed.text)):
        await request.router.speak(routed, encoding, record)

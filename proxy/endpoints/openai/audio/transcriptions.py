"""`POST /v1/audio/transcriptions` and `POST /v1/audio/translations`.

Source: https://platform.openai.com/docs/api-reference/audio/createTranscription
"""

from functools import partial
from typing import Annotated, Any, Literal, get_args

from litestar import post
from litestar.response.base import ASGIResponse
from msgspec import Meta, Struct
from msgspec.structs import fields, replace

from adapters.audio import Task, TranscriptEvent, TranscriptionRequest
from adapters.errors import InvalidRequestError, UnsupportedParameterError
from proxy.access.metering import metered_audio
from proxy.audio import require_codecs
from proxy.endpoints.openai.audio.captions import to_srt, to_vtt
from proxy.endpoints.openai.audio.languages import to_code, to_name
from proxy.endpoints.openai.audio.transcript import (
    DurationUsage,
    Transcript,
    TranscriptFormat,
    Transcription,
    TranscriptRenderer,
    TranscriptTextDelta,
    TranscriptTextDone,
    VerboseTranscription,
    to_logprobs,
    to_segments,
)
from proxy.endpoints.server_request import ServerRequest
from proxy.http.body import convert_texts
from proxy.http.event_stream import EventSink
from proxy.http.json_response import JSONResponse
from proxy.http.multipart import MULTIPART_TYPES, Form, UploadedFile, receive_form
from proxy.keep_alive import KeepAlive, to_keep_alive
from proxy.openapi import Operation

Granularity = Literal["word", "segment"]
_LISTS = ("timestamp_granularities", "include", "languages", "keywords")
_FILES = frozenset({"file"})
_STREAMED: tuple[TranscriptFormat, ...] = ("json", "text")


class TranscriptionForm(Struct, kw_only=True):
    """The fields of the form beside `file`. Lists may have `[]` after their names."""

    model: str
    language: str | None = None
    languages: list[str] = []
    keywords: list[str] = []
    prompt: str | None = None
    response_format: str = "json"
    temperature: Annotated[float, Meta(ge=0, le=1)] | None = None
    timestamp_granularities: list[Granularity] = []
    include: list[Literal["logprobs"]] = []
    stream: bool = False
    chunking_strategy: str | None = None
    """Cutting of the audio; without effect, because Whisper has windows of its own."""
    backend: str | None = None
    """The name of the backend that must answer."""
    keep_alive: KeepAlive | None = None
    ttl: Annotated[float, Meta(ge=0)] | None = None


def to_form(form: Form) -> TranscriptionForm:
    """Convert the texts of a form.

    Raises:
        InvalidRequestError: a value does not fit; `param` is its field.
    """
    known = {field.encode_name for field in fields(TranscriptionForm)}
    raw: dict[str, Any] = {
        name: values if name in _LISTS else values[-1]
        for name, values in form.fields.items()
        if name in known and (name in _LISTS or values[-1] != "")
    }
    return convert_texts(raw, TranscriptionForm)


def to_request(body: TranscriptionForm, model: str, task: Task) -> TranscriptionRequest:
    """Translate a form; the audio is decoded later."""
    words = body.response_format == "verbose_json" and "word" in body.timestamp_granularities
    return TranscriptionRequest(
        model=model,
        samples=b"",
        task=task,
        language=to_code(body.language) if body.language else None,
        languages=tuple(map(to_code, body.languages)),
        keywords=tuple(filter(None, map(str.strip, body.keywords))),
        prompt=body.prompt,
        temperature=body.temperature,
        words=words,
        logprobs="logprobs" in body.include,
        keep_alive=to_keep_alive(body.keep_alive, body.ttl),
    )


def check(body: TranscriptionForm) -> None:
    """Refuse what no model here can honour, and fields that exclude each other.

    Raises:
        InvalidRequestError, UnsupportedParameterError: `param` is the field.
    """
    formats = get_args(TranscriptFormat)
    if body.response_format not in formats:
        raise UnsupportedParameterError(
            f"'response_format' {body.response_format[:50]!r} is not supported; use "
            f"{', '.join(formats)}.",
            param="response_format",
        )
    if body.timestamp_granularities and body.response_format != "verbose_json":
        raise InvalidRequestError(
            "'timestamp_granularities' needs 'response_format' verbose_json.",
            param="timestamp_granularities",
        )
    codes = [to_code(language) for language in body.languages]
    if body.language and codes and to_code(body.language) not in codes:
        raise InvalidRequestError("'language' conflicts with 'languages'.", param="languages")
    if body.include and body.response_format != "json":
        raise InvalidRequestError(
            "'include' logprobs needs 'response_format' json.", param="include"
        )
    if body.stream and body.response_format not in _STREAMED:
        raise InvalidRequestError(
            f"'stream' needs 'response_format' {' or '.join(_STREAMED)}.", param="response_format"
        )


def render(
    body: TranscriptionForm, task: Task, transcript: Transcript, heard_seconds: float
) -> ASGIResponse:
    """Render a complete transcript in the format of the request."""
    segments, seconds = transcript.segments, round(heard_seconds, 2)
    is_transcription = task == "transcribe"
    usage = DurationUsage(seconds) if is_transcription else None
    match body.response_format:
        case "text":
            return _text(transcript.text + "\n", "text/plain; charset=utf-8")
        case "srt":
            return _text(to_srt(segments), "text/plain; charset=utf-8")
        case "vtt":
            return _text(to_vtt(segments), "text/vtt; charset=utf-8")
        case "verbose_json":
            wanted = body.timestamp_granularities or ["segment"]
            words = [word for segment in segments for word in segment.words]
            return JSONResponse(
                VerboseTranscription(
                    task=task,
                    language=to_name(transcript.language) if is_transcription else "english",
                    duration=seconds,
                    text=transcript.text,
                    segments=to_segments(segments) if "segment" in wanted else None,
                    words=words if "word" in wanted else None,
                    usage=usage,
                )
            )
        case _:
            logprobs = to_logprobs(segments) if body.include else None
            return JSONResponse(Transcription(text=transcript.text, usage=usage, logprobs=logprobs))


def _text(text: str, content_type: str) -> ASGIResponse:
    return ASGIResponse(body=text.encode(), status_code=200, headers={"content-type": content_type})


async def answer(request: ServerRequest, task: Task) -> ASGIResponse:
    """Answer a form with a transcript, whole or streamed.

    Raises:
        BackendError: as `Router.transcribe`; `param` is the form's field.
    """
    request.record.operation = "transcription"
    server = request.config.server
    form = await request.arrival(
        receive_form(request.receive, request.fields, server, server.audio.max_bytes, _FILES)
    )
    body = to_form(form)
    _note_unknown(request, form)
    model = request.forced(body.model, body.backend)
    check(body)
    require_codecs("file")
    file = _file(form)
    await request.router.find_transcriber(model)  # Before the work of decoding.
    routed = to_request(body, model, task)
    request.check_keep_alive(routed.keep_alive)
    write = partial(_transcribe, request, routed, file.data)
    if body.stream:
        request.record.streamed = True
        return await request.begin_stream(
            write, partial(TranscriptRenderer, with_logprobs=routed.logprobs)
        )
    transcript = Transcript()
    seconds = await request.finish(write(transcript))
    return render(body, task, transcript, seconds)


def _file(form: Form) -> UploadedFile:
    if (file := form.files.get("file")) is None:
        raise InvalidRequestError("Missing required parameter: 'file'.", param="file")
    return file


def _note_unknown(request: ServerRequest, form: Form) -> None:
    """List fields without effect; refuse them with `strict_fields`.

    Raises:
        InvalidRequestError: a field is unknown.
    """
    known = {field.encode_name for field in fields(TranscriptionForm)} - {"chunking_strategy"}
    others = [name for name in form.files if name != "file"]
    unknown = tuple(name[:200] for name in (*form.fields, *others) if name not in known)
    if unknown and request.config.server.strict_fields:
        raise InvalidRequestError(f"Unknown parameter: '{unknown[0]}'.", param=unknown[0])
    request.record.unknown = unknown


async def _transcribe(
    request: ServerRequest,
    routed: TranscriptionRequest,
    file: bytes,
    sink: EventSink[TranscriptEvent],
) -> float:
    """Decode and transcribe a file, both as one answer; returns the seconds of its audio."""
    limits, record = request.grant.limits, request.record
    with limits.answer_in_progress():
        async with request.audio.decoded(file, request.config.server.audio) as samples:
            routed = replace(routed, samples=samples)
            with metered_audio(limits, record, routed.tokens):
                await request.router.transcribe(routed, sink, record)
    return routed.seconds


def _operation(summary: str) -> Operation:
    return Operation(
        summary=summary,
        asks=(TranscriptionForm,),
        answers=(Transcription, VerboseTranscription),
        other_types=("text/plain", "text/vtt"),
        events=(TranscriptTextDelta, TranscriptTextDone),
        body_type="multipart/form-data",
        may_force=True,
    )


@post(
    "/v1/audio/transcriptions",
    status_code=200,
    operation=_operation("OpenAI's transcriptions"),
    content_types=MULTIPART_TYPES,
    fast=True,
)
async def create_transcription(request: ServerRequest) -> ASGIResponse:
    return await answer(request, "transcribe")


@post(
    "/v1/audio/translations",
    status_code=200,
    operation=_operation("OpenAI's translations: speech of any language to English text"),
    content_types=MULTIPART_TYPES,
    fast=True,
)
async def create_translation(request: ServerRequest) -> ASGIResponse:
    return await answer(request, "translate")

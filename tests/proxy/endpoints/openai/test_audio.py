"""`/v1/audio/*`: OpenAI's clients against a scripted engine."""

import asyncio
import base64
import io
import json
from typing import Any

import httpx2
import openai
import pytest
import soundfile
from fakes.scripted_audio import ScriptedAudio
from fakes.scripted_backend import HANG, http_client, named_client, openai_client
from fakes.tiny_audio import sine
from servers.served import served

from adapters.audio import (
    SpeechAudio,
    SpeechFinished,
    SpeechRequest,
    SpeechStarted,
    TranscriptionRequest,
    TranscriptLogprob,
    TranscriptSegment,
    TranscriptStarted,
)
from adapters.backend import Model
from adapters.errors import GenerationError, UnsupportedParameterError
from proxy.access.config import KeyConfig
from proxy.audio.encode import Encoder
from proxy.config import AudioConfig, Config, ModelConfig, ServerConfig

SPEECH, FORM, TRANSLATIONS = (
    "/v1/audio/speech",
    "/v1/audio/transcriptions",
    "/v1/audio/translations",
)
RATE = 24_000
DONE = SpeechFinished(input_tokens=5, output_tokens=7, seconds=1.0)
SOUND = (
    SpeechStarted(rate=RATE),
    SpeechAudio(sine(0.5, RATE)),
    SpeechAudio(sine(0.5, RATE)),
    DONE,
)
SAY: dict[str, Any] = {"model": "speaker", "input": "Hello", "voice": "anna"}


def wav(seconds: float = 1.0) -> bytes:
    encoder = Encoder("wav", 16_000)
    return encoder.encode(sine(seconds), is_all=True) + encoder.finish()


UPLOAD = ("speech.wav", wav(), "audio/wav")


async def post_form(backend: ScriptedAudio, path: str = FORM, **fields: Any) -> httpx2.Response:
    data = {"model": "listener", **fields}
    async with http_client(backend) as client:
        return await client.post(path, files={"file": UPLOAD}, data=data)


# Speech.


@pytest.mark.parametrize(
    ("form", "content_type"),
    [
        ("mp3", "audio/mpeg"),
        ("opus", "audio/ogg; codecs=opus"),
        ("flac", "audio/flac"),
        ("wav", "audio/wav"),
    ],
)
async def test_sdk_gets_a_file(form: Any, content_type: str):
    async with openai_client(ScriptedAudio(speech=SOUND)) as client:
        answer = await client.audio.speech.create(**SAY, response_format=form)
    samples, rate = soundfile.read(io.BytesIO(answer.content))
    assert answer.response.headers["content-type"] == content_type
    assert len(samples) / rate == pytest.approx(1.0, abs=0.1)


async def test_sdk_streams_a_file():
    async with openai_client(ScriptedAudio(speech=SOUND)) as client:
        create = client.audio.speech.with_streaming_response.create
        async with create(**SAY, response_format="pcm") as answer:
            data = b"".join([piece async for piece in answer.iter_bytes()])
    assert len(data) == 2 * RATE


@pytest.mark.parametrize("stream_format", ["audio", "sse"])
async def test_first_sound_comes_at_once_and_a_client_that_leaves_stops_the_engine(
    stream_format: str,
):
    backend = ScriptedAudio(speech=(*SOUND[:2], HANG))
    body = {**SAY, "stream_format": stream_format, "response_format": "pcm"}
    async with served(backend) as port, httpx2.AsyncClient() as client:
        async with client.stream("POST", url(port), json=body) as answer:
            assert await anext(answer.aiter_bytes())
            await asyncio.wait_for(backend.hangs.wait(), 10)
        await asyncio.wait_for(backend.stopped.wait(), 10)


async def test_failure_after_the_first_sound_leaves_a_file_incomplete():
    backend = ScriptedAudio(speech=(*SOUND[:2], GenerationError("broken")))
    async with served(backend) as port, httpx2.AsyncClient() as client:
        with pytest.raises(httpx2.RemoteProtocolError):
            await client.post(url(port), json={**SAY, "response_format": "pcm"})


def url(port: int) -> str:
    return f"http://127.0.0.1:{port}{SPEECH}"


async def test_events_have_the_file_and_its_usage():
    async with http_client(ScriptedAudio(speech=SOUND)) as client:
        body = {**SAY, "stream_format": "sse", "response_format": "pcm"}
        text = (await client.post(SPEECH, json=body)).text
    *deltas, done = [json.loads(line[6:]) for line in text.splitlines() if line]
    assert {delta["type"] for delta in deltas} == {"speech.audio.delta"}
    assert sum(len(base64.b64decode(delta["audio"])) for delta in deltas) == 2 * RATE
    assert done == {
        "type": "speech.audio.done",
        "usage": {"input_tokens": 5, "output_tokens": 7, "total_tokens": 12},
    }


async def test_request_reaches_the_backend():
    backend = ScriptedAudio(speech=SOUND)
    async with http_client(backend) as client:
        fields = {"voice": {"id": "mary"}, "speed": 2, "instructions": "softly", "keep_alive": 60}
        assert (await client.post(SPEECH, json={**SAY, **fields})).status_code == 200
    assert backend.asked == [
        SpeechRequest(
            model="speaker",
            text="Hello",
            voice="mary",
            speed=2.0,
            instructions="softly",
            keep_alive=60.0,
        )
    ]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": ""}, "input"),
        ({"input": "x" * 11}, "input"),
        ({"speed": 5}, "speed"),
        ({"response_format": "midi"}, "response_format"),
        ({"stream_format": "x"}, "stream_format"),
        ({"voice": 1}, "voice"),
    ],
)
async def test_wrong_field_is_refused_by_name(fields: dict[str, Any], param: str):
    config = Config(server=ServerConfig(audio=AudioConfig(max_input=10)))
    async with http_client(ScriptedAudio(speech=SOUND), config=config) as client:
        response = await client.post(SPEECH, json={**SAY, **fields})
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


async def test_failure_before_the_first_sound_has_a_status():
    error = UnsupportedParameterError("'speaker' takes no instructions.", param="instructions")
    async with http_client(ScriptedAudio(speech=(error,))) as client:
        response = await client.post(SPEECH, json=SAY)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "instructions"


async def test_failure_after_the_first_sound_ends_events_with_an_error():
    backend = ScriptedAudio(speech=(*SOUND[:2], GenerationError("broken")))
    async with http_client(backend) as client:
        text = (await client.post(SPEECH, json={**SAY, "stream_format": "sse"})).text
    assert json.loads(text.splitlines()[-2][6:])["error"]["message"] == "broken"
    assert "speech.audio.done" not in text


# Transcriptions.


async def test_sdk_gets_a_transcript():
    async with openai_client(ScriptedAudio()) as client:
        answer = await client.audio.transcriptions.create(model="listener", file=UPLOAD)
    assert answer.text == "Hello there. Bye --> now."
    assert answer.usage is not None
    assert answer.usage.to_dict() == {"type": "duration", "seconds": 1.0}


async def test_sdk_gets_segments_with_all_fields_and_words():
    async with openai_client(ScriptedAudio()) as client:
        answer = await client.audio.transcriptions.create(
            model="listener",
            file=UPLOAD,
            response_format="verbose_json",
            timestamp_granularities=["word", "segment"],
        )
    assert (answer.language, answer.duration) == ("english", 1.0)
    assert answer.segments is not None
    assert answer.segments[0].to_dict() == {
        "id": 0,
        "seek": 0,
        "start": 0.0,
        "end": 1.5,
        "text": " Hello there.",
        "tokens": [1, 2],
        "temperature": 0.0,
        "avg_logprob": -0.25,
        "compression_ratio": 0.5,
        "no_speech_prob": 0.125,
    }
    assert [word.to_dict() for word in answer.words or []] == [
        {"word": "Hello", "start": 0.0, "end": 0.5},
        {"word": "there.", "start": 0.5, "end": 1.5},
    ]


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ("text", "Hello there. Bye --> now.\n"),
        (
            "srt",
            "1\n00:00:00,000 --> 00:00:01,500\nHello there.\n\n"
            "2\n01:01:01,250 --> 01:01:02,000\nBye -> now.\n\n",
        ),
        (
            "vtt",
            "WEBVTT\n\n00:00:00.000 --> 00:00:01.500\nHello there.\n\n"
            "01:01:01.250 --> 01:01:02.000\nBye -> now.\n\n",
        ),
    ],
)
async def test_transcript_as_text(form: str, text: str):
    response = await post_form(ScriptedAudio(), response_format=form)
    assert response.text == text


async def test_sdk_streams_a_transcript():
    async with openai_client(ScriptedAudio()) as client:
        events = await client.audio.transcriptions.create(
            model="listener", file=UPLOAD, stream=True
        )
        *deltas, done = [event async for event in events]
    texts = [delta.delta for delta in deltas if delta.type == "transcript.text.delta"]
    assert texts == ["Hello there.", " Bye --> now."]
    assert done.to_dict() == {
        "type": "transcript.text.done",
        "text": "Hello there. Bye --> now.",
        "usage": {
            "type": "tokens",
            "input_tokens": 100,
            "output_tokens": 3,
            "total_tokens": 103,
        },
    }


async def test_sdk_gets_the_error_of_a_stream():
    script = (
        TranscriptStarted(),
        TranscriptSegment(text=" Hello.", start=0.0, end=1.0),
        GenerationError("broken"),
    )
    async with openai_client(ScriptedAudio(transcript=script)) as client:
        events = await client.audio.transcriptions.create(
            model="listener", file=UPLOAD, stream=True
        )
        with pytest.raises(openai.APIError, match="broken"):
            _ = [event async for event in events]


async def test_log_probabilities():
    logprob = TranscriptLogprob(" Hi", -0.5, [32, 72, 105])
    script = (TranscriptSegment(text=" Hi", start=0.0, end=1.0, logprobs=(logprob,)),)
    response = await post_form(ScriptedAudio(transcript=script), **{"include[]": "logprobs"})
    assert response.json() == {
        "text": "Hi",
        "usage": {"type": "duration", "seconds": 1.0},
        "logprobs": [{"token": " Hi", "logprob": -0.5, "bytes": [32, 72, 105]}],
    }


async def test_form_reaches_the_backend():
    backend = ScriptedAudio()
    response = await post_form(
        backend,
        language="English",
        prompt="Names: Bo.",
        temperature="0.4",
        response_format="verbose_json",
        **{
            "timestamp_granularities[]": ["word"],
            "languages[]": ["English", "de-AT"],
            "keywords[]": ["Bo", " "],
            "chunking_strategy": "auto",
            "nonsense": "1",
        },
    )
    assert response.headers["x-tandem-ignored"] == "chunking_strategy, nonsense"
    (asked,) = backend.asked
    assert isinstance(asked, TranscriptionRequest)
    assert (asked.language, asked.prompt, asked.temperature) == ("en", "Names: Bo.", 0.4)
    assert (asked.languages, asked.keywords) == (("en", "de"), ("Bo",))
    assert (asked.words, asked.logprobs, asked.task) == (True, False, "transcribe")
    assert asked.seconds == pytest.approx(1.0, abs=0.01)


@pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")
async def test_sdk_translates():
    backend = ScriptedAudio()
    async with openai_client(backend) as client:
        answer = await client.audio.translations.create(model="listener", file=UPLOAD)
        verbose = await client.audio.translations.create(
            model="listener", file=UPLOAD, response_format="verbose_json"
        )
    assert answer.text == "Hello there. Bye --> now."
    assert verbose.language == "english"
    assert {asked.task for asked in backend.asked if isinstance(asked, TranscriptionRequest)} == {
        "translate"
    }


async def test_shape_of_open_webui():
    """It sends what it has, `language` or not, without lists and without a format."""
    response = await post_form(ScriptedAudio(), language="de")
    assert response.json()["text"] == "Hello there. Bye --> now."


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": ""}, "model"),
        ({"temperature": "2"}, "temperature"),
        ({"temperature": "warm"}, "temperature"),
        ({"response_format": "diarized_json"}, "response_format"),
        ({"response_format": "srt", "stream": "true"}, "response_format"),
        ({"timestamp_granularities[]": "word"}, "timestamp_granularities"),
        ({"include[]": "x"}, "include[0]"),
        ({"include[]": "logprobs", "response_format": "text"}, "include"),
        ({"stream": "maybe"}, "stream"),
        ({"language": "en", "languages[]": "de"}, "languages"),
    ],
    ids=str,
)
async def test_wrong_form_is_refused_by_name(fields: dict[str, Any], param: str):
    response = await post_form(ScriptedAudio(), **fields)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


async def test_translation_gets_the_language_of_the_speech():
    """OpenAI's has no such field; speech that is taken for another language is translated badly."""
    backend = ScriptedAudio()
    response = await post_form(backend, "/v1/audio/translations", language="fr")
    (asked,) = backend.asked
    assert isinstance(asked, TranscriptionRequest)
    assert (asked.task, asked.language) == ("translate", "fr")
    assert "x-tandem-ignored" not in response.headers


@pytest.mark.parametrize(
    "head",
    [
        'name="file"',
        'name="file"\r\nContent-Type: audio/wav',
        "name=\"file\"; filename*=UTF-8''na%C3%AFve.wav",
    ],
    ids=["name only", "content type", "encoded file name"],
)
async def test_file_without_a_plain_name_is_read(head: str):
    """Clients that write forms by hand leave the name of the file out."""
    parts = (
        b'--X\r\nContent-Disposition: form-data; name="model"\r\n\r\nlistener\r\n',
        f"--X\r\nContent-Disposition: form-data; {head}\r\n\r\n".encode(),
        wav() + b"\r\n--X--\r\n",
    )
    async with http_client(ScriptedAudio()) as client:
        response = await client.post(
            FORM,
            content=b"".join(parts),
            headers={"content-type": "multipart/form-data; boundary=X"},
        )
    assert response.json()["text"] == "Hello there. Bye --> now."


async def test_lists_may_have_places():
    """Encoders of forms for PHP and JavaScript number the values of a list."""
    response = await post_form(
        ScriptedAudio(),
        response_format="verbose_json",
        **{"timestamp_granularities[0]": "word", "timestamp_granularities[1]": "segment"},
    )
    assert len(response.json()["words"]) == 2
    assert len(response.json()["segments"]) == 2


async def test_form_without_a_file_is_refused():
    async with http_client(ScriptedAudio()) as client:
        response = await client.post(FORM, files={"model": (None, "listener")})
    assert (response.status_code, response.json()["error"]["param"]) == (400, "file")


async def test_json_is_refused_with_the_type_that_is_wanted():
    async with http_client(ScriptedAudio()) as client:
        response = await client.post(FORM, json={"model": "listener"})
    assert response.status_code == 415
    assert response.json()["error"]["message"] == "Send the body as multipart/form-data."


async def test_limits_of_the_configuration():
    config = Config(server=ServerConfig(audio=AudioConfig(max_bytes=1000)))
    async with http_client(ScriptedAudio(), config=config) as client:
        response = await client.post(FORM, files={"file": UPLOAD}, data={"model": "listener"})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "file"


# Models and voices.


@pytest.mark.parametrize(
    ("path", "body", "advice"),
    [
        (
            "/v1/chat/completions",
            {"messages": [{"role": "user", "content": "a"}]},
            "/v1/audio/speech",
        ),
        ("/api/chat", {"messages": [{"role": "user", "content": "a"}]}, "/v1/audio/speech"),
        ("/v1/completions", {"prompt": "a"}, "/v1/audio/speech"),
        ("/v1/embeddings", {"input": "a"}, "/v1/audio/speech"),
    ],
)
async def test_text_of_a_speech_model_is_refused_with_its_route(
    path: str, body: dict[str, Any], advice: str
):
    async with http_client(ScriptedAudio()) as client:
        response = await client.post(path, json={"model": "speaker", **body})
    assert response.status_code == 400
    assert advice in response.text


async def test_first_request_by_an_alias_waits_for_the_list_of_models():
    """The name is known from the configuration; what the model does is not, before it is listed."""
    listing = asyncio.Event()

    class Slow(ScriptedAudio):
        async def list_models(self) -> list[Model]:
            await listing.wait()
            return await super().list_models()

    config = Config(models={"whisper-1": ModelConfig(names={"mlx": "listener"})})
    async with named_client({"mlx": Slow()}, config) as client:
        request = client.post(FORM, files={"file": UPLOAD}, data={"model": "whisper-1"})
        asking = asyncio.create_task(request)
        await asyncio.sleep(0)
        listing.set()
        response = await asking
    assert response.json()["text"] == "Hello there. Bye --> now."


async def test_speech_of_a_text_model_is_refused():
    async with http_client(ScriptedAudio()) as client:
        response = await client.post(SPEECH, json={**SAY, "model": "m"})
    assert response.json()["error"]["message"] == (
        "'m' is not a speech model: see 'capabilities' in GET /v1/models."
    )


async def test_model_of_the_other_kind_of_audio_is_refused_with_its_route():
    async with http_client(ScriptedAudio()) as client:
        spoken = await client.post(SPEECH, json={**SAY, "model": "listener"})
    assert spoken.json()["error"]["message"] == (
        "'listener' is not a speech model. Send audio to POST /v1/audio/transcriptions."
    )
    response = await post_form(ScriptedAudio(), model=SAY["model"])
    assert "POST /v1/audio/speech" in response.json()["error"]["message"]


async def test_fields_of_speech_that_are_null_have_their_defaults():
    unset = dict.fromkeys(("response_format", "speed", "stream_format", "instructions"))
    async with http_client(ScriptedAudio()) as client:
        response = await client.post(SPEECH, json=SAY | unset)
    assert response.status_code == 200
    assert response.headers["content-type"] == "audio/mpeg"


async def test_cards_have_the_capability():
    async with openai_client(ScriptedAudio()) as client:
        cards = {card.id: card.to_dict() for card in (await client.models.list()).data}
    assert cards["speaker"]["capabilities"] == ["speech"]
    assert cards["listener"]["capabilities"] == ["transcription"]


@pytest.mark.parametrize("path", ["/v1/audio/voices", "/v1/audio/voices?model=speaker"])
async def test_voices(path: str):
    async with http_client(ScriptedAudio()) as client:
        answer = (await client.get(path)).json()
    assert answer["data"] == answer["voices"]
    assert [(voice["id"], voice["model"], voice["cloned"]) for voice in answer["data"]] == [
        ("anna", "speaker", False),
        ("mary", "speaker", True),
    ]


async def test_voices_of_an_alias_are_not_named_twice():
    config = Config(models={"tts-1": ModelConfig(names={"mlx": "speaker"})})
    async with named_client({"mlx": ScriptedAudio()}, config) as client:
        answer = (await client.get("/v1/audio/voices")).json()
    assert sorted((voice["id"], voice["model"]) for voice in answer["data"]) == [
        ("anna", "speaker"),
        ("anna", "tts-1"),
        ("mary", "speaker"),
        ("mary", "tts-1"),
    ]
    assert [voice["id"] for voice in answer["voices"]] == ["anna", "mary"]


async def test_speech_models_are_listed_as_open_webui_reads_them():
    async with http_client(ScriptedAudio()) as client:
        answer = (await client.get("/v1/audio/models")).json()
    assert answer["data"] == answer["models"]
    assert [model["id"] for model in answer["models"]] == ["speaker"]


async def test_upload_beyond_the_concurrent_answers_of_a_key_is_not_decoded():
    """The refusal came after the work, for each of them: a file of 600 kB can have an hour."""
    key = KeyConfig(name="guest", key="guest-key-0123456789", concurrent=1)
    config = Config(server=ServerConfig(keys=(key,)))
    backend = ScriptedAudio(transcript=(HANG,))
    headers = {"x-api-key": "guest-key-0123456789"}
    damaged = ("speech.wav", wav()[:30], "audio/wav")
    async with http_client(backend, config=config) as client:
        client.headers.update(headers)
        data = {"model": "listener"}
        first = asyncio.create_task(client.post(FORM, files={"file": UPLOAD}, data=data))
        await asyncio.wait_for(backend.hangs.wait(), 10)
        refused = await client.post(FORM, files={"file": damaged}, data=data)
        first.cancel()
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limit_exceeded")

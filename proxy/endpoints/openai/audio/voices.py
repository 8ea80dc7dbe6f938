"""`GET /v1/audio/voices`: the voices of the speech models. As Kokoro-FastAPI and mlx-audio.

`GET /v1/audio/models`: those models, which Open WebUI offers for speech.
"""

from collections.abc import Iterator

from litestar import get
from litestar.response.base import ASGIResponse
from msgspec import Struct

from adapters.audio import Speech, Voice
from proxy.endpoints.openai.models import LISTING_SECONDS
from proxy.endpoints.server_request import ServerRequest
from proxy.http.json_response import JSONResponse
from proxy.openapi import Operation


class VoiceCard(Struct, kw_only=True):
    id: str
    name: str
    object: str = "audio.voice"
    model: str
    language: str | None
    cloned: bool
    """It is a clip of the configuration that the model imitates."""


class VoiceList(Struct, kw_only=True):
    object: str = "list"
    data: list[VoiceCard]
    voices: list[VoiceCard]
    """Each id once, under the name that Open WebUI and wyoming_openai read."""


class SpeechModel(Struct, kw_only=True):
    id: str
    name: str
    object: str = "model"


class SpeechModelList(Struct, kw_only=True):
    object: str = "list"
    data: list[SpeechModel]
    models: list[SpeechModel]
    """The same, under the name that Open WebUI reads."""


class VoiceQuery(Struct):
    model: str | None = None
    """The model that has the voices; all models by default."""


_MODELS = Operation(summary="Models that speak", answers=(SpeechModelList,))
_VOICES = Operation(summary="Voices of the speech models", answers=(VoiceList,), query=VoiceQuery)


@get("/v1/audio/voices", operation=_VOICES, fast=True)
async def list_audio_voices(request: ServerRequest) -> ASGIResponse:
    query = request.read_query(VoiceQuery)
    if query.model is not None:
        route, backend = await request.router.find_speech(query.model)
        cards = _cards(query.model, await backend.list_voices(route.name))
    else:
        await request.registry.refresh(LISTING_SECONDS, only_new=True)
        cards = [card for entry in await _spoken(request) for card in entry]
    # An alias has the voices of its model.
    by_id = {card.id: card for card in reversed(cards)}
    return JSONResponse(VoiceList(data=cards, voices=[*reversed(by_id.values())]))


@get("/v1/audio/models", operation=_MODELS, fast=True)
async def list_audio_models(request: ServerRequest) -> ASGIResponse:
    await request.registry.refresh(LISTING_SECONDS, only_new=True)
    ids = dict.fromkeys(model for model, _, _ in _speakers(request))
    models = [SpeechModel(id=model, name=model) for model in ids]
    return JSONResponse(SpeechModelList(data=models, models=models))


async def _spoken(request: ServerRequest) -> list[list[VoiceCard]]:
    return [
        _cards(model, await backend.list_voices(name))
        for model, name, backend in _speakers(request)
    ]


def _speakers(request: ServerRequest) -> Iterator[tuple[str, str, Speech]]:
    """Yield the id of each model that speaks, with its name on a backend."""
    for entry in request.entries():
        for deployment in entry.deployments:
            backend = request.registry.backends[deployment.backend].backend
            speaks = deployment.model is not None and "speech" in deployment.model.capabilities
            if speaks and isinstance(backend, Speech):
                yield entry.id, deployment.name, backend


def _cards(model: str, voices: list[Voice]) -> list[VoiceCard]:
    return [
        VoiceCard(
            id=voice.id, name=voice.id, model=model, language=voice.language, cloned=voice.cloned
        )
        for voice in voices
    ]

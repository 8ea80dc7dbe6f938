"""What happens when the backend that was chosen fails."""

import pytest
from scripted_backend import EVERYTHING, HELLO, ScriptedBackend, chat, every_error, http_client

from adapters.backend import Model
from adapters.errors import (
    BackendError,
    BackendUnavailableError,
    ContextLengthError,
    InvalidRequestError,
)
from adapters.events import Started, TextDelta

URL = "/v1/chat/completions"
FAULTS = [each for each in every_error() if not issubclass(each, InvalidRequestError)]


def engine(kind: str, *script: object) -> ScriptedBackend:
    steps: tuple[object, ...] = script or tuple(HELLO)
    return ScriptedBackend(steps, kind=kind, models=[Model(name="m")])  # type: ignore[arg-type]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fault", FAULTS)
async def test_the_other_backend_answers_when_the_first_fails_before_it_began(
    fault: type[BackendError], stream: bool
):
    mlx, ollama = engine("mlx", fault("down")), engine("ollama")
    async with http_client(mlx, ollama) as client:
        response = await client.post(URL, json=chat(stream=stream))
    assert response.status_code == 200
    assert response.headers["x-tandem-backend"] == "ollama"
    assert response.headers["x-tandem-fallback-from"].startswith("mlx; reason=")
    assert mlx.running == ollama.running == 0


async def test_a_mistake_of_the_caller_is_told_and_nobody_else_is_asked():
    ollama = engine("ollama")
    async with http_client(engine("mlx", ContextLengthError("too long")), ollama) as client:
        response = await client.post(URL, json=chat())
    assert response.status_code == 400
    assert ollama.requests == []
    assert "x-tandem-fallback-from" not in response.headers


async def test_a_backend_that_was_forced_is_never_left():
    ollama = engine("ollama")
    async with http_client(engine("mlx", BackendUnavailableError("down")), ollama) as client:
        response = await client.post(URL, json=chat(model="mlx/m"))
    assert response.status_code == 503
    assert ollama.requests == []


async def test_an_answer_that_has_begun_is_not_begun_again():
    mlx = engine("mlx", Started(), TextDelta("He"), BackendUnavailableError("down"))
    ollama = engine("ollama")
    async with http_client(mlx, ollama) as client:
        response = await client.post(URL, json=chat(stream=True))
    assert '"error"' in response.text
    assert "[DONE]" not in response.text
    assert ollama.requests == []


async def test_a_backend_that_cannot_honour_the_request_is_no_fallback():
    mlx = engine("mlx", BackendUnavailableError("down"))
    ollama = engine("ollama")
    ollama.honours = EVERYTHING - {"logit_bias"}
    async with http_client(mlx, ollama) as client:
        response = await client.post(URL, json=chat(logit_bias={"1": 1}))
    assert response.status_code == 503
    assert ollama.requests == []


async def test_the_second_failure_is_the_last():
    mlx = engine("mlx", BackendUnavailableError("down"))
    ollama = engine("ollama", BackendUnavailableError("down too"))
    async with http_client(mlx, ollama) as client:
        response = await client.post(URL, json=chat())
    assert response.status_code == 503
    assert response.json()["error"]["message"] == "down too"

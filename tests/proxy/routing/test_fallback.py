"""Fallback to another backend when the chosen one fails."""

import asyncio

import pytest
from fakes.scripted_backend import (
    EVERYTHING,
    HANG,
    HELLO,
    ScriptedBackend,
    chat,
    every_error,
    http_client,
)
from msgspec.structs import replace

from adapters.backend import Model
from adapters.errors import (
    BackendError,
    BackendTimeoutError,
    BackendUnavailableError,
    InvalidRequestError,
)
from adapters.events import Restarted, Started, TextDelta
from proxy.config import Config, ModelConfig, ServerConfig

URL = "/v1/chat/completions"
FAULTS = [each for each in every_error() if not issubclass(each, InvalidRequestError)]


def engine(kind: str, *script: object) -> ScriptedBackend:
    steps: tuple[object, ...] = script or tuple(HELLO)
    return ScriptedBackend(steps, kind=kind, models=[Model(name="m")])  # type: ignore[arg-type]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fault", FAULTS)
async def test_other_backend_answers_when_the_first_fails_before_its_first_event(
    fault: type[BackendError], stream: bool
):
    mlx, ollama = engine("mlx", fault("down")), engine("ollama")
    async with http_client(mlx, ollama) as client:
        response = await client.post(URL, json=chat(stream=stream))
    assert response.status_code == 200
    assert response.headers["x-tandem-backend"] == "ollama"
    assert response.headers["x-tandem-fallback-from"].startswith("mlx; reason=")
    assert mlx.running == ollama.running == 0


async def test_invalid_request_does_not_fall_back():
    ollama = engine("ollama")
    async with http_client(engine("mlx", InvalidRequestError("no")), ollama) as client:
        response = await client.post(URL, json=chat())
    assert response.status_code == 400
    assert ollama.requests == []
    assert "x-tandem-fallback-from" not in response.headers


async def test_forced_backend_does_not_fall_back():
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


@pytest.mark.parametrize("fault", FAULTS)
async def test_the_other_backend_gives_a_whole_answer_of_which_the_first_has_a_part(
    fault: type[BackendError],
):
    """No client has received that part."""
    mlx, ollama = engine("mlx", Started(8), TextDelta("Lost"), fault("down")), engine("ollama")
    async with http_client(mlx, ollama) as client:
        response = await client.post(URL, json=chat())
    assert response.json()["choices"][0]["message"]["content"] == "Hello"
    assert response.headers["x-tandem-fallback-from"].startswith("mlx; reason=")
    assert "x-tandem-context" not in response.headers


@pytest.mark.parametrize("other", [(), ("ollama",)], ids=["alone", "held"])
async def test_an_answer_that_is_begun_anew_has_nothing_of_the_part_before(other: tuple[str, ...]):
    """Its times are not recorded either: the earlier part is of another answer."""
    lost = (Started(8, cold=True), TextDelta("Lo"), TextDelta("st"), Restarted(4), *HELLO[1:])
    mlx = ScriptedBackend(lost, kind="mlx")
    names = dict.fromkeys(("mlx", *other), "m")
    first = Config(models={"m": ModelConfig(names=names, prefer="mlx")})
    async with http_client(mlx, *map(engine, other), config=first) as client:
        response = await client.post(URL, json=chat())
        compared = (await client.get("/api/performance/comparison")).json()["models"]
    assert response.json()["choices"][0]["message"]["content"] == "Hello"
    assert response.headers["x-tandem-context"] == "4"
    assert compared == []


async def test_several_whole_completions_fall_back_each_for_itself():
    mlx = engine("mlx", Started(), TextDelta("Lost"), BackendUnavailableError("down"))
    ollama = engine("ollama")
    body = {"model": "m", "prompt": ["a", "b"], "n": 2}
    first = Config(models={"m": ModelConfig(names={"mlx": "m", "ollama": "m"}, prefer="mlx")})
    async with http_client(mlx, ollama, config=first) as client:
        response = await client.post("/v1/completions", json=body)
        health = (await client.get("/health")).json()
    assert [choice["text"] for choice in response.json()["choices"]] == ["Hello"] * 4
    assert health["fallbacks"] == {"mlx": {"backend_unavailable": 2}}


async def test_fallbacks_are_counted_and_logged_without_the_error_message(
    caplog: pytest.LogCaptureFixture,
):
    mlx = engine("mlx", BackendUnavailableError("secret"))
    first = Config(models={"m": ModelConfig(names={"mlx": "m", "ollama": "m"}, prefer="mlx")})
    async with http_client(mlx, engine("ollama"), config=first) as client:
        before = (await client.get("/health")).json()["fallbacks"]
        for error in (BackendUnavailableError, BackendUnavailableError, BackendTimeoutError):
            mlx.script = [error("secret")]
            await client.post(URL, json=chat())
        after = (await client.get("/health")).json()["fallbacks"]
    assert (before, after) == ({}, {"mlx": {"backend_unavailable": 2, "backend_timeout": 1}})
    lines = [record.getMessage() for record in caplog.records if record.name == "tandem"]
    assert lines[-1] == "mlx failed (backend_timeout): falling back to ollama"
    assert "secret" not in caplog.text


async def test_disconnect_does_not_fall_back():
    mlx, ollama = engine("mlx", HANG), engine("ollama")
    async with http_client(mlx, ollama) as client:
        posting = asyncio.create_task(client.post(URL, json=chat()))
        await mlx.began.wait()
        posting.cancel()
        await asyncio.wait([posting])
    assert (mlx.running, ollama.requests) == (0, [])


async def test_a_backend_that_cannot_honour_the_request_is_no_fallback():
    mlx = engine("mlx", BackendUnavailableError("down"))
    ollama = engine("ollama")
    ollama.honours = EVERYTHING - {"logit_bias"}
    async with http_client(mlx, ollama) as client:
        response = await client.post(URL, json=chat(logit_bias={"1": 1}))
    assert response.status_code == 503
    assert ollama.requests == []


async def test_deadline_is_set_only_when_another_backend_can_answer():
    config = Config(server=ServerConfig(fallback_after=7))
    mlx, ollama = engine("mlx", BackendUnavailableError("down")), engine("ollama")
    async with http_client(mlx, ollama, config=config) as client:
        await client.post(URL, json=chat())
        await client.post(URL, json=chat(model="mlx/m"))
        ollama.unwell.add("m")
        await client.post(URL, json=chat())
    assert [request.patience for request in mlx.requests] == [7, None, None]
    assert [request.patience for request in ollama.requests] == [None, None]


async def test_backend_that_keeps_failing_with_the_model_is_tried_last():
    mlx, ollama = engine("mlx"), engine("ollama")
    mlx.unwell.add("m")
    async with http_client(mlx, ollama) as client:
        response = await client.post(URL, json=chat())
        forced = await client.post(URL, json=chat(model="mlx/m"))
    assert response.headers["x-tandem-backend"] == "ollama"
    assert "x-tandem-fallback-from" not in response.headers
    assert forced.headers["x-tandem-backend"] == "mlx"


EMBEDDINGS = {"model": "m", "input": "a"}
MADE = Model(name="m", origin="sha256:a", exact=True)
SAME = [
    (MADE, MADE),
    (Model(name="m", digest="a"), Model(name="m", digest="a")),
    (replace(MADE, digest="a"), MADE),
]
OTHERS = [
    (Model(name="m"), Model(name="m")),
    (MADE, replace(MADE, exact=False)),
    (MADE, replace(MADE, origin="sha256:b")),
    (Model(name="m", origin="sha256:a"), Model(name="m")),
    (Model(name="m", digest="a"), Model(name="m", digest="b")),
]


def embedders(one: Model, other: Model) -> tuple[ScriptedBackend, ScriptedBackend]:
    """Two backends, the first of which is down."""
    down = [BackendUnavailableError("down")]
    return (
        ScriptedBackend(down, kind="mlx", models=[one]),
        ScriptedBackend(kind="ollama", models=[other]),
    )


@pytest.mark.parametrize("models", SAME)
async def test_vectors_come_from_the_other_backend_when_its_weights_are_the_same(
    models: tuple[Model, Model],
):
    mlx, ollama = embedders(*models)
    async with http_client(mlx, ollama) as client:
        response = await client.post("/v1/embeddings", json=EMBEDDINGS)
        health = (await client.get("/health")).json()
    assert (response.status_code, response.headers["x-tandem-backend"]) == (200, "ollama")
    assert response.headers["x-tandem-fallback-from"] == "mlx; reason=backend_unavailable"
    assert health["fallbacks"] == {"mlx": {"backend_unavailable": 1}}


async def test_backend_knows_that_another_has_the_same_vectors():
    flags = []
    for models in (SAME[0], OTHERS[0]):
        mlx, ollama = embedders(*models)
        async with http_client(mlx, ollama) as client:
            await client.post("/v1/embeddings", json=EMBEDDINGS)
        flags.append([request.elsewhere for request in (*mlx.embedded, *ollama.embedded)])
    assert flags == [[True, False], [False]]


@pytest.mark.parametrize("models", OTHERS)
async def test_vectors_of_other_weights_are_never_mixed(models: tuple[Model, Model]):
    mlx, ollama = embedders(*models)
    async with http_client(mlx, ollama) as client:
        response = await client.post("/v1/embeddings", json=EMBEDDINGS)
    assert (response.status_code, response.headers["x-tandem-backend"]) == (503, "mlx")
    assert ollama.embedded == []


@pytest.mark.parametrize(
    ("models", "backend"),
    [*[(each, "ollama") for each in SAME], *[(each, "mlx") for each in OTHERS]],
)
async def test_embeddings_leave_a_failing_backend_for_the_same_weights_only(
    models: tuple[Model, Model], backend: str
):
    """Vectors of other weights are not comparable with earlier ones."""
    mlx, ollama = embedders(*models)
    mlx.unwell.add("m")
    async with http_client(mlx, ollama) as client:
        response = await client.post("/v1/embeddings", json=EMBEDDINGS)
    assert response.headers["x-tandem-backend"] == backend
    assert "x-tandem-fallback-from" not in response.headers


async def test_invalid_embedding_request_does_not_fall_back():
    mlx, ollama = embedders(*SAME[0])
    mlx.script = [InvalidRequestError("wrong")]
    async with http_client(mlx, ollama) as client:
        response = await client.post("/v1/embeddings", json=EMBEDDINGS)
    assert (response.status_code, ollama.embedded) == (400, [])


async def test_second_failure_is_returned():
    mlx = engine("mlx", BackendUnavailableError("down"))
    ollama = engine("ollama", BackendUnavailableError("down too"))
    async with http_client(mlx, ollama) as client:
        response = await client.post(URL, json=chat())
    assert response.status_code == 503
    assert response.json()["error"]["message"] == "down too"

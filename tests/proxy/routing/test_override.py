"""The backend that a request requires, by name, by header or in its body."""

from typing import Any

import pytest
from fakes.scripted_backend import ScriptedBackend, chat, http_client, openai_client

from adapters.errors import BackendUnavailableError, InvalidRequestError
from proxy.routing.override import to_override

KINDS = ("mlx", "ollama")
CHAT = "/v1/chat/completions"
ASKING: dict[str, dict[str, Any]] = {
    CHAT: chat(),
    "/v1/completions": {"model": "m", "prompt": "Hi"},
    "/v1/embeddings": {"model": "m", "input": "Hi"},
}


def both() -> tuple[ScriptedBackend, ScriptedBackend]:
    return ScriptedBackend(kind="mlx"), ScriptedBackend(kind="ollama")


@pytest.mark.parametrize(
    ("model", "header", "field", "forced"),
    [
        ("m", None, None, "m"),
        ("m", "ollama", None, "ollama/m"),
        ("m", None, "mlx", "mlx/m"),
        ("mlx/m", None, None, "mlx/m"),
        ("mlx/m", "mlx", "mlx", "mlx/m"),
        ("org/m", "mlx", None, "mlx/org/m"),
        ("echo/m", None, "mlx", "mlx/echo/m"),
    ],
)
def test_override_is_a_prefix_of_the_name(
    model: str, header: str | None, field: str | None, forced: str
):
    headers = {} if header is None else {"x-tandem-backend": header}
    assert to_override(model, headers, field, KINDS) == forced


@pytest.mark.parametrize(
    ("model", "header", "field", "param"),
    [
        ("m", "mlx", "ollama", "backend"),
        ("mlx/m", "ollama", None, "x-tandem-backend"),
        ("mlx/m", None, "ollama", "backend"),
        ("m", "echo", None, "x-tandem-backend"),
        ("m", None, "vllm", "backend"),
        ("m", None, "", "backend"),
    ],
)
def test_conflict_and_unknown_backend_name_the_parameter(
    model: str, header: str | None, field: str | None, param: str
):
    headers = {} if header is None else {"x-tandem-backend": header}
    with pytest.raises(InvalidRequestError) as caught:
        to_override(model, headers, field, KINDS)
    assert caught.value.param == param


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("url", ASKING)
async def test_every_endpoint_takes_an_override(url: str, kind: str):
    async with http_client(*both()) as client:
        by_field = await client.post(url, json=ASKING[url] | {"backend": kind})
        by_header = await client.post(url, json=ASKING[url], headers={"x-tandem-backend": kind})
    for response in (by_field, by_header):
        assert response.status_code == 200
        assert response.headers["x-tandem-backend"] == kind
        assert response.json()["model"] == "m"
        assert "x-tandem-ignored" not in response.headers


@pytest.mark.parametrize("url", ASKING)
async def test_every_endpoint_refuses_a_conflict(url: str):
    async with http_client(*both()) as client:
        response = await client.post(
            url, json=ASKING[url] | {"backend": "mlx"}, headers={"x-tandem-backend": "ollama"}
        )
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "backend"


async def test_backend_forced_by_header_does_not_fall_back():
    mlx = ScriptedBackend([BackendUnavailableError("down")], kind="mlx")
    ollama = ScriptedBackend(kind="ollama")
    async with http_client(mlx, ollama) as client:
        response = await client.post(CHAT, json=chat(), headers={"x-tandem-backend": "mlx"})
    assert response.status_code == 503
    assert ollama.requests == []


async def test_openai_client_forces_by_headers_and_extra_body():
    mlx, ollama = both()
    messages: Any = [{"role": "user", "content": "Hi"}]
    async with openai_client(mlx, ollama) as client:
        await client.chat.completions.create(
            model="m", messages=messages, extra_body={"backend": "ollama"}
        )
        other = client.with_options(default_headers={"x-tandem-backend": "ollama"})
        await other.chat.completions.create(model="m", messages=messages)
    assert (len(mlx.requests), len(ollama.requests)) == (0, 2)

"""Describe, delete and copy models, and upload files: recorded answers of a real Ollama."""

from collections.abc import AsyncIterator

import pytest
from fakes.recorded_ollama import Reply, StandIn

from adapters.backend import RunningModel
from adapters.errors import (
    BackendError,
    BackendTimeoutError,
    InvalidRequestError,
    ModelNotFoundError,
)
from adapters.ollama.administration import to_running
from adapters.ollama.backend import OllamaBackend
from adapters.ollama.wire import Tag

DIGEST = "sha256:" + 64 * "0"
BLOB = f"/api/blobs/{DIGEST}"


async def pieces() -> AsyncIterator[bytes]:
    yield b"wei"
    yield b"ghts"


async def test_model_is_described_as_ollama_shows_it(standin: StandIn, backend: OllamaBackend):
    standin.replays("show-llama")
    shown = await backend.describe("smollm2:135m")
    assert shown.facts["general.architecture"] == "llama"
    assert shown.facts["llama.context_length"] == 8192
    assert shown.template.startswith("{{- range .Messages }}")
    assert "FROM " in shown.recipe
    assert standin.bodies("/api/show")[-1] == {"model": "smollm2:135m", "verbose": False}


async def test_loaded_models_are_listed(standin: StandIn, backend: OllamaBackend):
    standin.replays("ps")
    (running,) = await backend.list_running()
    assert (running.name, running.context_length) == ("smollm2:135m", 4096)
    assert running.size_bytes is None  # Ollama reports 0 without a GPU.
    assert running.expires_at == pytest.approx(1795460277.741, abs=0.01)  # pyright: ignore[reportUnknownMemberType]


def test_model_that_stays_has_no_end():
    for_ever = Tag(name="m", size=9, size_vram=4, expires_at="2318-09-20T03:04:17.4166Z")
    assert to_running(for_ever) == RunningModel(name="m", size_bytes=9, gpu_bytes=4)


async def test_model_is_deleted_and_copied(standin: StandIn, backend: OllamaBackend):
    standin.replays("delete")
    standin.replays("copy")
    await backend.copy("smollm2:135m", "copied")
    await backend.delete("copied")
    assert standin.bodies("/api/copy") == [{"source": "smollm2:135m", "destination": "copied"}]
    assert [(s.method, s.body) for s in standin.seen if s.path == "/api/delete"] == [
        ("DELETE", {"model": "copied"})
    ]


async def test_missing_model_is_not_deleted_or_copied(standin: StandIn, backend: OllamaBackend):
    standin.replays("delete-missing")
    standin.replays("copy-missing")
    with pytest.raises(ModelNotFoundError):
        await backend.delete("nope")
    with pytest.raises(ModelNotFoundError):
        await backend.copy("nope", "copied")


@pytest.mark.slow
async def test_file_is_uploaded_unless_it_is_there(standin: StandIn, backend: OllamaBackend):
    status = {"HEAD": 404, "POST": 201}

    async def answer(reply: Reply) -> None:
        await reply.plain(status[standin.seen[-1].method], b"")

    standin.says(BLOB, answer)
    assert not await backend.has_file(DIGEST)
    assert await backend.upload(DIGEST, pieces())
    status["HEAD"] = 200
    assert await backend.has_file(DIGEST)
    unsent = pieces()
    assert not await backend.upload(DIGEST, unsent)
    assert [piece async for piece in unsent] == []  # It was read.
    assert [seen.method for seen in standin.seen] == ["HEAD", "HEAD", "POST", "HEAD", "HEAD"]
    assert standin.bodies(BLOB)[2] == b"weights"


async def test_file_for_a_server_that_hangs_fails(standin: StandIn, backend: OllamaBackend):
    async def answer(reply: Reply) -> None:
        await reply.gone()

    standin.says(BLOB, answer)
    with pytest.raises(BackendTimeoutError):
        await backend.has_file(DIGEST)
    with pytest.raises(BackendTimeoutError):
        await backend.upload(DIGEST, pieces())


async def test_file_of_another_digest_is_refused(standin: StandIn, backend: OllamaBackend):
    async def answer(reply: Reply) -> None:
        is_look = standin.seen[-1].method == "HEAD"
        await reply.plain(
            404 if is_look else 400, b"" if is_look else b'{"error":"digest mismatch"}'
        )

    standin.says(BLOB, answer)
    with pytest.raises(InvalidRequestError, match="digest mismatch"):
        await backend.upload(DIGEST, pieces())


async def test_file_for_a_server_that_is_away_fails(backend: OllamaBackend, standin: StandIn):
    async def answer(reply: Reply) -> None:
        reply.cut()

    standin.says(BLOB, answer)
    with pytest.raises(BackendError):
        await backend.upload(DIGEST, pieces())

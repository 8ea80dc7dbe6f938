"""Models fetched through Ollama: progress, and why there is none."""

import json

import pytest
from fakes.recorded_ollama import Reply, StandIn, says_lines

from adapters.backend import Progress
from adapters.errors import (
    BackendUnavailableError,
    BadUpstreamError,
    InsufficientMemoryError,
    ModelNotFoundError,
)
from adapters.ollama.backend import OllamaBackend


async def pulled(backend: OllamaBackend) -> list[Progress]:
    return [progress async for progress in backend.pull("llama3.2")]


async def test_progress_is_reported_until_success(standin: StandIn, backend: OllamaBackend):
    standin.says(
        "/api/pull",
        says_lines(
            {"status": "pulling manifest"},
            {"status": "pulling dde5aa3fc5ff", "digest": "sha256:dd", "total": 9},
            {"status": "pulling dde5aa3fc5ff", "digest": "sha256:dd", "total": 9, "completed": 4},
            {"status": "verifying sha256 digest"},
            {"status": "success"},
        ),
    )
    assert await pulled(backend) == [
        Progress(status="pulling manifest"),
        Progress(status="pulling dde5aa3fc5ff", completed=0, total=9, digest="sha256:dd"),
        Progress(status="pulling dde5aa3fc5ff", completed=4, total=9, digest="sha256:dd"),
        Progress(status="verifying sha256 digest"),
        Progress(status="success"),
    ]
    assert standin.bodies("/api/pull") == [{"model": "llama3.2"}]


async def test_no_network_is_unavailable(standin: StandIn, backend: OllamaBackend):
    standin.replays("pull-unreachable", "/api/pull")
    with pytest.raises(BackendUnavailableError):
        await pulled(backend)


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("pull model manifest: file does not exist", ModelNotFoundError),
        ("pull model manifest: 500: oops", BackendUnavailableError),
        # What another try does not change.
        ('pull model manifest: 401: {"error":"Invalid username or password."}', ModelNotFoundError),
        ("pull model manifest: 403: denied", ModelNotFoundError),
        ("pull model manifest: 412: requires a newer version of Ollama", ModelNotFoundError),
        (
            'pull model manifest: realm host "" does not match original host "box"',
            ModelNotFoundError,
        ),
        ("max retries exceeded: EOF", BackendUnavailableError),
        ("write /x/blobs/sha256-dd-partial-0: no space left on device", InsufficientMemoryError),
        ("digest mismatch, file must be downloaded again", BadUpstreamError),
    ],
)
async def test_error_line_tells_why(
    standin: StandIn, backend: OllamaBackend, words: str, kind: type[Exception]
):
    standin.says("/api/pull", says_lines({"status": "pulling manifest"}, {"error": words}))
    with pytest.raises(kind) as caught:
        await pulled(backend)
    assert type(caught.value) is kind
    assert "/x/" not in str(caught.value)


async def test_refusal_in_place_of_lines(standin: StandIn, backend: OllamaBackend):
    async def script(reply: Reply) -> None:
        body = json.dumps({"error": "pull model manifest: file does not exist"}).encode()
        await reply.plain(500, body)

    standin.says("/api/pull", script)
    with pytest.raises(ModelNotFoundError):
        await pulled(backend)


async def test_end_without_success_is_an_error(standin: StandIn, backend: OllamaBackend):
    standin.says("/api/pull", says_lines({"status": "pulling manifest"}))
    with pytest.raises(BadUpstreamError, match="ended before it was done"):
        await pulled(backend)


async def test_closing_it_closes_the_socket(standin: StandIn, backend: OllamaBackend):
    async def script(reply: Reply) -> None:
        await reply.head()
        await reply.chunk(b'{"status":"pulling manifest"}\n')
        await reply.gone()

    standin.says("/api/pull", script)
    pull = backend.pull("llama3.2")
    assert await anext(pull) == Progress(status="pulling manifest")
    await pull.aclose()
    await standin.closed()

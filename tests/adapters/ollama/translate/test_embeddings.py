"""Vectors by recorded answers, and what Ollama would pass over in silence."""

import json

import msgspec
import pytest
from fakes.recorded_ollama import Reply, Script, StandIn, recording
from msgspec.structs import replace

from adapters.errors import (
    BackendError,
    BadUpstreamError,
    ContextLengthError,
    InvalidRequestError,
    ModelNotFoundError,
    UnsupportedParameterError,
)
from adapters.ollama.backend import OllamaBackend
from adapters.ollama.translate.embeddings import to_bodies
from adapters.request import EmbeddingRequest, TokenIds

HELLO = EmbeddingRequest(model="all-minilm", inputs=("hello", "world"))


def says(body: object) -> Script:
    async def script(reply: Reply) -> None:
        await reply.plain(200, json.dumps(body).encode())

    return script


async def test_batch_is_the_recorded_one(standin: StandIn, backend: OllamaBackend):
    standin.replays("embed-batch")
    embeddings = await backend.embed(HELLO)
    recorded = recording("embed-batch")
    answer = json.loads("".join(recorded["response"]["chunks"]))
    assert [list(vector) for vector in embeddings.vectors] == answer["embeddings"]
    assert embeddings.prompt_tokens == answer["prompt_eval_count"]
    assert standin.bodies("/api/embed") == [recorded["request"]["body"] | {"truncate": False}]


async def test_dimensions_and_keep_alive_are_sent(standin: StandIn, backend: OllamaBackend):
    standin.replays("embed-dimensions")
    request = EmbeddingRequest(model="m", inputs=("hello",), dimensions=8, keep_alive=60)
    vectors = (await backend.embed(request)).vectors
    sent = standin.bodies("/api/embed")[0]
    assert (len(vectors[0]), sent["dimensions"], sent["keep_alive"]) == (8, 8, 60)


async def test_server_that_knows_no_dimensions_has_its_vectors_cut(
    standin: StandIn, backend: OllamaBackend
):
    standin.says("/api/embed", says({"embeddings": [[3.0, 4.0, 12.0]]}))
    request = EmbeddingRequest(model="m", inputs=("hello",), dimensions=2)
    assert (await backend.embed(request)).vectors == ((0.6, 0.8),)


async def test_more_dimensions_than_there_are_are_refused(standin: StandIn, backend: OllamaBackend):
    standin.says("/api/embed", says({"embeddings": [[3.0, 4.0]]}))
    with pytest.raises(InvalidRequestError) as caught:
        await backend.embed(EmbeddingRequest(model="m", inputs=("hello",), dimensions=3))
    assert caught.value.param == "dimensions"
    assert caught.value.message == "The vectors of this model have 2 dimensions, not 3."


async def test_many_inputs_go_out_in_several_calls_and_keep_their_order(
    standin: StandIn, backend: OllamaBackend
):
    async def script(reply: Reply) -> None:
        texts = standin.bodies("/api/embed")[-1]["input"]
        body = {"embeddings": [[float(text)] for text in texts], "prompt_eval_count": len(texts)}
        await reply.plain(200, json.dumps(body).encode())

    standin.says("/api/embed", script)
    inputs = tuple(str(at) for at in range(1, 301))
    embeddings = await backend.embed(EmbeddingRequest(model="m", inputs=inputs))
    assert embeddings.vectors == tuple((float(at),) for at in range(1, 301))
    assert embeddings.prompt_tokens == 300
    assert [len(body["input"]) for body in standin.bodies("/api/embed")] == [128, 128, 44]


@pytest.mark.parametrize(
    ("inputs", "kind", "param"),
    [
        ((), InvalidRequestError, "input"),
        ((TokenIds((1, 2)),), UnsupportedParameterError, "embedding_tokens"),
    ],
)
async def test_input_that_ollama_does_not_embed_is_refused_before_it_is_sent(
    standin: StandIn,
    backend: OllamaBackend,
    inputs: tuple[str | TokenIds, ...],
    kind: type[BackendError],
    param: str,
):
    with pytest.raises(kind) as caught:
        await backend.embed(EmbeddingRequest(model="m", inputs=inputs))
    assert caught.value.param == param
    assert not standin.bodies("/api/embed")


@pytest.mark.parametrize(
    ("name", "kind", "param"),
    [
        ("embed-empty-string", BadUpstreamError, None),
        ("embed-chat-model", InvalidRequestError, "model"),
        ("embed-missing", ModelNotFoundError, "model"),
    ],
)
async def test_recorded_refusal(
    standin: StandIn,
    backend: OllamaBackend,
    name: str,
    kind: type[BackendError],
    param: str | None,
):
    standin.replays(name)
    with pytest.raises(BackendError) as caught:
        await backend.embed(HELLO)
    assert (type(caught.value), caught.value.param) == (kind, param)


async def test_input_too_long_is_refused_with_how_long_it_may_be(
    standin: StandIn, backend: OllamaBackend
):
    standin.replays("embed-long-truncate-false")
    standin.replays("show-embed")
    with pytest.raises(ContextLengthError, match="longer than the 512 tokens of 'all-minilm'"):
        await backend.embed(HELLO)


@pytest.mark.parametrize("vector", [[], ["NaN"], [[1.0]]])
async def test_vector_that_is_none_is_bad_upstream(
    standin: StandIn, backend: OllamaBackend, vector: list[object]
):
    standin.says("/api/embed", says({"embeddings": [vector, vector]}))
    with pytest.raises(BadUpstreamError):
        await backend.embed(HELLO)


async def test_other_number_of_vectors_is_bad_upstream(standin: StandIn, backend: OllamaBackend):
    standin.says("/api/embed", says({"embeddings": [[1.0]]}))
    with pytest.raises(BadUpstreamError, match="1 vectors for 3 inputs"):
        await backend.embed(replace(HELLO, inputs=("a", "b", "c")))


async def test_embedding_is_counted(standin: StandIn, backend: OllamaBackend):
    standin.says("/api/version", says({"version": "0.33.0"}))
    standin.replays("embed-batch")
    await backend.embed(HELLO)
    standin.replays("embed-missing")
    with pytest.raises(BackendError):
        await backend.embed(HELLO)
    counters = (await backend.health()).counters
    assert (counters["active"], counters["finished"], counters["failed"]) == (0, 1, 1)


def test_num_ctx_of_a_request_is_ollamas_option():
    (body,) = to_bodies(EmbeddingRequest(model="m", inputs=("a",), truncate=True, num_ctx=3))
    assert msgspec.to_builtins(body) == {
        "model": "m",
        "input": ("a",),
        "truncate": True,
        "options": {"num_ctx": 3},
    }

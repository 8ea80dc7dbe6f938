"""`/v1/embeddings`: inputs in, vectors out."""

from typing import Any

import pytest
from fakes.scripted_backend import EVERYTHING, ScriptedBackend, http_client, openai_client

from adapters.backend import Embeddings
from adapters.request import TokenIds
from proxy.endpoints.openai.embeddings import EmbeddingsBody, encode

URL = "/v1/embeddings"


async def test_sdk_decodes_the_vectors_it_asks_for_in_base64():
    backend = ScriptedBackend()
    async with openai_client(backend) as client:
        answer = await client.embeddings.create(model="m", input=["a", "b"], dimensions=2)
    assert [each.embedding for each in answer.data] == [pytest.approx([0.6, -0.8])] * 2
    assert answer.usage.prompt_tokens == answer.usage.total_tokens == 6
    assert (backend.embedded[0].inputs, backend.embedded[0].dimensions) == (("a", "b"), 2)


async def test_answer_in_numbers():
    async with http_client(ScriptedBackend()) as client:
        response = await client.post(URL, json={"model": "m", "input": "a"})
    assert response.headers["x-tandem-backend"] == "scripted"
    assert response.json() == {
        "object": "list",
        "data": [{"object": "embedding", "index": 0, "embedding": [0.6, -0.8]}],
        "model": "m",
        "usage": {"prompt_tokens": 3, "total_tokens": 3},
    }


def test_base64_is_little_endian_float32():
    body = EmbeddingsBody(model="m", input="a", encoding_format="base64")
    assert b'"embedding":"AACAPw=="' in encode(body, Embeddings(((1.0,),), 1))


@pytest.mark.parametrize(
    ("given", "inputs"),
    [
        ([1, 2], (TokenIds((1, 2)),)),
        ([[1], [2, 3]], (TokenIds((1,)), TokenIds((2, 3)))),
    ],
)
async def test_tokens_reach_the_backend(given: Any, inputs: Any):
    backend = ScriptedBackend()
    async with http_client(backend) as client:
        assert (await client.post(URL, json={"model": "m", "input": given})).status_code == 200
    assert backend.embedded[0].inputs == inputs


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": ["a", ""]}, "input[1]"),
        ({"input": ["a", 1]}, "input"),
        ({"input": ["a"] * 2049}, "input"),
        ({"encoding_format": "hex"}, "encoding_format"),
        ({"dimensions": 0}, "dimensions"),
        ({"keep_alive": "x"}, "keep_alive"),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_what_cannot_be_is_refused_by_name(fields: dict[str, Any], param: str):
    async with http_client(ScriptedBackend()) as client:
        response = await client.post(URL, json={"model": "m", "input": "a", **fields})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


async def test_tokens_that_nobody_reads_are_refused_by_name():
    async with http_client(ScriptedBackend(honours=EVERYTHING - {"embedding_tokens"})) as client:
        response = await client.post(URL, json={"model": "m", "input": [1]})
    assert (response.status_code, response.json()["error"]["param"]) == (400, "input")

"""Cards of models for Anthropic's clients, at the URL of OpenAI's."""

import pytest
from fakes.anthropic_client import HEADERS, anthropic_client
from fakes.scripted_backend import ScriptedBackend, http_client

from adapters.backend import Model

MODELS = [Model(name=f"m{at}", created=1_700_000_000, context_length=8192) for at in range(5)]
URL = "/v1/models"


async def test_header_decides_on_the_shape():
    async with http_client(ScriptedBackend(models=MODELS)) as client:
        theirs = (await client.get(URL, headers=HEADERS)).json()
        ours = (await client.get(URL)).json()
    assert theirs["data"][0] == {
        "type": "model",
        "id": "m0",
        "display_name": "m0",
        "created_at": "2023-11-14T22:13:20Z",
        "lifecycle": "active",
        "max_input_tokens": 8192,
        "max_tokens": 8192,
    }
    assert (theirs["first_id"], theirs["last_id"], theirs["has_more"]) == ("m0", "m4", False)
    assert ours["object"] == "list"


@pytest.mark.parametrize(
    ("query", "ids", "has_more"),
    [
        ({"limit": 2}, ["m0", "m1"], True),
        ({"after_id": "m1"}, ["m2", "m3", "m4"], False),
        ({"after_id": "m1", "limit": 2}, ["m2", "m3"], True),
        ({"before_id": "m3", "limit": 2}, ["m1", "m2"], True),
        ({"before_id": "m2"}, ["m0", "m1"], False),
        ({"after_id": "m4"}, [], False),
    ],
)
async def test_pages(query: dict[str, str | int], ids: list[str], has_more: bool):
    async with http_client(ScriptedBackend(models=MODELS)) as client:
        page = (await client.get(URL, params=query, headers=HEADERS)).json()
    assert [card["id"] for card in page["data"]] == ids
    assert page["has_more"] is has_more
    assert (page["first_id"], page["last_id"]) == ((ids[0], ids[-1]) if ids else (None, None))


@pytest.mark.parametrize(
    "query", [{"limit": "0"}, {"limit": "1001"}, {"limit": "x"}, {"after_id": "nope"}]
)
async def test_query_that_makes_no_page_is_refused(query: dict[str, str]):
    async with http_client(ScriptedBackend(models=MODELS)) as client:
        answer = await client.get(URL, params=query, headers=HEADERS)
        ignored = await client.get(URL, params=query)
    assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")
    assert next(iter(query)) in answer.json()["error"]["message"]
    assert ignored.status_code == 200


async def test_sdk_lists_all_pages_and_retrieves_one():
    async with anthropic_client(ScriptedBackend(models=MODELS)) as client:
        listed = [model.id async for model in client.models.list(limit=2)]
        one = await client.models.retrieve("m3")
    assert listed == ["m0", "m1", "m2", "m3", "m4"]
    assert (one.id, one.created_at.year) == ("m3", 2023)


async def test_unknown_model_is_not_found():
    async with http_client(ScriptedBackend(models=MODELS)) as client:
        answer = await client.get(f"{URL}/nope", headers=HEADERS)
    assert (answer.status_code, answer.json()["error"]["type"]) == (404, "not_found_error")

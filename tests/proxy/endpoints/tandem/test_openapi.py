"""The OpenAPI document: valid, whole, and true."""

import json
from pathlib import Path
from typing import Any

import httpx2
import jsonschema
import msgspec
import pytest
from fakes.scripted_backend import ScriptedBackend, ScriptedBuilder, chat, http_client
from litestar.routes import HTTPRoute
from openapi_spec_validator import OpenAPIV31SpecValidator
from referencing import Registry
from referencing.jsonschema import DRAFT202012

from adapters.backend import Model
from proxy.config import Config, ServerConfig
from proxy.errors import BACKEND_ERRORS
from proxy.openapi import Document, to_document
from proxy.routes import routing

NAME = "org/m"
PROMPT = {"model_id": NAME, "prompt": "Hi"}
HI = {"type": "message", "role": "user", "content": "Hi"}
STORED: dict[str, tuple[str, dict[str, Any]]] = {
    "{completion_id}": ("/v1/chat/completions", chat(model=NAME, store=True)),
    "{response_id}": ("/v1/responses", {"model": NAME, "input": "Hi", "background": True}),
    "{conversation_id}": ("/v1/conversations", {"items": [HI]}),
}
"""Parameter of a path -> URL and body that create the stored object."""
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": chat(model=NAME),
    "/v1/responses": {"model": NAME, "input": "Hi"},
    "/v1/responses/input_tokens": {"model": NAME, "input": "Hi"},
    "/v1/responses/compact": {"model": NAME, "input": "Hi"},
    "/api/route": chat(model=NAME),
    "/v1/completions": {"model": NAME, "prompt": "Hi"},
    "/v1/embeddings": {"model": NAME, "input": "Hi"},
    "/v1/messages": chat(model=NAME, max_tokens=9),
    "/v1/messages/count_tokens": chat(model=NAME),
    "/api/chat": PROMPT,
    "/api/mlx/generate": PROMPT,
    "/api/generate": {"model": NAME, "prompt": "Hi", "stream": False},
    "/api/embed": {"model": NAME, "input": "Hi"},
    "/api/embeddings": {"model": NAME, "prompt": "Hi"},
}
UPDATES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions/{completion_id}": {"metadata": {"a": "b"}},
    "/v1/conversations/{conversation_id}": {"metadata": {"a": "b"}},
    "/v1/conversations": {"items": [HI]},
    "/v1/conversations/{conversation_id}/items": {"items": [HI]},
}
COMMANDS: dict[str, dict[str, Any]] = {
    "/api/show": {"model": NAME},
    "/api/pull": {"model": NAME, "stream": False},
    "/api/delete": {"model": NAME},
    "/api/copy": {"source": NAME, "destination": "m2"},
    "/api/create": {"model": "m3", "from": NAME, "stream": False},
    "/api/inspector": {"enabled": False},
    "/api/pin": {"model": NAME},
}
DIGEST = "sha256:" + 64 * "0"
STREAMS = [
    ("/v1/chat/completions", BODIES["/v1/chat/completions"]),
    ("/v1/completions", BODIES["/v1/completions"]),
    ("/v1/messages", BODIES["/v1/messages"]),
    ("/api/chat", PROMPT),
    ("/api/chat", chat(model=NAME)),
    ("/api/mlx/generate", PROMPT),
    ("/api/generate", BODIES["/api/generate"]),
    ("/api/pull", COMMANDS["/api/pull"]),
    ("/api/create", COMMANDS["/api/create"]),
    (f"/api/mlx/load/{NAME}", {}),
]


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return json.loads(Document(routing()).encoded())


def operations(document: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [
        (method, path, operation)
        for path, item in document["paths"].items()
        for method, operation in item.items()
    ]


def check(document: dict[str, Any], schema: dict[str, Any], value: Any) -> None:
    """`value` is what `schema`, which points into `document`, says."""
    whole = DRAFT202012.create_resource(document)
    registry: Any = Registry().with_resource("urn:tandem", whole)
    moved = json.loads(json.dumps(schema).replace('"#/', '"urn:tandem#/'))
    jsonschema.Draft202012Validator(moved, registry=registry).validate(value)


def content_of(document: dict[str, Any], path: str, method: str) -> dict[str, Any]:
    return document["paths"][path][method]["responses"]["200"]["content"]


@pytest.mark.slow
def test_document_is_valid(document: dict[str, Any]):
    OpenAPIV31SpecValidator(document).validate()  # pyright: ignore[reportArgumentType]
    assert document["openapi"].startswith("3.1")


def test_every_route_is_in_it():
    app = routing()
    served = {
        (route.path_format, method.lower())
        for route in app.routes
        if isinstance(route, HTTPRoute)
        for handler in route.route_handlers
        for method in handler.http_methods
        if method != "OPTIONS"
    }
    told = {(path, method) for method, path, _ in operations(to_document(app))}
    # One route of Litestar, which has no parameter with slashes before the end of a path.
    both = {(f"/api/models/{{model}}/{action}", "post") for action in ("load", "unload")}
    assert told == served - {("/api/models/{model}", "post")} | both


async def filled(client: httpx2.AsyncClient, path: str) -> str:
    """The path with the ids of new stored objects."""
    for parameter, (url, body) in STORED.items():
        if parameter in path:
            new = (await client.post(url, json=body)).json()
            path = path.replace(parameter, new["id"])
            if "{item_id}" in path:
                (item,) = (await client.get(f"{url}/{new['id']}/items")).json()["data"]
                path = path.replace("{item_id}", item["id"])
    return path.replace("{model}", NAME)


@pytest.mark.slow
async def test_every_operation_answers_as_it_says(document: dict[str, Any], tmp_path: Path):
    """The engine has every feature; schemas and content types are checked."""
    config = Config(server=ServerConfig(state_folder=str(tmp_path)))
    backend = ScriptedBuilder(kind="mlx", models=[Model(name=NAME)])
    backend.files[DIGEST] = b"weights"
    async with http_client(backend, config=config, read_config=lambda: config) as client:
        for method, path, operation in operations(document):
            # Static files, text for Prometheus, a stream without an end, audio, and a request
            # that has to be recorded first have tests of their own.
            others = ("/page/", "/metrics", "/api/events", "/api/requests/", "/v1/audio/")
            if path.startswith(others):
                continue
            url = (await filled(client, path)).replace("{digest}", DIGEST)
            body = (BODIES | COMMANDS | (UPDATES if method == "post" else {})).get(path)
            response = await client.request(method.upper(), url, json=body)
            assert str(response.status_code) in operation["responses"], (path, response.text)
            assert response.status_code < 300, (path, response.text)
            content = operation["responses"][str(response.status_code)].get("content")
            if content is None:
                assert response.content == b"", path
                continue
            assert response.headers["content-type"] == "application/json"
            check(document, content["application/json"]["schema"], response.json())


@pytest.mark.parametrize(("url", "body"), STREAMS)
async def test_every_stream_is_what_it_says(
    document: dict[str, Any], url: str, body: dict[str, Any]
):
    backend = ScriptedBuilder(kind="mlx", models=[Model(name=NAME)])
    async with http_client(backend) as client:
        response = await client.post(url, json={**body, "stream": True})
    media_type = response.headers["content-type"].partition(";")[0]
    path = url.replace(NAME, "{model}")
    schema = content_of(document, path, "post")[media_type]["schema"]
    lines = [line.removeprefix("data: ") for line in response.text.splitlines() if line]
    told = [json.loads(line) for line in lines if line[0] in "{"]
    assert told
    for each in told:
        check(document, schema, each)


@pytest.mark.parametrize("path", BODIES)
async def test_bodies_are_told_as_they_are_taken(document: dict[str, Any], path: str):
    schema = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
    check(document, schema, BODIES[path])
    model = next(iter(BODIES[path]))
    for wrong in ({}, {**BODIES[path], model: []}):
        with pytest.raises(jsonschema.ValidationError):
            check(document, schema, wrong)
        async with http_client(ScriptedBackend(kind="mlx", models=[Model(name=NAME)])) as client:
            assert (await client.post(path, json=wrong)).status_code == 400


async def test_errors_are_told_once_and_as_they_are(document: dict[str, Any]):
    for _, _, operation in operations(document):
        for status in ("4XX", "5XX"):
            pointer = {"$ref": "#/components/responses/Error"}
            assert operation["responses"][status] == pointer
    error = document["components"]["responses"]["Error"]
    for row in BACKEND_ERRORS.values():
        assert f"{row.status} `{row.type}`" in error["description"]
        assert row.code is None or f"`{row.code}`" in error["description"]
    async with http_client(ScriptedBackend()) as client:
        body = (await client.get("/v1/models/absent")).json()
    check(document, error["content"]["application/json"]["schema"], body)


async def test_document_is_served_at_both_addresses():
    async with http_client(ScriptedBackend()) as client:
        one, other = [await client.get(path) for path in ("/openapi.json", "/schema/openapi.json")]
        assert one.content == other.content
        assert "/api/chat" in one.json()["paths"]
        assert (await client.get("/schema")).status_code == 404  # no page from elsewhere


def test_document_is_not_made_before_it_is_asked_for(monkeypatch: pytest.MonkeyPatch):
    """Its schemas, which msgspec makes, take most of the time."""
    made: list[object] = []
    make = msgspec.json.schema_components

    def recorded(types: Any, **settings: Any) -> Any:
        made.append(types)
        return make(types, **settings)

    monkeypatch.setattr(msgspec.json, "schema_components", recorded)
    document = Document(routing())
    assert not made
    assert document.encoded() is document.encoded()
    assert len(made) == 1


def test_backend_is_named_in_the_body_wherever_it_is_in_a_header(document: dict[str, Any]):
    def fields(schema: dict[str, Any]) -> set[str]:
        if name := schema.get("$ref", "").rpartition("/")[2]:
            return fields(document["components"]["schemas"][name])
        parts = [fields(part) for part in schema.get("anyOf", [])]
        return set.intersection(*parts) if parts else set(schema.get("properties", {}))

    lacking = {
        url
        for url, methods in document["paths"].items()
        for method in methods.values()
        if any(each["name"] == "x-tandem-backend" for each in method.get("parameters", []))
        for content in method.get("requestBody", {}).get("content", {}).values()
        if "backend" not in fields(content["schema"])
    }
    assert lacking == set()

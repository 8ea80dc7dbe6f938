"""Keys: every route needs one, in the words of its dialect; roles; pages; what a key owns."""

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest
from fakes.scripted_backend import BASE, ScriptedBackend, chat, http_client
from litestar.routes import HTTPRoute

from adapters.backend import Model
from adapters.secret import read_secret
from proxy.access.config import KeyConfig
from proxy.access.keys import Access, find_own_key, require_keys
from proxy.config import Config, ConfigError, ServerConfig
from proxy.errors import UnauthorizedError
from proxy.routes import routing

USE, ADMIN = "use-key-0123456789", "admin-key-0123456789"
BEARER = {"authorization": f"Bearer {USE}"}
ADMINISTERS = {"authorization": f"Bearer {ADMIN}"}
PUBLIC = {("GET", "/"), ("GET", "/livez"), ("GET", "/page/{edition}/{file}")}
ADMINISTRATION = {
    ("POST", "/api/config/reload"),
    ("POST", "/api/models/{model}"),
    ("POST", "/api/pull"),
    ("DELETE", "/api/delete"),
    ("POST", "/api/copy"),
    ("POST", "/api/create"),
    ("GET", "/api/blobs/{digest}"),
    ("POST", "/api/blobs/{digest}"),
    ("POST", "/api/mlx/load/{model}"),
    ("POST", "/api/mlx/unload/{model}"),
    ("POST", "/api/pin"),
    ("GET", "/api/events"),
    ("GET", "/api/requests/{request_id}"),
    ("POST", "/api/inspector"),
    ("GET", "/api/logs"),
}


def keyed(*others: KeyConfig, **server: Any) -> Config:
    keys = (
        KeyConfig(name="laptop", key=USE),
        KeyConfig(name="owner", key=ADMIN, role="admin"),
        *others,
    )
    return Config(server=ServerConfig(keys=keys, **server))


KEYED = keyed()


SOCKETS = {"/v1/responses"}
"""Paths of WebSockets; test_responses_websocket.py tries them with keys."""


def every_route() -> Iterator[tuple[str, str]]:
    """Method and path of every HTTP handler of the application, Litestar's OPTIONS included."""
    for route in routing().routes:
        if not isinstance(route, HTTPRoute):
            assert route.path in SOCKETS
            continue
        for handler in route.route_handlers:
            yield from ((method, route.path_format) for method in sorted(handler.http_methods))


ROUTES = sorted(every_route())


def to_path(template: str) -> str:
    digest = template.replace("{digest}", "sha256:" + "0" * 64)
    return re.sub(r"\{\w+\}", "m", digest)


# --- every route ---


async def test_every_route_but_the_public_ones_needs_a_key():
    async with http_client(ScriptedBackend(), config=KEYED) as client:
        statuses = {
            (method, path): (await client.request(method, to_path(path))).status_code
            for method, path in ROUTES
        }
    assert {route for route, status in statuses.items() if status != 401} == PUBLIC
    assert len(statuses) > 60


SPELLINGS = ("{}/", "/{}", "{}?a=b", "{}%2F")


async def test_no_spelling_of_a_path_avoids_the_key():
    upgrade = {"connection": "Upgrade", "upgrade": "websocket"}
    async with http_client(ScriptedBackend(), config=KEYED) as client:
        for at, (method, path) in enumerate(ROUTES):
            if (method, path) not in PUBLIC:
                spelling = SPELLINGS[at % len(SPELLINGS)].format(to_path(path))
                response = await client.request(method, f"{BASE}{spelling}", headers=upgrade)
                assert response.status_code == 401, spelling


async def test_unknown_paths_need_a_key():
    async with http_client(ScriptedBackend(), config=KEYED) as client:
        for path in ("/nope", "/chat/completions", "/livez/x", "//", "/v1"):
            assert (await client.get(f"{BASE}{path}")).status_code == 401, path


async def test_liveness_tells_nothing_else():
    async with http_client(ScriptedBackend(), config=KEYED) as client:
        assert (await client.get("/livez")).json() == {"status": "ok"}
        assert (await client.head("/")).status_code == 200


@pytest.mark.slow
async def test_role_use_does_everything_but_administration():
    async with http_client(ScriptedBackend(), config=KEYED) as client:
        statuses = {
            (method, path): (
                await client.request(method, to_path(path), headers=BEARER)
            ).status_code
            for method, path in ROUTES
        }
    assert {route for route, status in statuses.items() if status == 403} == ADMINISTRATION
    assert not [route for route, status in statuses.items() if status == 401]


async def test_no_spelling_of_a_path_avoids_the_role():
    async with http_client(ScriptedBackend(), config=KEYED) as client:
        for method, path in ADMINISTRATION:
            slash = await client.request(method, f"{to_path(path)}/", headers=BEARER)
            assert slash.status_code == 403, path
            two = await client.request(method, f"{BASE}/{to_path(path)}", headers=BEARER)
            assert two.status_code in (403, 404), path


async def test_role_admin_administers():
    ollama = ScriptedBackend(kind="ollama", models=[Model(name="m")])
    async with http_client(ollama, config=KEYED) as client:
        body = {"model": "m"}
        deletion = await client.request("DELETE", "/api/delete", json=body, headers=ADMINISTERS)
    assert (deletion.status_code, ollama.deleted) == (200, ["m"])


# --- the key in a request ---


KEY_SENT: list[dict[str, str]] = [
    {"authorization": f"Bearer {USE}"},
    {"authorization": f"bearer   {USE} "},
    {"x-api-key": USE},
    {"api-key": USE},
    {"x-api-key": USE, "authorization": "Bearer sk-another-service"},
    {"x-api-key": "sk-another-service", "authorization": f"Bearer {USE}"},
]


async def test_key_is_read_from_the_headers_of_all_clients():
    async with http_client(ScriptedBackend(), config=KEYED) as client:
        for headers in KEY_SENT:
            assert (await client.get("/v1/models", headers=headers)).status_code == 200, headers


NO_KEY_SENT: list[dict[str, str]] = [
    {},
    {"authorization": USE},
    {"authorization": f"Basic {USE}"},
    {"authorization": "Bearer"},
    {"authorization": f"Bearer {USE}x"},
    {"authorization": f"Bearer {USE[:-1]}"},
    {"authorization": f"Bearer {USE.upper()}"},
    {"authorization": "Bearer sha256:" + hashlib.sha256(USE.encode()).hexdigest()},
    {"x-api-key": ""},
    {"cookie": f"key={USE}"},
]


async def test_anything_else_is_no_key():
    async with http_client(ScriptedBackend(), config=KEYED) as client:
        for headers in NO_KEY_SENT:
            response = await client.get(f"/v1/models?key={USE}&api_key={USE}", headers=headers)
            assert response.status_code == 401, headers
            assert response.headers["www-authenticate"] == "Bearer"
            assert USE not in response.text


async def test_two_headers_of_a_name_are_no_key():
    async with http_client(ScriptedBackend(), config=KEYED) as client:
        headers = [("x-api-key", USE), ("x-api-key", USE)]
        assert (await client.get("/v1/models", headers=headers)).status_code == 401


async def test_openai_client_gets_its_own_error():
    async with http_client(ScriptedBackend(), config=KEYED) as client:
        sdk = openai.AsyncOpenAI(base_url=f"{BASE}/v1", api_key="sk-wrong", http_client=client)
        with pytest.raises(openai.AuthenticationError) as wrong:
            await sdk.models.list()
        assert (wrong.value.code, wrong.value.type) == ("invalid_api_key", "invalid_request_error")
        right = sdk.with_options(api_key=USE)
        assert [model.id async for model in right.models.list()] == ["m"]


async def test_anthropic_client_gets_its_own_error():
    async with http_client(ScriptedBackend(), config=KEYED) as client:
        sdk = anthropic.AsyncAnthropic(base_url=BASE, api_key="wrong", http_client=client)  # type: ignore[arg-type]
        with pytest.raises(anthropic.AuthenticationError) as wrong:
            await sdk.models.list()
        body: Any = wrong.value.body
        assert body["type"] == "error"
        assert body["error"]["type"] == "authentication_error"
        right = sdk.with_options(api_key=USE)
        assert [model.id async for model in right.models.list()] == ["m"]


@pytest.mark.parametrize(("headers", "status"), [({}, 401), (BEARER, 403)])
async def test_ollama_client_gets_its_own_error(headers: dict[str, str], status: int):
    async with http_client(ScriptedBackend(), config=KEYED) as client:
        response = await client.post("/api/pull", json={"model": "a"}, headers=headers)
    assert response.status_code == status
    assert list(response.json()) == ["error"]
    assert isinstance(response.json()["error"], str)


async def test_forbidden_names_the_role():
    async with http_client(ScriptedBackend(), config=KEYED) as client:
        response = await client.post("/api/mlx/load/m", headers=BEARER)
    assert response.json()["error"] == {
        "message": "POST /api/mlx/load/m requires the role 'admin'. The key 'laptop' has the role "
        "'use'.",
        "type": "permission_error",
        "param": None,
        "code": "forbidden",
    }


async def test_page_asks_without_a_key_what_it_may_send():
    asks = {"origin": "http://localhost:3000", "access-control-request-method": "POST"}
    async with http_client(ScriptedBackend(), config=KEYED) as client:
        preflight = await client.options("/v1/chat/completions", headers=asks)
        refused = await client.options("/v1/chat/completions")
    assert preflight.status_code == 204
    assert preflight.headers["access-control-allow-origin"] == "http://localhost:3000"
    assert refused.status_code == 401


async def test_page_can_read_that_its_key_is_wrong():
    headers = {"origin": "http://localhost:3000", "authorization": "Bearer wrong"}
    async with http_client(ScriptedBackend(), config=KEYED) as client:
        response = await client.get("/v1/models", headers=headers)
    assert response.status_code == 401
    assert response.headers["access-control-allow-origin"] == "http://localhost:3000"


# --- unloading ---

UNLOADS = [
    ("/api/generate", {"model": "m", "keep_alive": 0}),
    ("/api/generate", {"model": "m", "prompt": "Hi", "keep_alive": "0s"}),
    ("/api/chat", {"model": "m", "messages": [], "keep_alive": 0}),
    ("/api/chat", {**chat(), "keep_alive": "1ms"}),
    ("/api/embed", {"model": "m", "input": "Hi", "keep_alive": 0}),
    ("/api/embed", {"model": "m", "input": "", "keep_alive": 0}),
    ("/v1/chat/completions", chat(keep_alive=0)),
    ("/v1/chat/completions", chat(ttl=0, stream=True)),
    ("/v1/completions", {"model": "m", "prompt": "Hi", "keep_alive": 0}),
    ("/v1/embeddings", {"model": "m", "input": "Hi", "ttl": 0}),
    ("/v1/responses", {"model": "m", "input": "Hi", "keep_alive": 0}),
    ("/v1/responses", {"model": "m", "input": "Hi", "keep_alive": 0, "background": True}),
]


async def test_unloading_by_keep_alive_is_administration():
    backend = ScriptedBackend()
    async with http_client(backend, config=KEYED) as client:
        for path, body in UNLOADS:
            refused = await client.post(path, json=body, headers=BEARER)
            assert refused.status_code == 403, (path, refused.text)
        assert (backend.requests, backend.embedded) == ([], [])
        for path, body in UNLOADS:
            done = await client.post(path, json=body, headers=ADMINISTERS)
            assert done.status_code == 200, (path, done.text)


async def test_other_times_are_for_all():
    async with http_client(ScriptedBackend(), config=KEYED) as client:
        for keep_alive in (-1, 1, "5m", None):
            body = chat(keep_alive=keep_alive)
            response = await client.post("/v1/chat/completions", json=body, headers=BEARER)
            assert response.status_code == 200


# --- pages ---

OWN = {"origin": BASE}
LOCAL = {"origin": "http://localhost:3000"}


async def deleting(config: Config, *senders: dict[str, str]) -> list[int]:
    """Statuses of a deletion by each of `senders`, by their headers."""
    backend = ScriptedBackend()
    statuses: list[int] = []
    async with http_client(backend, config=config) as client:
        for headers in senders:
            before = len(backend.deleted)
            response = await client.request(
                "DELETE", "/api/delete", json={"model": "m"}, headers=headers
            )
            statuses.append(response.status_code)
            assert (len(backend.deleted) > before) is (response.status_code == 200)
    return statuses


async def test_page_administers_from_the_server_s_own_origin():
    may = (
        {},
        {"origin": BASE},
        {"origin": "http://LOCALHOST:80", "host": "localhost"},
        {"origin": "https://localhost", "host": "localhost:443"},
        {"sec-fetch-site": "same-origin"},
        {"sec-fetch-site": "none"},
    )
    assert await deleting(Config(), *may) == [200] * len(may)


async def test_page_of_another_origin_does_not_administer():
    origins = (
        "http://localhost:3000",
        "http://localhost",
        "http://127.0.0.1",
        "http://localhost:8006",
        f"{BASE}.evil.com",
        f"{BASE}@evil.com",
        "app://chat",
        "null",
    )
    may_not: list[dict[str, str]] = [{"origin": origin} for origin in origins]
    may_not += [{"sec-fetch-site": "same-site"}, {"sec-fetch-site": "cross-site"}]
    assert await deleting(Config(), *may_not) == [403] * len(may_not)


async def test_page_administers_from_a_named_origin():
    server = ServerConfig(
        allowed_origins=("https://chat.example",),
        allowed_admin_origins=("https://admin.example",),
    )
    origins = ("admin.example", "admin.example:8443", "chat.example")
    pages = [{"origin": f"https://{origin}"} for origin in origins]
    assert await deleting(Config(server=server), *pages, LOCAL) == [200, 403, 403, 403]


async def test_page_that_may_not_administer_uses():
    async with http_client(ScriptedBackend()) as client:
        used = await client.post("/v1/chat/completions", json=chat(), headers=LOCAL)
        unload = await client.post("/v1/chat/completions", json=chat(keep_alive=0), headers=LOCAL)
    assert (used.status_code, unload.status_code) == (200, 403)
    assert "`server.allowed_admin_origins`" in unload.json()["error"]["message"]


async def test_page_that_may_not_administer_causes_no_download():
    ollama = ScriptedBackend(kind="ollama", models=[])
    server = ServerConfig(auto_pull=True)
    async with http_client(ollama, config=Config(server=server)) as client:
        page = await client.post("/v1/chat/completions", json=chat(model="a:7b"), headers=LOCAL)
        program = await client.post("/v1/chat/completions", json=chat(model="a:7b"))
    assert page.status_code == 403
    assert program.status_code == 404  # The scripted download brings no model.


async def test_key_of_role_use_causes_no_download():
    ollama = ScriptedBackend(kind="ollama", models=[])
    async with http_client(ollama, config=keyed(auto_pull=True)) as client:
        response = await client.post(
            "/v1/chat/completions", json=chat(model="a:7b"), headers=BEARER
        )
    assert response.status_code == 403
    assert "The download of the missing model 'a:7b'" in response.json()["error"]["message"]


async def test_page_with_the_key_of_an_administrator_needs_an_origin_as_well():
    assert await deleting(KEYED, ADMINISTERS | LOCAL, ADMINISTERS | OWN) == [403, 200]


# --- models of a key ---

TWO = [Model(name="fast:1b"), Model(name="secret:70b")]
ONE_MODEL = KeyConfig(name="guest", key="guest-key-0123456789", models=("fast*",))
GUEST = {"x-api-key": "guest-key-0123456789"}


async def test_lists_have_only_the_models_of_the_key():
    ollama = ScriptedBackend(kind="ollama", models=TWO)
    paths = (
        "/v1/models",
        "/api/tags",
        "/api/ps",
        "/api/models",
        "/health",
        "/api/health",
        "/api/performance/comparison",
    )
    async with http_client(ollama, config=keyed(ONE_MODEL)) as client:
        for path in paths:
            guest = await client.get(path, headers=GUEST)
            assert guest.status_code == 200
            assert "secret" not in guest.text, path
        card = await client.get("/v1/models", headers=GUEST)
        anthropic_card = await client.get(
            "/v1/models", headers=GUEST | {"anthropic-version": "2023-06-01"}
        )
        all_cards = await client.get("/v1/models", headers=BEARER)
    assert [model["id"] for model in card.json()["data"]] == ["fast:1b"]
    assert [model["id"] for model in anthropic_card.json()["data"]] == ["fast:1b"]
    assert len(all_cards.json()["data"]) == 2


OF_OTHERS: list[tuple[str, str, Any]] = [
    ("POST", "/v1/chat/completions", chat(model="secret:70b")),
    ("POST", "/v1/chat/completions", chat(model="ollama/secret:70b", stream=True)),
    ("POST", "/v1/chat/completions", chat(model="secrets:70b")),
    ("POST", "/v1/responses", {"model": "secret:70b", "input": "Hi"}),
    ("POST", "/v1/messages", {**chat(model="secret:70b"), "max_tokens": 9}),
    ("POST", "/v1/messages/count_tokens", chat(model="secret:70b")),
    ("POST", "/v1/embeddings", {"model": "secret:70b", "input": "Hi"}),
    ("POST", "/api/generate", {"model": "secret:70b", "prompt": "Hi"}),
    ("POST", "/api/generate", {"model": "secret:70b"}),
    ("POST", "/api/show", {"model": "secret:70b"}),
    ("POST", "/api/route", chat(model="secret:70b")),
    ("GET", "/v1/models/secret:70b", None),
    ("GET", "/api/models/secret:70b", None),
    ("GET", "/api/performance/comparison?model=secret:70b", None),
]


async def test_other_models_do_not_exist_for_the_key():
    ollama = ScriptedBackend(kind="ollama", models=TWO)
    async with http_client(ollama, config=keyed(ONE_MODEL)) as client:
        for method, path, body in OF_OTHERS:
            response = await client.request(method, path, json=body, headers=GUEST)
            assert response.status_code == 404, (path, response.text)
            assert "Did you mean" not in response.text
    assert (ollama.requests, ollama.embedded) == ([], [])


async def test_metrics_of_all_models_are_not_for_the_key():
    async with http_client(ScriptedBackend(), config=keyed(ONE_MODEL)) as client:
        assert (await client.get("/metrics", headers=GUEST)).status_code == 403
        assert (await client.get("/metrics", headers=BEARER)).status_code == 200


async def test_model_of_the_key_answers_by_all_its_names():
    ollama = ScriptedBackend(kind="ollama", models=TWO)
    async with http_client(ollama, config=keyed(ONE_MODEL)) as client:
        for model in ("fast:1b", "ollama/fast:1b"):
            response = await client.post(
                "/v1/chat/completions", json=chat(model=model), headers=GUEST
            )
            assert response.status_code == 200


PATTERNS: list[tuple[str, str, bool]] = [
    ("*llama*", "llama3:8b", True),
    ("*llama*", "qwen:4b", False),
    ("*llama*", "ollama/qwen:4b", False),
    ("ollama*", "qwen:4b", False),
    ("ollama/*", "qwen:4b", True),
    ("ollama/qwen*", "ollama/qwen:4b", True),
    ("ollama/qwen*", "llama3:8b", False),
    ("mlx/*", "qwen:4b", False),
]


@pytest.mark.parametrize(("pattern", "model", "allowed"), PATTERNS)
async def test_only_a_pattern_with_a_backend_is_compared_with_it(
    pattern: str, model: str, allowed: bool
):
    """`*llama*` once allowed every model of the backend ollama."""
    ollama = ScriptedBackend(kind="ollama", models=[Model(name="llama3:8b"), Model(name="qwen:4b")])
    guest = KeyConfig(name="guest", key="guest-key-0123456789", models=(pattern,))
    async with http_client(ollama, config=keyed(guest)) as client:
        response = await client.post("/v1/chat/completions", json=chat(model=model), headers=GUEST)
    assert response.status_code == (200 if allowed else 404)


# --- what a key owns ---


async def test_stored_answer_belongs_to_the_name_of_its_key(tmp_path: Path):
    config = keyed(KeyConfig(name="guest", key="guest-key-0123456789"), state_folder=str(tmp_path))
    body = {"model": "m", "input": "Hi", "store": True}
    async with http_client(ScriptedBackend(), config=config) as client:
        stored = (await client.post("/v1/responses", json=body, headers=BEARER)).json()["id"]
        assert (await client.get(f"/v1/responses/{stored}", headers=GUEST)).status_code == 404
        assert (await client.get(f"/v1/responses/{stored}", headers=BEARER)).status_code == 200
    renewed = KeyConfig(name="laptop", key="a-new-key-0123456789")
    config = Config(server=ServerConfig(keys=(renewed,), state_folder=str(tmp_path)))
    async with http_client(ScriptedBackend(), config=config) as client:
        headers = {"x-api-key": "a-new-key-0123456789"}
        assert (await client.get(f"/v1/responses/{stored}", headers=headers)).status_code == 200


async def test_prefix_cache_is_kept_apart_by_key():
    backend = ScriptedBackend()
    async with http_client(backend, config=KEYED) as client:
        for headers in (BEARER, ADMINISTERS, BEARER):
            await client.post("/v1/chat/completions", json=chat(), headers=headers)
    first, other, again = [request.client for request in backend.requests]
    assert first == again != other
    assert first


# --- configuration ---


def test_key_is_only_kept_as_its_digest():
    config = KeyConfig(name="laptop", key=USE)
    assert config.key == f"sha256:{hashlib.sha256(USE.encode()).hexdigest()}"
    assert KeyConfig(name="again", key=config.key).key == config.key


def test_key_from_environment_and_file(tmp_path: Path):
    file = tmp_path / "key"
    file.write_text("from-the-file-0123456789\n")
    file.chmod(0o600)
    keys = (
        KeyConfig(name="one", key="env:SOME_KEY"),
        KeyConfig(name="two", key=f"file:{file}"),
    )
    access = Access(keys, {"SOME_KEY": "from-the-environment-0123"})
    assert access.admit({"x-api-key": "from-the-environment-0123"}).key == "one"
    assert access.admit({"x-api-key": "from-the-file-0123456789"}).key == "two"


DIGEST = "sha256:" + hashlib.sha256(b"a-key-of-which-the-digest-is-kept").hexdigest()


@pytest.mark.parametrize("form", [DIGEST, DIGEST.upper(), "env:DIGEST", "file"])
def test_digest_stands_for_its_key_wherever_it_is_written(form: str, tmp_path: Path):
    if form == "file":
        file = tmp_path / "digest"
        file.write_text(f"{DIGEST}\n")
        file.chmod(0o600)
        form = f"file:{file}"
    access = Access((KeyConfig(name="one", key=form),), {"DIGEST": DIGEST})
    assert access.admit({"x-api-key": "a-key-of-which-the-digest-is-kept"}).key == "one"
    for sent in (DIGEST, DIGEST.upper()):
        with pytest.raises(UnauthorizedError):
            access.admit({"x-api-key": sent})


def test_digest_that_is_none_is_refused():
    with pytest.raises(ValueError, match="64 hexadecimal digits"):
        KeyConfig(name="one", key=DIGEST[:-1])


def test_file_that_is_too_long_is_no_key(tmp_path: Path):
    file = tmp_path / "key"
    file.write_text("a" * 70_000)
    file.chmod(0o600)
    with pytest.raises(ConfigError, match="more than 65536 bytes"):
        Access((KeyConfig(name="one", key=f"file:{file}"),), {})


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("env:NOT_SET", "$.server.keys[0].key: 'laptop': the environment variable NOT_SET"),
        ("file:/nonexistent/key", "the file /nonexistent/key cannot be read: No such file"),
        ("env:WITH_SPACES", "only printable ASCII without spaces"),
        ("file:/dev/zero", "/dev/zero is not a regular file"),
        ("file:~no-such-user/key", "cannot be read: No such file"),
    ],
)
def test_key_that_cannot_be_read_is_reported(key: str, words: str):
    with pytest.raises(ConfigError, match=re.escape(words)):
        Access((KeyConfig(name="laptop", key=key),), {"WITH_SPACES": "a secret"})


@pytest.mark.parametrize("key", ["", "two words", "schlüssel"])
def test_value_that_is_no_key_is_not_repeated(key: str):
    with pytest.raises(ValueError, match="`key` of 'laptop'") as wrong:
        KeyConfig(name="laptop", key=key)
    assert not key or key not in str(wrong.value)


def test_two_equal_keys_are_refused():
    keys = (KeyConfig(name="one", key="env:A"), KeyConfig(name="two", key="env:A"))
    with pytest.raises(ConfigError, match="'one' and 'two' have the same key"):
        Access(keys, {"A": "0123456789abcdef"})


def test_two_keys_of_one_name_are_refused():
    keys = (KeyConfig(name="one", key="a" * 16), KeyConfig(name="one", key="b" * 16))
    with pytest.raises(ValueError, match="two keys have the name 'one'"):
        ServerConfig(keys=keys)


def test_short_key_is_warned_of(caplog: pytest.LogCaptureFixture):
    KeyConfig(name="laptop", key="1234")
    assert "'laptop' is short" in caplog.text
    assert "1234" not in caplog.text


def test_file_that_others_read_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    file = tmp_path / "key"
    file.write_text("0123456789abcdef")
    file.chmod(0o644)
    assert read_secret(f"file:{file}", {}) == "0123456789abcdef"
    assert f"chmod 600 {file}" in caplog.text


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "::", "", "192.168.1.5", "tandem.lan", "::ffff:10.0.0.1"]
)
def test_server_for_other_machines_needs_a_key(host: str):
    with pytest.raises(ConfigError, match=r"server\.insecure"):
        require_keys(ServerConfig(host=host))
    require_keys(ServerConfig(host=host, insecure=True))
    require_keys(ServerConfig(host=host, keys=KEYED.server.keys))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost", "::ffff:127.0.0.1"])
def test_server_for_this_machine_needs_no_key(host: str):
    require_keys(ServerConfig(host=host))


def test_own_key_is_in_the_environment_or_in_the_state_folder(tmp_path: Path):
    assert find_own_key({}, tmp_path) is None
    assert find_own_key({}, tmp_path / ("x" * 300)) is None  # A folder that cannot be read.
    file = tmp_path / "api_key"
    file.write_text("from-the-folder\n")
    file.chmod(0o600)
    assert find_own_key({}, tmp_path) == "from-the-folder"
    assert find_own_key({"TANDEM_API_KEY": "from-the-variable"}, tmp_path) == "from-the-variable"

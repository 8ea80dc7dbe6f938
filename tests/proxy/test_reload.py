"""Reload of the configuration by `POST /api/config/reload`; by SIGHUP in `cli/test_serve.py`."""

from pathlib import Path

import pytest
from fakes.scripted_backend import ScriptedBackend, http_client

from adapters.backend import Model
from proxy.config import Config, load_config

HELLO = {"model": "fast", "messages": [{"role": "user", "content": "Hi"}]}


class File:
    """A configuration file that a test rewrites."""

    def __init__(self, folder: Path, text: str) -> None:
        self._path = folder / "config.yaml"
        self.write(text)

    def write(self, text: str) -> None:
        self._path.write_text(text)

    def read(self) -> Config:
        return load_config(self._path, {})


@pytest.fixture
def file(tmp_path: Path) -> File:
    return File(tmp_path, "server: {strict_fields: false}")


def ollama() -> ScriptedBackend:
    return ScriptedBackend(kind="ollama", models=[Model(name="tiny:1b"), Model(name="big:7b")])


async def test_new_alias_answers_after_a_reload(file: File):
    async with http_client(ollama(), config=file.read(), read_config=file.read) as client:
        assert (await client.post("/v1/chat/completions", json=HELLO)).status_code == 404
        file.write("models: {fast: {ollama: 'tiny:1b', pin: true}}")
        told = (await client.post("/api/config/reload")).json()
        assert (await client.post("/v1/chat/completions", json=HELLO)).status_code == 200
    assert told["status"] == "changed"
    assert told["changed"] == ["models.fast"]
    assert told["needs_restart"] == ["backends.ollama"]  # `pin` sets a time of the backend.


async def test_alias_that_was_removed_is_a_404_after_a_reload(file: File):
    file.write("models: {fast: {ollama: 'tiny:1b'}}")
    async with http_client(ollama(), config=file.read(), read_config=file.read) as client:
        file.write("")
        assert (await client.post("/api/config/reload")).json()["changed"] == ["models.fast"]
        assert (await client.post("/v1/chat/completions", json=HELLO)).status_code == 404


async def test_gates_and_fields_follow_a_reload(file: File):
    file.write("models: {fast: {ollama: 'tiny:1b'}}")
    strange = HELLO | {"colour": "red"}
    async with http_client(ollama(), config=file.read(), read_config=file.read) as client:
        headers = {"host": "tandem.lan"}
        assert (await client.get("/health", headers=headers)).status_code == 403
        assert (await client.post("/v1/chat/completions", json=strange)).status_code == 200
        file.write(
            "server: {allowed_hosts: [tandem.lan], strict_fields: true}\n"
            "models: {fast: {ollama: 'tiny:1b'}}\n"
        )
        told = (await client.post("/api/config/reload")).json()
        assert (await client.get("/health", headers=headers)).status_code == 200
        assert (await client.post("/v1/chat/completions", json=strange)).status_code == 400
    assert told["changed"] == ["server.allowed_hosts", "server.strict_fields"]


async def test_bad_configuration_is_refused_and_the_old_one_stays(file: File):
    file.write("models: {fast: {ollama: 'tiny:1b'}}")
    async with http_client(ollama(), config=file.read(), read_config=file.read) as client:
        file.write("server:\n  strict_fields: maybe\nmodels: {}\n")
        response = await client.post("/api/config/reload")
        assert (await client.post("/v1/chat/completions", json=HELLO)).status_code == 200
    assert response.status_code == 400
    assert response.json()["error"]["message"] == (
        "The new configuration is not valid, and the old one stays in use: line 2: "
        "$.server.strict_fields: Expected `bool`, got `str`"
    )


async def test_what_is_read_at_the_start_is_reported_and_stays(file: File):
    async with http_client(ollama(), config=file.read(), read_config=file.read) as client:
        file.write(
            "server: {port: 9}\n"
            "backends: {box: {kind: ollama, host: box}}\n"
            "models: {there: {box: 'a:1b'}}\n"
        )
        told = (await client.post("/api/config/reload")).json()
    assert told == {
        "status": "unchanged",
        "changed": [],
        "needs_restart": ["server.port", "models.there", "backends.box"],
    }


async def test_settings_of_a_program_cannot_be_reloaded():
    async with http_client(ollama()) as client:
        response = await client.post("/api/config/reload")
    assert response.status_code == 400
    assert "from a program" in response.json()["error"]["message"]


KEYS = (
    "server: {{keys: [{{name: owner, key: an-admins-key-0123456789, role: admin}},"
    " {{name: laptop, key: {key}}}]}}"
)
ADMIN = {"x-api-key": "an-admins-key-0123456789"}


async def test_key_that_was_replaced_is_refused_after_a_reload(file: File):
    old, new = "the-old-key-of-a-laptop", "the-new-key-of-a-laptop"
    file.write(KEYS.format(key=old))
    async with http_client(ollama(), config=file.read(), read_config=file.read) as client:
        assert (await client.get("/v1/models", headers={"x-api-key": old})).status_code == 200
        file.write(KEYS.format(key=new))
        refused = await client.post("/api/config/reload", headers={"x-api-key": old})
        told = (await client.post("/api/config/reload", headers=ADMIN)).json()
        statuses = [
            (await client.get("/v1/models", headers={"x-api-key": key})).status_code
            for key in (old, new)
        ]
    assert refused.status_code == 403
    assert (told["changed"], statuses) == (["server.keys"], [401, 200])


async def test_keys_that_cannot_be_read_leave_the_old_ones(file: File):
    file.write(KEYS.format(key="a-key-of-a-laptop-0123"))
    async with http_client(ollama(), config=file.read(), read_config=file.read) as client:
        file.write(KEYS.format(key="env:NO_SUCH_VARIABLE_OF_TANDEM"))
        reload = await client.post("/api/config/reload", headers=ADMIN)
        listed = await client.get("/v1/models", headers={"x-api-key": "a-key-of-a-laptop-0123"})
    assert (reload.status_code, listed.status_code) == (400, 200)
    assert "NO_SUCH_VARIABLE_OF_TANDEM" in reload.json()["error"]["message"]

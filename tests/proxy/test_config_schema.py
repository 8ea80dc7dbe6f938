"""The JSON schema of `config.yaml` accepts what the server accepts, and refuses what it refuses."""

from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest

from proxy.config_schema import to_schema

ROOT = Path(__file__).parents[2]


VALIDATOR = jsonschema.Draft202012Validator(to_schema())


def validate(text: str) -> None:
    VALIDATOR.validate(msgspec.yaml.decode(text))


def test_schema_is_one():
    VALIDATOR.check_schema(VALIDATOR.schema)


def test_documented_file_is_valid():
    text = (ROOT / "config.yaml").read_text(encoding="utf-8")
    validate(text)
    validate(text.replace("#~ ", "").replace("  echo: null ", "  #"))


@pytest.mark.parametrize(
    "text",
    [
        "backends: {mlx: null, ollama: true, echo: {delay: 1}}",
        "backends: {studio: {kind: ollama, host: studio}, box: false}",
        "models: {fast: {mlx: a/b, studio: c, prefer: auto, keep_alive: 5m, pin: true}}",
        "server: {store: false, memory_bytes: null, images: {max_count: 1}}",
    ],
)
def test_valid_settings_are_accepted(text: str):
    validate(text)


@pytest.mark.parametrize(
    "text",
    [
        "server: {prot: 1}",
        "server: {port: 70000}",
        "servers: {}",
        "backends: {ollama: {hots: x}}",
        "backends: {studio: {host: x}}",
        "backends: {studio: {kind: vllm}}",
        "models: {fast: {mlx: 3}}",
        "models: {fast: {mlx: x, pin: 1}}",
    ],
)
def test_wrong_settings_are_refused(text: str):
    with pytest.raises(jsonschema.ValidationError):
        validate(text)


def test_keys_are_described():
    definitions: dict[str, Any] = to_schema()["$defs"]
    port = definitions["ServerConfig"]["properties"]["allowed_hosts"]
    assert port["description"].startswith("Host names besides localhost")

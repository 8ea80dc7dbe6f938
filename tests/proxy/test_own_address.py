"""Backends that are this server itself."""

import pytest

from adapters.config import OllamaConfig
from proxy.config import Config, ConfigError, ServerConfig
from proxy.own_address import without_itself


def ollama(config: Config) -> OllamaConfig | None:
    (found,) = [value for name, value in config.backends.items() if name == "ollama"]
    assert found is None or isinstance(found, OllamaConfig)
    return found


@pytest.mark.parametrize(
    ("variable", "host"),
    [
        ("127.0.0.1:8006", "127.0.0.1"),
        ("http://localhost:8006", "127.0.0.1"),
        ("127.0.0.1:8006", "localhost"),
        ("0.0.0.0:8006", "127.0.0.1"),
        ("127.0.0.1:8006", "0.0.0.0"),
        (":8006", ""),
    ],
)
def test_ollamas_variable_that_names_this_server_is_not_its_ollama(
    variable: str, host: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("OLLAMA_HOST", variable)
    found = ollama(without_itself(Config(server=ServerConfig(host=host))))
    assert found is not None
    assert found.addresses == ("http://127.0.0.1:11434",)


@pytest.mark.parametrize(
    ("variable", "host"),
    [
        ("127.0.0.1:8007", "127.0.0.1"),
        ("203.0.113.5:8006", "127.0.0.1"),
        ("203.0.113.5:8006", "0.0.0.0"),
        ("127.0.0.1:8006", "203.0.113.5"),
        ("no-such-name.invalid:8006", "0.0.0.0"),
    ],
)
def test_other_address_stays(variable: str, host: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OLLAMA_HOST", variable)
    config = Config(server=ServerConfig(host=host))
    assert without_itself(config) == config


def test_ollama_is_off_where_this_server_has_its_usual_address(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.delenv("OLLAMA_HOST", raising=False)
    config = without_itself(Config(server=ServerConfig(port=11434)))
    assert ollama(config) is None
    assert "`backends.ollama.host`" in caplog.text


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        (OllamaConfig(host="localhost:8006"), "host"),
        (OllamaConfig(hosts=("box:1", "127.0.0.1:8006")), "hosts"),
    ],
)
def test_own_address_as_that_of_an_ollama_is_an_error(settings: OllamaConfig, key: str):
    with pytest.raises(ConfigError, match=rf"^\$\.backends\.ollama\.{key}: .*Tandem itself"):
        without_itself(Config(backends={"ollama": settings}))

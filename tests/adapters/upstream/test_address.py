"""`OLLAMA_HOST` in the forms that Ollama's own programs take."""

from pathlib import Path

import pytest

from adapters.config import OllamaConfig
from adapters.upstream.address import usual_address
from proxy.config import ConfigError, load_config


@pytest.mark.parametrize(
    ("said", "address"),
    [
        (None, "http://127.0.0.1:11434"),
        ("", "http://127.0.0.1:11434"),
        ("box", "http://box:11434"),
        ("box:1234", "http://box:1234"),
        (":1234", "http://127.0.0.1:1234"),
        ("0.0.0.0", "http://127.0.0.1:11434"),
        ("0.0.0.0:1234", "http://127.0.0.1:1234"),
        ("[::]:1234", "http://[::1]:1234"),
        ("[::1]", "http://[::1]:11434"),
        ("::1", "http://[::1]:11434"),
        ("::", "http://[::1]:11434"),
        ("http://[fe80::1%eth0]:1234", "http://[fe80::1%eth0]:1234"),
        ("http://box", "http://box:80"),
        ("https://box", "https://box:443"),
        ("https://box:1234/", "https://box:1234"),
        ("https://box/ollama", "https://box:443/ollama"),
        ("box:port", "http://box:11434"),
        ("box:70000", "http://box:11434"),
        (' "box:1234" ', "http://box:1234"),
    ],
)
def test_address_is_read_as_ollama_reads_it(said: str | None, address: str):
    assert usual_address({} if said is None else {"OLLAMA_HOST": said}) == address


@pytest.mark.parametrize(
    ("said", "address"),
    [
        ("localhost:1234", "http://localhost:1234"),
        ("127.0.0.1:1234", "http://127.0.0.1:1234"),
        ("box", "http://box:11434"),
        ("0.0.0.0:1234", "http://127.0.0.1:1234"),
        ("HTTP://box:1234/", "http://box:1234"),
        ("http://[::1]:1234", "http://[::1]:1234"),
    ],
)
def test_host_of_the_config_is_read_in_the_same_way(said: str, address: str):
    assert OllamaConfig(host=said).addresses == (address,)
    assert OllamaConfig(hosts=(said, "http://b:1")).addresses == (address, "http://b:1")


NOWHERE = [
    "ftp://box",
    "http://[::1",
    "[:::1]:1234",
    "::1:11434",
    "http:127.0.0.1:1234",
    "http://http://box",
    "my box",
    "me@box",
    "http://me:secret@box",
    "http://box/?key=1",
    "http://box/#1",
    "http//127.0.0.1:1234",
    "http://xn--a",
    f"http://{'a' * 64}.example",
    "box..example",
]


@pytest.mark.parametrize("said", NOWHERE)
def test_bad_variable_is_named(said: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OLLAMA_HOST", said)
    with pytest.raises(ConfigError, match=r"\$OLLAMA_HOST: .* is no address"):
        load_config(None)


def test_variable_is_not_looked_at_where_the_config_names_a_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("OLLAMA_HOST", "my box")
    file = tmp_path / "config.yaml"
    for backends in ("{ollama: {host: box}}", "{ollama: false}"):
        file.write_text(f"backends: {backends}")
        load_config(file)


@pytest.mark.parametrize(
    "said", ["", " ", "http://", "box:70000", "http://box:port", "box:", *NOWHERE]
)
def test_host_that_is_no_address_is_refused(said: str):
    with pytest.raises(ValueError, match="is not an address"):
        OllamaConfig(host=said)
    with pytest.raises(ValueError, match="is not an address"):
        OllamaConfig(hosts=("http://b:1", said))


def test_two_names_of_one_host_are_refused():
    with pytest.raises(ValueError, match="twice"):
        OllamaConfig(hosts=("box:1234", "http://box:1234/"))


def test_address_of_the_config_is_stronger(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OLLAMA_HOST", "box:1234")
    assert OllamaConfig().addresses == ("http://box:1234",)
    assert OllamaConfig(host="http://other:1").addresses == ("http://other:1",)
    assert OllamaConfig(hosts=("http://a:1", "http://b:1")).addresses == (
        "http://a:1",
        "http://b:1",
    )

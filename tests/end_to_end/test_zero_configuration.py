"""No config file: a running Ollama and a model of the Hugging Face cache are found and answer."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fakes.tiny_model import write_tiny_model
from fakes.waiting import until_now
from openai import OpenAI
from servers.ollama_server import PLAIN
from servers.server_process import Running, serving

pytestmark = [pytest.mark.ollama, pytest.mark.long]

TINY = "someone/tiny"


def put_in_hub(hub: Path) -> None:
    """A repository of `TINY` as the hub's client leaves one."""
    repository = hub / "models--someone--tiny"
    write_tiny_model(repository / "snapshots" / "abc")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")


@pytest.fixture
def server(
    ollama_host: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Running, float]]:
    """Tandem, and for how long it listens."""
    put_in_hub(tmp_path / "hub")
    monkeypatch.delenv("TANDEM_CONFIG", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "no-config"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "no-imports"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("OLLAMA_HOST", ollama_host.removeprefix("http://"))
    began = time.monotonic()
    with serving(None) as running:
        print(f"listens {time.monotonic() - began:.2f} s after the process began")
        yield running, time.monotonic()


def listed(server: Running) -> dict[str, Any]:
    """The cards by id."""
    return {card["id"]: card for card in json.loads(server.get("/v1/models")[1])["data"]}


def test_both_engines_models_are_listed_and_answer(
    server: tuple[Running, float],
):
    running, began = server
    until_now(lambda: {TINY, PLAIN} <= listed(running).keys())
    print(f"all listed {time.monotonic() - began:.2f} s after that")
    cards = listed(running)
    assert (cards[TINY]["owned_by"], cards[PLAIN]["owned_by"]) == ("mlx", "ollama")
    url = f"http://127.0.0.1:{running.port}/v1"
    with OpenAI(base_url=url, api_key="x", max_retries=0, timeout=60) as client:
        for model in (TINY, "tiny", PLAIN):
            answer = client.chat.completions.create(
                model=model, messages=[{"role": "user", "content": "Hi"}], max_tokens=3
            )
            assert answer.usage is not None
            assert 1 <= answer.usage.completion_tokens <= 3

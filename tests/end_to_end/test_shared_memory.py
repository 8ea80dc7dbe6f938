"""One budget over both engines, in a real server: asked by a client, watched from outside."""

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import openai
import pytest
from fakes.tiny_model import END, write_tiny_model
from fakes.waiting import until_now
from servers.ollama_server import PLAIN, OllamaProcess
from servers.server_process import Running, serving, write

from proxy.memory.budget import Snapshot

pytestmark = [pytest.mark.process, pytest.mark.long]

KB = 1_000
SMALL = 107_392 + 4096 * 256
"""Bytes of each small MLX model here, and of its one answer: a tenth of a second's work."""
BIG = 80_000 * KB
"""Bytes that the weights of a big one take at least: enough to be seen in a process."""
SHAPE: dict[str, Any] = {"hidden_size": 256, "intermediate_size": 16384, "num_hidden_layers": 2}
CONFIG = """
server: {{memory_bytes: {budget}}}
backends:
  mlx: {{folders: [{folder}], huggingface_cache: false, embedded: never}}
  ollama: {ollama}
models: {models}
"""


ON_OLLAMA = 98_362_745 + 4096 * 2 * 3 * 64 * 2 * 30
"""Bytes of SmolLM2-135M there, and of its least context."""

ENDLESS: dict[str, Any] = {"max_tokens": 700, "logit_bias": {str(END): -100}}
"""Fields that make a tiny model answer for a second or more."""


class Health(msgspec.Struct):
    memory: Snapshot


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    write_tiny_model(root / "one", context=4096)
    write_tiny_model(root / "big-one", context=512, **SHAPE)
    for name in ("two", "three"):
        shutil.copytree(root / "one", root / name)
        shutil.copytree(root / "big-one", root / f"big-{name}")
    return root


class Server:
    def __init__(self, running: Running, client: openai.OpenAI) -> None:
        self.pid = running.process.pid
        self._running = running
        self._client = client

    def ask(self, model: str, **fields: Any) -> Any:
        messages: Any = [{"role": "user", "content": "Tell me a long story."}]
        return self._client.chat.completions.create(
            model=model, messages=messages, **{"max_tokens": 3, **fields}
        )

    def stream(self, model: str, **fields: Any) -> Iterator[Any]:
        """An answer of which the first token is there."""
        chunks = iter(self.ask(model, stream=True, **fields))
        next(chunks)
        return chunks

    def refuses(self, model: str) -> dict[str, Any]:
        """The body of the 503 that asking for `model` brings."""
        with pytest.raises(openai.InternalServerError) as caught:
            self.ask(model)
        assert caught.value.status_code == 503
        assert caught.value.response.headers["x-should-retry"] == "false"
        return caught.value.response.json()["error"]

    def memory(self) -> Snapshot:
        _, body = self._running.get("/health")
        return msgspec.json.decode(body, type=Health).memory

    def loaded(self) -> list[str]:
        return [f"{model.backend}/{model.model}" for model in self.memory().models]

    def resident(self) -> int:
        """Bytes of its process."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
        return int(line.split()[1]) * 1024


@contextmanager
def sharing(
    folder: Path, budget: int, path: Path, ollama: str = "null", models: str = "{}"
) -> Iterator[Server]:
    text = CONFIG.format(budget=budget, folder=folder, ollama=ollama, models=models)
    with serving(write(path, text)) as running, running.sdk() as client:
        yield Server(running, client)


class Watch:
    """Asks how the memory is, again and again, while a test asks for answers."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self.seen: list[Snapshot] = []
        self.resident: list[int] = []

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._ended.wait(0.04):
            self.seen.append(self._server.memory())
            self.resident.append(self._server.resident())

    def until_seen(self, model: str) -> None:
        """Wait for a look that shows it: a small model may come and go between two."""
        until_now(lambda: model in self.models)

    @property
    def most(self) -> int:
        return max(snapshot.used for snapshot in self.seen)

    @property
    def models(self) -> set[str]:
        return {model.model for snapshot in self.seen for model in snapshot.models}


@pytest.mark.long
def test_models_take_turns_within_a_budget_for_one(folder: Path, tmp_path: Path) -> None:
    budget = 150_000 * KB
    with sharing(folder, budget, tmp_path) as server:
        server.ask("big-one")
        before = server.resident()
        with Watch(server) as watch:
            for name in ("big-two", "big-one", "big-three"):
                server.ask(name)
                assert server.loaded() == [f"mlx/{name}"]
                watch.until_seen(name)
    assert BIG < watch.most <= budget
    assert watch.models == {"big-one", "big-two", "big-three"}
    # Two of them at once would be seen.
    assert max(watch.resident) < before + 0.8 * BIG


@pytest.mark.long
def test_nothing_leaves_under_a_stream_and_the_503_has_the_numbers(
    folder: Path, tmp_path: Path
) -> None:
    budget = 2 * SMALL + 1000 * KB
    with sharing(folder, budget, tmp_path) as server, Watch(server) as watch:
        streams = [server.stream(name, **ENDLESS) for name in ("one", "two")]
        error = server.refuses("three")
        busy = {model.model: model.busy for model in server.memory().models}
        reasons = [list(stream)[-1].choices[0].finish_reason for stream in streams]
        server.ask("three")
    assert busy == {"one": True, "two": True}
    assert reasons == ["length", "length"]
    assert watch.most <= budget
    assert (error["code"], error["param"]) == ("insufficient_memory", "model")
    free = budget - 2 * SMALL
    assert f"'three' needs {SMALL} bytes of memory; {free} of {budget} are" in error["message"]


@pytest.mark.long
def test_what_is_pinned_makes_way_for_nobody(folder: Path, tmp_path: Path) -> None:
    pinned = "{mine: {mlx: one, pin: true}}"
    with sharing(folder, 2 * SMALL - KB, tmp_path, models=pinned) as server:
        server.ask("mine")
        assert server.refuses("two")["code"] == "insufficient_memory"
        assert server.loaded() == ["mlx/one"]
        assert [model.pinned for model in server.memory().models] == [True]


@pytest.mark.ollama
def test_both_engines_share_the_budget(
    folder: Path, tmp_path: Path, ollama_process: OllamaProcess
) -> None:
    """On an Ollama of its own: what other tests have loaded would count too."""
    here = f"{{host: '{ollama_process.host}', refresh: 0.1}}"
    budget = ON_OLLAMA + SMALL - KB
    with sharing(folder, budget, tmp_path, here) as server, Watch(server) as watch:
        for name in ("mlx/one", f"ollama/{PLAIN}", "mlx/two", f"ollama/{PLAIN}", "mlx/one"):
            server.ask(name)
            assert server.loaded() == [name]
            watch.until_seen(name.partition("/")[2])
    assert watch.models == {"one", "two", PLAIN}
    assert ON_OLLAMA - KB < watch.most <= budget


@pytest.mark.long
@pytest.mark.ollama
def test_a_stream_of_either_engine_keeps_its_model(
    folder: Path, tmp_path: Path, ollama_process: OllamaProcess
) -> None:
    here = f"{{host: '{ollama_process.host}', refresh: 0.1}}"
    budget = ON_OLLAMA + SMALL - KB
    with sharing(folder, budget, tmp_path, here) as server, Watch(server) as watch:
        for answering, asked in ((f"ollama/{PLAIN}", "mlx/one"), ("mlx/one", f"ollama/{PLAIN}")):
            endless = ENDLESS if "mlx" in answering else {"max_tokens": 100}
            stream = server.stream(answering, **endless)
            assert "needs" in server.refuses(asked)["message"]
            assert list(stream)[-1].choices[0].finish_reason is not None
    assert watch.most <= budget

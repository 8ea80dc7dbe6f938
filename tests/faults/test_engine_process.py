"""The engine's process is killed again and again under a real server and real clients."""

import os
import signal
import statistics
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes.tiny_model import write_tiny_model
from fakes.waiting import until_now
from openai import APIError, OpenAI
from servers.server_process import Running, serving, write

pytestmark = pytest.mark.long

MODELS = ("tiny", "other")
KILLS = 10
CLIENTS = 8


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Running]:
    write_tiny_model(tmp_path / "models" / "tiny", context=100_000)
    write_tiny_model(tmp_path / "models" / "other", "mamba", context=100_000)
    text = (
        "backends:\n  ollama: false\n  mlx:\n    engine: process\n"
        f"    folders: ['{tmp_path / 'models'}']\n    huggingface_cache: false\n"
    )
    with serving(write(tmp_path, text)) as running:
        yield running


def engine_of(server: Running) -> int | None:
    """Return the process id of the engine that the server has now."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command, status = path.read_bytes(), (path.parent / "stat").read_text()
        except OSError:
            continue  # It has ended.
        parent = int(status.rpartition(")")[2].split()[1])
        if b"adapters.mlx.process" in command and parent == server.process.pid:
            return int(path.parent.name)
    return None


class Client(threading.Thread):
    """Streams endless answers of one model, one after another, until it is stopped."""

    def __init__(self, server: Running, model: str) -> None:
        super().__init__()
        self._client: OpenAI = server.sdk()
        self._model = model
        self.stopped = threading.Event()
        self.tokens_since_error = 0
        self.errors: list[tuple[float, str]] = []
        """Time and text of each error."""
        self.first_tokens: list[float] = []
        """Time of the first token of each answer."""
        self.ended_silently = 0

    def run(self) -> None:
        while not self.stopped.is_set():
            try:
                self._answer()
                self.ended_silently += not self.stopped.is_set()
            except APIError as error:
                self.errors.append((time.monotonic(), str(error)))
                self.tokens_since_error = 0

    def _answer(self) -> None:
        stream = self._client.chat.completions.create(
            model=self._model,
            messages=[{"role": "user", "content": "Go on."}],
            max_tokens=90_000,
            logit_bias={"257": -100},
            stream=True,
        )
        first = True
        for _ in stream:
            if first:
                self.first_tokens.append(time.monotonic())
                first = False
            self.tokens_since_error += 1
            if self.stopped.is_set():
                stream.close()
                return


def wait_for_tokens(clients: list[Client]) -> None:
    until_now(lambda: all(client.tokens_since_error > 3 for client in clients), 100)


@pytest.mark.timeout(900)
def test_every_client_is_told_of_each_of_ten_kills_and_answered_afterwards(
    server: Running,
) -> None:
    began = time.monotonic()
    clients = [Client(server, MODELS[number % 2]) for number in range(CLIENTS)]
    for client in clients:
        client.start()
    wait_for_tokens(clients)
    load = max(client.first_tokens[0] for client in clients) - began
    told: list[float] = []
    served: list[float] = []
    for kill in range(KILLS):
        engine = engine_of(server)
        assert engine is not None
        known = [len(client.errors) for client in clients]
        answered = [len(client.first_tokens) for client in clients]
        at = time.monotonic()
        os.kill(engine, (signal.SIGKILL, signal.SIGABRT, signal.SIGSEGV)[kill % 3])
        counts = [*zip(clients, known, strict=True)]
        until_now(lambda counts=counts: all(len(c.errors) != n for c, n in counts), 60)
        told += [c.errors[n][0] - at for c, n in counts]
        wait_for_tokens(clients)
        served += [c.first_tokens[n] - at for c, n in zip(clients, answered, strict=True)]
    for client in clients:
        client.stopped.set()
    for client in clients:
        client.join(60)
    print(f"\nfirst tokens of both models after the first request: {load:.2f} s at most")
    print(f"told of a kill: median {statistics.median(told):.3f} s, at most {max(told):.3f} s")
    print(f"served again: median {statistics.median(served):.2f} s, at most {max(served):.2f} s")
    assert len(told) == KILLS * CLIENTS
    assert all(client.ended_silently == 0 for client in clients)
    assert all("SIG" in text for client in clients for _, text in client.errors[:1])
    status, health = server.get("/health")
    assert (status, '"restarts":10' in health) == (200, True)

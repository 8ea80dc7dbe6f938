"""Stored answers of `tandem serve` as a process: kept through `kill -9`, and a full disk."""

import http.client
import json
import shlex
import signal
import sqlite3
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import OpenAI
from servers.server_process import Running, command, serving, write

pytestmark = pytest.mark.process

CONFIG = """
server:
  state_folder: {folder}
  shutdown_grace: 0
  {more}
backends:
  mlx: null
  ollama: null
  echo: {{models: [echo], delay: {delay}}}
"""
HI: Any = [{"role": "user", "content": "Hi " * 200}]


def config(folder: Path, *, delay: float = 0, more: str = "") -> Path:
    return write(folder, CONFIG.format(folder=folder / "state", delay=delay, more=more))


def stored_ids(client: OpenAI) -> set[str]:
    return {each.id for each in client.chat.completions.list(limit=100)}


@pytest.mark.long
def test_answers_survive_kill_9_while_others_are_written(tmp_path: Path):
    """Answers that a client has received are stored; those in progress may be lost."""
    path = config(tmp_path)
    received: set[str] = set()
    for _ in range(2):
        with serving(path) as server:
            client = server.sdk()

            def ask(_: int, client: OpenAI = client, server: Running = server) -> None:
                try:
                    answer = client.chat.completions.create(model="echo", messages=HI, store=True)
                except openai.OpenAIError:
                    return  # killed
                received.add(answer.id)
                if len(received) % 20 == 0:
                    server.process.send_signal(signal.SIGKILL)

            with ThreadPoolExecutor(4) as pool:
                list(pool.map(ask, range(40)))
    with serving(path) as server:
        assert received <= stored_ids(server.sdk())
    assert len(received) >= 40
    assert not list((tmp_path / "state" / "stored").glob("*damaged*"))
    with sqlite3.connect(tmp_path / "state" / "stored" / "answers.sqlite") as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()


def test_background_answer_of_a_killed_server_is_failed(tmp_path: Path):
    path = config(tmp_path, delay=0.2)
    with serving(path) as server:
        begun: Any = server.sdk().responses.create(
            model="echo", input="word " * 50, background=True, stream=True
        )
        events = iter(begun)
        key = next(events).response.id
        while next(events).type != "response.output_text.delta":
            pass
        server.process.send_signal(signal.SIGKILL)
        server.process.wait()
    with serving(path) as server:
        found = server.sdk().responses.retrieve(key)
        (end,) = server.sdk().responses.retrieve(key, stream=True, starting_after=5)
    assert found.status == "failed"
    assert found.error is not None
    assert end.type == "response.failed"
    assert (end.sequence_number, end.response) == (6, found)


@pytest.mark.long
def test_background_answer_fails_with_a_shutdown(tmp_path: Path):
    path = config(tmp_path, delay=0.2)
    with serving(path) as server:
        key = server.sdk().responses.create(model="echo", input="word " * 50, background=True).id
        server.process.send_signal(signal.SIGTERM)
        server.process.wait(10)
    with serving(path) as server:
        assert server.sdk().responses.retrieve(key).status == "failed"


@contextmanager
def with_small_files(path: Path) -> Iterator[Running]:
    """Run a server that can write no file of more than 400 KiB."""
    start = shlex.join(command("serve", "--port", "0", "--config", str(path)))
    process = subprocess.Popen(
        ["bash", "-c", f"ulimit -f 400; exec {start}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield Running(process, int(process.stdout.readline().rpartition(":")[2].split("/")[0]))
    finally:
        process.terminate()


@pytest.mark.long
def test_answers_are_sent_on_a_full_disk(tmp_path: Path):
    with with_small_files(config(tmp_path)) as server:
        client = server.sdk()
        large: Any = [{"role": "user", "content": "x" * 20_000}]
        answers = [
            client.chat.completions.create(model="echo", messages=large, store=True)
            for _ in range(20)
        ]
        stored = stored_ids(client)
        server.process.terminate()
        log = server.process.communicate(timeout=10)[1]
    assert all(answer.choices[0].message.content for answer in answers)
    assert 0 < len(stored) < 20
    assert stored < {answer.id for answer in answers}
    assert "is not kept" in log


def test_start_says_where_answers_are_kept(tmp_path: Path):
    with serving(config(tmp_path)) as server:
        assert server.process.stdout is not None
        line = server.process.stdout.readline()
    assert str(tmp_path / "state" / "stored" / "answers.sqlite") in line
    assert "30 days" in line
    assert "server.store: false" in line


@pytest.mark.long
def test_nothing_is_kept_where_the_config_says_so(tmp_path: Path):
    with serving(config(tmp_path, more="store: false")) as server:
        client = server.sdk()
        client.chat.completions.create(model="echo", messages=HI, store=True)
        client.responses.create(model="echo", input="Hi")
        server.process.terminate()
        told = server.process.communicate(timeout=10)[0]
    assert told == ""
    assert not (tmp_path / "state" / "stored").exists()


@pytest.mark.long
def test_logs_have_nothing_of_the_answers(tmp_path: Path):
    with serving(config(tmp_path)) as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.port)
        body = {"model": "echo", "input": "secret", "store": True}
        connection.request(
            "POST", "/v1/responses", json.dumps(body), {"content-type": "application/json"}
        )
        assert b"secret" in connection.getresponse().read()
        connection.close()
        server.process.terminate()
        told = "".join(server.process.communicate(timeout=10))
    assert "model=echo" in told
    assert "secret" not in told

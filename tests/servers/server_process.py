"""`tandem serve` as a process of its own, for tests that talk to it as a user would."""

import http.client
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from openai import OpenAI


def write(folder: Path, text: str) -> Path:
    path = folder / "tandem.yaml"
    path.write_text(text)
    return path


def command(*args: str) -> list[str]:
    return [sys.executable, "-m", "proxy", *args]


class Running:
    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self.process, self.port = process, port

    def get(self, path: str) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        connection.request("GET", path)
        answer = connection.getresponse()
        body = answer.read().decode()
        connection.close()
        return answer.status, body

    def post(self, path: str, body: dict[str, object] | None = None) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        headers = {"content-type": "application/json"}
        connection.request("POST", path, None if body is None else json.dumps(body), headers)
        answer = connection.getresponse()
        text = answer.read().decode()
        connection.close()
        return answer.status, text

    def sdk(self) -> OpenAI:
        """A client that asks once."""
        return OpenAI(base_url=f"http://127.0.0.1:{self.port}/v1", api_key="x", max_retries=0)

    @contextmanager
    def stream(self) -> Iterator[http.client.HTTPResponse]:
        body = {
            "model": "echo",
            "messages": [{"role": "user", "content": "word " * 5000}],
            "stream": True,
        }
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        headers = {"content-type": "application/json"}
        connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
        answer = connection.getresponse()
        try:
            yield answer
        finally:
            answer.close()
            connection.close()


@contextmanager
def serving(config: Path | None, module: str = "recorder.serve") -> Iterator[Running]:
    """Run a server with that file, or with the user's own; `module` runs in place of `tandem`."""
    named = ("--config", str(config)) if config is not None else ()
    process = subprocess.Popen(
        [sys.executable, "-m", module, "serve", "--port", "0", *named],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("Tandem listens on http://127.0.0.1:"), line
        yield Running(process, int(line.rpartition(":")[2].split("/")[0]))
    finally:
        process.kill()
        process.communicate()

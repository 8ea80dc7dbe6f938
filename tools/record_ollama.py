"""Renew the recordings in `tests/data/ollama`: `uv run python tools/record_ollama.py`.

Every file keeps its name, what it is about, and its request; only the response is asked for anew,
of a real Ollama that is started for it. `--to FOLDER` writes them elsewhere, to compare. What an
Ollama says of itself (`tags`, `show`, `ps`) is quoted in tests, which may have to follow.
"""

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from servers.ollama_server import OllamaProcess, own_ollama  # noqa: E402

DATA = ROOT / "tests" / "data" / "ollama"
JSON = dict[str, Any]
_SECONDS = 300.0
_SHORT = ("smollm2-tools", "smollm2-think", "smollm2-fim", "smollm2-vision")
"""The names in the requests, of models that end in `:135m`."""
NOT_RENEWED = frozenset({"fault-queue-full", "pull-unreachable"})
"""The one needs a queue of length 1, the other a machine without a network."""
STORY: JSON = {
    "model": "smollm2:135m",
    "messages": [{"role": "user", "content": "Tell me a very long story."}],
    "options": {"temperature": 0, "num_predict": 300},
}


def exchange(host: str, request: JSON, after: Callable[[int], None] | None = None) -> JSON:
    """The response, chunk by chunk as it was sent; `after` is called with how many there were."""
    where = urlsplit(host)
    with socket.create_connection((where.hostname or "", where.port or 80), _SECONDS) as to:
        to.sendall(_to_bytes(request, where.netloc))
        stream = to.makefile("rb")
        _, status, reason = stream.readline().decode().split(" ", 2)
        headers = dict(_headers(iter(stream.readline, b"\r\n")))
        chunks, ended = _body(stream, headers, after or (lambda _: None))
    return {
        "status": int(status),
        "reason": reason.strip(),
        "headers": headers,
        "chunks": chunks,
        "ended": ended,
    }


def _to_bytes(request: JSON, netloc: str) -> bytes:
    body = b"" if request["body"] is None else json.dumps(request["body"]).encode()
    head = f"{request['method']} {request['path']} HTTP/1.1\r\nHost: {netloc}\r\n"
    return f"{head}Connection: close\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def _headers(lines: Iterator[bytes]) -> Iterator[tuple[str, str]]:
    for line in lines:
        name, value = line.decode().strip().split(": ", 1)
        if name != "Connection":  # Ours, not the server's.
            yield name, value


def _body(stream: Any, headers: JSON, after: Callable[[int], None]) -> tuple[list[str], str]:
    if headers.get("Transfer-Encoding") != "chunked":
        return [stream.read().decode()], "complete"
    chunks: list[str] = []
    try:
        while size := int(stream.readline() or b"-1", 16):
            if size < 0:
                return chunks, "cut"
            chunks.append(stream.read(size).decode())
            stream.readline()
            after(len(chunks))
    except OSError:
        return chunks, "cut"
    return chunks, "complete"


def record(host: str, models: str, name: str) -> JSON:
    """The recording `name` with a new response."""
    kept = json.loads((DATA / f"{name}.json").read_text())
    kept["response"] = exchange(host, kept["request"])
    return _without_folder(kept, models)


def _without_folder(kept: JSON, models: str) -> JSON:
    return json.loads(json.dumps(kept).replace(models, "/models"))


def with_short_names(host: str) -> None:
    """Give every model the name that the requests use."""
    for name in _SHORT:
        body = json.dumps({"source": f"{name}:135m", "destination": name}).encode()
        with urllib.request.urlopen(f"{host}/api/copy", body, timeout=_SECONDS) as response:
            response.read()


def requests_recorded() -> list[str]:
    """The names of the recordings that hold a request, `load` and `version` first."""
    names = sorted(path.stem for path in DATA.glob("*.json") if not path.stem.startswith("fault-"))
    return sorted(
        set(names) - NOT_RENEWED, key=lambda name: (name not in ("load", "version"), name)
    )


def faults(server: OllamaProcess) -> Iterator[tuple[str, JSON]]:
    """Record an answer with a server, or a runner, that is killed after five chunks."""
    kills: dict[str, Callable[[], None]] = {
        "fault-runner-killed-midstream": lambda: _kill_runner(server),
        "fault-server-term-midstream": lambda: server.signal(signal.SIGTERM),
        "fault-server-killed-midstream": server.kill,
    }
    for name, kill in kills.items():
        kept = json.loads((DATA / f"{name}.json").read_text())
        request = {"method": "POST", "path": "/api/chat", "body": STORY}
        after = _at(5, kill)
        kept["response"] = exchange(server.host, request, after)
        yield name, kept
        if "server" in name:
            server.restart()


def _at(count: int, act: Callable[[], None]) -> Callable[[int], None]:
    return lambda many: act() if many == count else None


def _kill_runner(server: OllamaProcess) -> None:
    found = subprocess.run(
        ["pgrep", "-g", str(server.group), "llama-server"],
        capture_output=True,
        text=True,
        check=True,
    )
    for pid in found.stdout.split():
        os.kill(int(pid), signal.SIGKILL)


def main() -> None:
    parser = argparse.ArgumentParser(description="Renew the recordings from a real Ollama.")
    parser.add_argument("--to", type=Path, default=DATA, metavar="FOLDER")
    folder: Path = parser.parse_args().to
    folder.mkdir(parents=True, exist_ok=True)
    with own_ollama() as server:
        with_short_names(server.host)
        for name in requests_recorded():
            _write(folder, name, record(server.host, str(server.models), name))
        for name, kept in faults(server):
            _write(folder, name, kept)


def _write(folder: Path, name: str, kept: JSON) -> None:
    text = json.dumps(kept, indent=1, ensure_ascii=False)
    (folder / f"{name}.json").write_text(text + "\n", encoding="utf-8")
    print(name, kept["response"]["status"], kept["response"]["ended"], flush=True)


if __name__ == "__main__":
    main()

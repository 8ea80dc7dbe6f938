"""The server under test and its upstream, as processes, and what the system knows of them."""

import asyncio
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from tools.faults.raw import encode

ROOT = Path(__file__).parents[2]
_CONFIG = """
server: {{port: {port}, log_format: json, shutdown_grace: {grace}, store: false, {settings}}}
backends:
  mlx: null
  ollama: {{host: "http://127.0.0.1:{upstream}", first_token_timeout: 60, token_timeout: 20}}
  echo: {{kind: echo}}
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(port: int, seconds: float = 60.0) -> None:
    """Raises TimeoutError: nothing listens on `port`."""
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise TimeoutError(f"nothing listens on port {port}")


class Use(NamedTuple):
    descriptors: int
    threads: int
    rss_mb: float


class Upstream:
    def __init__(self) -> None:
        self.port = free_port()
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "tools.faults.upstream", str(self.port)]
        self.process = subprocess.Popen(command, cwd=ROOT, start_new_session=True)
        wait_for(self.port)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


class Tandem:
    """`tandem serve`, with a ticker in its loop."""

    def __init__(
        self,
        folder: Path,
        upstream: int,
        *,
        grace: float = 10.0,
        descriptors: int | None = None,
        settings: str = "",
    ) -> None:
        """`settings`: further ones below `server`, as a part of YAML's `{}`."""
        self.port = free_port()
        self.log = folder / "log"
        self._ticks = folder / "ticks"
        config = folder / "config.yaml"
        config.write_text(
            _CONFIG.format(port=self.port, upstream=upstream, grace=grace, settings=settings)
        )
        limit = (lambda: _limit(descriptors)) if descriptors is not None else None
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tools.faults.ticking", "serve", "--config", str(config)],
                cwd=ROOT,
                env=os.environ | {"TANDEM_TICKS": str(self._ticks), "XDG_STATE_HOME": str(folder)},
                stdout=subprocess.DEVNULL,
                stderr=log,
                preexec_fn=limit,
            )
        wait_for(self.port)
        with socket.create_connection(("127.0.0.1", self.port), 60) as client:
            client.sendall(encode("GET", "/health"))
            client.recv(1)  # It listens before it answers.

    def use(self) -> Use:
        """Return what the process uses now, from `/proc`."""
        proc = Path(f"/proc/{self.process.pid}")
        fields = dict(line.split(":", 1) for line in (proc / "status").read_text().splitlines())
        rss = int(fields["VmRSS"].split()[0]) / 1024
        return Use(len(list((proc / "fd").iterdir())), int(fields["Threads"]), rss)

    def peak_mb(self) -> float:
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(text.partition("VmHWM:")[2].split()[0]) / 1024

    async def stall(self) -> dict[str, float]:
        """The longest stall of the loop since the last call, and begin anew; milliseconds."""
        return await asyncio.to_thread(self._stall)

    def _stall(self) -> dict[str, float]:
        ends = time.monotonic() + 10
        while not self._ticks.exists() and time.monotonic() < ends:
            time.sleep(0.05)
        time.sleep(0.3)  # The ticks until now are written.
        stall = json.loads(self._ticks.read_text())
        self._ticks.unlink()
        time.sleep(0.3)
        return stall

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def end(self) -> int:
        """End the process if it runs still; returns its exit status."""
        self.process.terminate()
        try:
            return self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


def _limit(descriptors: int) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))


@contextmanager
def running(
    *, grace: float = 10.0, descriptors: int | None = None, settings: str = ""
) -> Iterator[tuple[Tandem, Upstream]]:
    """A server in front of a scripted upstream, in a folder of its own."""
    with tempfile.TemporaryDirectory() as name:
        upstream = Upstream()
        try:
            tandem = Tandem(
                Path(name),
                upstream.port,
                grace=grace,
                descriptors=descriptors,
                settings=settings,
            )
            try:
                yield tandem, upstream
            finally:
                tandem.end()
        finally:
            upstream.kill()

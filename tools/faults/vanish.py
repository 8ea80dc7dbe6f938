"""Clients behind a network that vanishes: the link between two network namespaces is cut.

It needs root and `ip` of iproute2. `python -m tools.faults.vanish ADDRESS PORT` is a client.
"""

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tools.faults.frames import TEXT, UPGRADE, frame
from tools.faults.processes import ROOT, running
from tools.faults.raw import chat

_SERVER, _CLIENT = "10.213.7.1", "10.213.7.2"
_BEGIN_SECONDS = 5
_MOST_SECONDS = 120
_ENDLESS = "tokens=100000 pace=0.05"
_MESSAGE = f'{{"type":"response.create","model":"m:latest","input":"{_ENDLESS}"}}'
KINDS = {
    "a stream": chat(_ENDLESS),
    "an answer that is not streamed": chat(_ENDLESS, stream=False),
    "a WebSocket": UPGRADE,
}
SETTINGS = "host: 0.0.0.0, insecure: true, keepalive: 15"


class Link:
    """The network of the clients, and its only link."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._own = f"{name}s"

    def run(self, *command: str) -> None:
        """Raises CalledProcessError: this user may not, or there is no `ip`."""
        subprocess.run(["ip", *command], check=True, capture_output=True)

    def make(self) -> None:
        self.run("netns", "add", self.name)
        self.run("link", "add", self._own, "type", "veth", "peer", self._other, "netns", self.name)
        self.run("addr", "add", f"{_SERVER}/30", "dev", self._own)
        self.run("link", "set", self._own, "up")
        self.run("-n", self.name, "addr", "add", f"{_CLIENT}/30", "dev", self._other)
        self.run("-n", self.name, "link", "set", self._other, "up")

    @property
    def _other(self) -> str:
        return f"{self.name}c"

    def cut(self) -> None:
        """Let every packet vanish, as beside a network that is gone: no error comes back."""
        self.run("-n", self.name, "link", "set", self._other, "down")

    def join(self) -> None:
        self.run("-n", self.name, "link", "set", self._other, "up")

    def remove(self) -> None:
        self.run("link", "del", self._own)
        self.run("netns", "del", self.name)


@contextmanager
def linked() -> Iterator[Link]:
    """A network for clients, until the end.

    Raises:
        CalledProcessError, FileNotFoundError: this machine does not allow it.
    """
    link = Link(f"td{os.getpid()}")
    link.make()
    try:
        yield link
    finally:
        link.remove()


def client(link: Link, port: int, request: bytes, received: Path) -> subprocess.Popen[bytes]:
    """Start a client behind `link`, which writes what it receives to a file."""
    text = request.decode().replace("host: localhost", f"host: {_SERVER}")
    own = [sys.executable, "-m", "tools.faults.vanish", _SERVER, str(port), text]
    with received.open("wb") as output:
        return subprocess.Popen(["ip", "netns", "exec", link.name, *own], cwd=ROOT, stdout=output)


async def main(count: int) -> None:
    """Clients of each kind: when their answers end after the link was cut."""
    del count
    for name, request in KINDS.items():
        with running(settings=SETTINGS) as (tandem, _), linked() as link:
            process = client(link, tandem.port, request, tandem.log.with_name("received"))
            await asyncio.sleep(_BEGIN_SECONDS)
            link.cut()
            began = time.monotonic()
            with suppress(TimeoutError):
                async with asyncio.timeout(_MOST_SECONDS):
                    while '"disconnected"' not in tandem.log.read_text():  # noqa: ASYNC110
                        await asyncio.sleep(0.2)
            print(f"{name} ended {time.monotonic() - began:.1f} s after the cut", flush=True)
            process.kill()
            process.wait()


def _be_client(address: str, port: int, request: str) -> None:
    with socket.create_connection((address, port)) as connection:
        connection.sendall(request.encode())
        if "upgrade: websocket" in request:
            connection.recv(65_536)
            connection.sendall(frame(TEXT, _MESSAGE.encode()))
        while data := connection.recv(65_536):
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()


if __name__ == "__main__":
    _be_client(sys.argv[1], int(sys.argv[2]), sys.argv[3])

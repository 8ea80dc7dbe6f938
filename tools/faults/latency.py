"""Times of `/health`, from a process of its own: `python -m tools.faults.latency PORT COUNT`.

A client that has hundreds of streams to read would measure itself. Prints the seconds of each
request, on a connection of its own, as a line.
"""

import socket
import sys
import time

from tools.faults.raw import encode

_PAUSE_SECONDS = 0.02


def measure(port: int) -> float:
    """Ask for `/health`; returns the seconds until the whole response.

    Raises:
        RuntimeError: the status is not 200.
    """
    began = time.perf_counter()
    with socket.create_connection(("127.0.0.1", port), 30) as client:
        client.sendall(encode("GET", "/health", connection="close"))
        reply = b"".join(iter(lambda: client.recv(65_536), b""))
    if b" 200 " not in reply[:13]:
        raise RuntimeError(f"/health answers {reply[:200]!r}")
    return time.perf_counter() - began


if __name__ == "__main__":
    for _ in range(int(sys.argv[2])):
        print(measure(int(sys.argv[1])), flush=True)
        time.sleep(_PAUSE_SECONDS)

"""Render Jinja templates for another process: `python -m adapters.chat_template.worker FD`.

One request at a time over the socket FD; the process ends when the socket is closed. The kernel
ends it when a rendering exceeds its processor time or its memory, so that no loop of a template,
not even one inside a C function, outlives its limit or the server.
"""

import marshal
import resource
import signal
import socket
import struct
import sys
from typing import Any, Literal

from adapters.chat_template.jinja import TemplateRefusalError, render_template

Outcome = Literal["text", "refusal", "memory", "length"]
OUTCOMES: tuple[Outcome, ...] = ("text", "refusal", "memory", "length")
HEAD = struct.Struct("!BQ")
"""Head of each message: an index of `OUTCOMES` (0 in requests), and the bytes that follow."""


def receive(connection: socket.socket) -> tuple[int, bytes] | None:
    """Return the head's number and the body of one message; `None` at the end of the stream."""
    head = _read(connection, HEAD.size)
    if head is None:
        return None
    number, length = HEAD.unpack(head)
    body = _read(connection, length)
    return None if body is None else (number, bytes(body))


def send(connection: socket.socket, body: bytes, outcome: Outcome = "text") -> None:
    connection.sendall(HEAD.pack(OUTCOMES.index(outcome), len(body)))
    connection.sendall(body)


def _read(connection: socket.socket, length: int) -> bytearray | None:
    data = bytearray(length)
    rest = memoryview(data)
    while rest:
        count = connection.recv_into(rest)
        if not count:
            return None
        rest = rest[count:]
    return data


def main(descriptor: int, seconds: float, memory: int, length: int) -> None:
    """Serve until the other end is closed.

    `seconds` of processor time, and `length` characters of output, for each rendering; `memory`:
    bytes of addresses for the process. macOS does not enforce the latter: there only the time
    bounds it.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (memory, hard))
    connection = socket.socket(fileno=descriptor)
    while (request := receive(connection)) is not None:
        signal.setitimer(signal.ITIMER_PROF, seconds)
        outcome, text = _render(request[1], length)
        signal.setitimer(signal.ITIMER_PROF, 0)
        send(connection, text.encode("utf-8", "surrogatepass"), outcome)
        if outcome == "memory":
            return  # What is left of it is in no known state.


def _render(request: bytes, length: int) -> tuple[Outcome, str]:
    # The other end is the server that started this process, never a client.
    given: tuple[str, Any, Any, dict[str, Any]] = marshal.loads(request)  # noqa: S302
    try:
        text = render_template(*given)
    except MemoryError:
        return "memory", ""
    except TemplateRefusalError as error:
        return "refusal", str(error)
    return ("text", text) if len(text) <= length else ("length", "")


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))

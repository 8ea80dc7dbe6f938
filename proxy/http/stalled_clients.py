"""Clients that have vanished or read nothing: their connections end, and so do their answers.

The system's buffers take what a client does not read, and TCP repeats what is not acknowledged for
a quarter of an hour. An answer in progress would keep its place at the engine for as long.
"""

import asyncio
import socket
import struct

_CHECKS = 10
"""Checks within the time that a client has."""
_MACOS_RXT_CONNDROPTIME = 0x80
"""`TCP_RXT_CONNDROPTIME` of macOS, in seconds, which Python has no name for."""
_PROBES = 3


def limit_silence(connection: socket.socket, seconds: float) -> None:
    """Let the system end `connection` where its peer acknowledges nothing for `seconds`.

    Two options: one for data that is not acknowledged, and probes for a connection without data.
    """
    if connection.family not in (socket.AF_INET, socket.AF_INET6):
        return
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    idle, interval = max(1, round(seconds / 2)), max(1, round(seconds / 2 / _PROBES))
    options = {"TCP_KEEPINTVL": interval, "TCP_KEEPCNT": _PROBES}
    options["TCP_KEEPIDLE" if hasattr(socket, "TCP_KEEPIDLE") else "TCP_KEEPALIVE"] = idle
    for name, value in options.items():
        connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(seconds * 1000))
    else:
        number = max(1, round(seconds))
        connection.setsockopt(socket.IPPROTO_TCP, _MACOS_RXT_CONNDROPTIME, number)


def reset(transport: asyncio.Transport) -> None:
    """Close at once, without the megabytes that the system has not delivered."""
    connection = transport.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


class WriteDeadline:
    """Aborts a connection of which unsent bytes do not become fewer for `seconds`."""

    def __init__(self, transport: asyncio.Transport, seconds: float) -> None:
        self._transport = transport
        self._seconds = seconds
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._least = 0
        self._since = 0.0
        """Time of the last progress, by the loop's clock."""

    def watch(self) -> None:
        """Begin to watch; ends by itself once nothing is unsent."""
        if self._timer is None and (unsent := self._transport.get_write_buffer_size()):
            self._least, self._since = unsent, self._loop.time()
            self._set_timer()

    def end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _set_timer(self) -> None:
        self._timer = self._loop.call_later(self._seconds / _CHECKS, self._check)

    def _check(self) -> None:
        self._timer = None
        unsent, now = self._transport.get_write_buffer_size(), self._loop.time()
        if unsent < self._least:
            self._least, self._since = unsent, now
        if unsent and now - self._since >= self._seconds:
            reset(self._transport)
        elif unsent:
            self._set_timer()

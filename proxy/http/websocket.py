"""WebSocket connections, once `protocol.py` has read their head: uvicorn's over `websockets`.

Imported with the first connection: most servers have none.
"""

from asyncio import BaseTransport, Transport
from typing import Any, cast

import uvicorn
from uvicorn._types import ASGIReceiveEvent, ASGISendEvent
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState
from websockets.frames import Frame

from proxy.http.stalled_clients import WriteDeadline

_PIECE = 8_192
"""Bytes that are parsed in one turn of the loop: a read of 256 KiB may have 40,000 frames."""


class WebSocketConnection(WebSocketsSansIOProtocol):
    """uvicorn's, except that the end of the server leaves answers their grace.

    uvicorn closes at once. A handler waits for `ShutdownGrace.began`, and closes the connection
    when its answers have ended.

    A client that reads nothing is cut, and one that sends frames before the response to its
    handshake, which RFC 6455 forbids. Nothing is read from a client that does not read: each ping
    has an answer.
    """

    _unread = b""
    """Bytes received and not parsed."""
    _parses = False
    """The next turn of the loop parses some of them."""

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        writing_seconds: float,
    ) -> None:
        """A client may read nothing for `writing_seconds`."""
        super().__init__(config, server_state, app_state)
        self._writing_seconds = writing_seconds

    def connection_made(self, transport: BaseTransport) -> None:
        super().connection_made(transport)
        self._writing = WriteDeadline(cast(Transport, transport), self._writing_seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        self._writing.end()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.handshake_initiated and not self.handshake_complete:
            self.transport.abort()
            return
        self._unread += data
        if not self._parses:
            self._parse()

    def _parse(self) -> None:
        """Parse a piece, and the others in turns of their own, while the client reads."""
        self._parses = False
        if self.transport.is_closing():
            return
        piece, self._unread = self._unread[:_PIECE], self._unread[_PIECE:]
        super().data_received(piece)
        self._continue()

    def _continue(self) -> None:
        if self.transport.is_closing():
            return
        if self._unread or not self.writable.is_set():
            self.transport.pause_reading()
        elif not self.read_paused:
            self.transport.resume_reading()
        if self._unread and self.writable.is_set() and not self._parses:
            self._parses = True
            self.loop.call_soon(self._parse)

    def handle_cont(self, event: Frame) -> None:
        """Join the frames of a message as they arrive: 32 MB of single bytes would take 1.3 GB."""
        joined = self.frames[0]
        if not isinstance(joined, bytearray):
            self.frames = [joined := bytearray(joined)]  # type: ignore[list-item]
        joined += event.data
        if event.fin:
            self.send_receive_event_to_app()

    async def receive(self) -> ASGIReceiveEvent:
        message = await super().receive()
        self._continue()  # uvicorn has resumed the reading.
        return message

    def pause_writing(self) -> None:
        super().pause_writing()
        self._writing.watch()
        self._continue()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._continue()

    def shutdown(self) -> None:
        if not self.handshake_complete or self.close_sent:
            super().shutdown()

    async def send(self, message: ASGISendEvent) -> None:
        await super().send(message)
        self._writing.watch()
        if message["type"] == "websocket.http.response.body" and not message.get("more_body"):
            self.handshake_complete = True  # uvicorn would log that the application has failed.

"""WebSocket connections, once `protocol.py` has read their head: uvicorn's over `websockets`.

Imported with the first connection: most servers have none.
"""

from asyncio import BaseTransport, Transport
from typing import Any, cast

import uvicorn
from uvicorn._types import ASGISendEvent
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState

from proxy.http.stalled_clients import WriteDeadline


class WebSocketConnection(WebSocketsSansIOProtocol):
    """uvicorn's, except that the end of the server leaves answers their grace.

    uvicorn closes at once. A handler waits for `ShutdownGrace.began`, and closes the connection
    when its answers have ended.

    A client that reads nothing is cut, and one that sends frames before the response to its
    handshake, which RFC 6455 forbids.
    """

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
        else:
            super().data_received(data)

    def shutdown(self) -> None:
        if not self.handshake_complete or self.close_sent:
            super().shutdown()

    async def send(self, message: ASGISendEvent) -> None:
        await super().send(message)
        self._writing.watch()
        if message["type"] == "websocket.http.response.body" and not message.get("more_body"):
            self.handshake_complete = True  # uvicorn would log that the application has failed.

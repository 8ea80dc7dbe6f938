"""WebSocket connections, once `protocol.py` has read their head: uvicorn's over `websockets`.

Imported with the first connection: most servers have none.
"""

from uvicorn._types import ASGISendEvent
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol


class WebSocketConnection(WebSocketsSansIOProtocol):
    """uvicorn's, except that the end of the server leaves answers their grace.

    uvicorn closes at once. A handler waits for `ShutdownGrace.began`, and closes the connection
    when its answers have ended.
    """

    def shutdown(self) -> None:
        if not self.handshake_complete or self.close_sent:
            super().shutdown()

    async def send(self, message: ASGISendEvent) -> None:
        await super().send(message)
        if message["type"] == "websocket.http.response.body" and not message.get("more_body"):
            self.handshake_complete = True  # uvicorn would log that the application has failed.

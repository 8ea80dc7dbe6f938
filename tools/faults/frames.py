"""Short frames of a WebSocket that come at once: stall of the loop, and memory of their answers."""

import asyncio
import base64
from typing import cast

from tools.faults.processes import running
from tools.faults.raw import connected, encode, read_head

_MASKED = 0x80
_FIN = 0x80
_CONTINUATION, TEXT, _PING, _PONG = 0, 1, 9, 10


def frame(opcode: int, data: bytes, fin: int = _FIN) -> bytes:
    """Encode a frame with a mask of zeros; `data` has fewer than 126 bytes."""
    return bytes([fin | opcode, _MASKED | len(data)]) + b"\0\0\0\0" + data


UPGRADE = encode(
    "GET",
    "/v1/responses",
    connection="upgrade",
    upgrade="websocket",
    sec_websocket_version="13",
    sec_websocket_key=base64.b64encode(b"k" * 16).decode(),
)
_KINDS = {
    "pings": frame(_PING, b"x"),
    "pings of 125 bytes": frame(_PING, b"x" * 125),
    "pongs": frame(_PONG, b""),
    "messages that are no JSON": frame(TEXT, b"{"),
    "empty messages": frame(TEXT, b""),
    "pieces of one message": frame(_CONTINUATION, b"x", fin=0),
}


async def main(count: int) -> None:
    """Frames of each kind, from a client that reads and from one that does not."""
    count = count or 100_000
    with running() as (tandem, _):
        await tandem.stall()
        print(f"idle: {tandem.use().rss_mb:.0f} MB")
        for name, data in _KINDS.items():
            first = frame(TEXT, b"", fin=0) if data[0] == _CONTINUATION else b""
            for reads in (True, False):
                await tandem.stall()
                await _send(tandem.port, first + data * count, reads=reads)
                stall = await tandem.stall()
                print(
                    f"{count} {name}, {'read' if reads else 'not read'}: longest stall "
                    f"{stall['wall_ms']:.0f} ms, of CPU time {stall['cpu_ms']:.0f} ms, "
                    f"{tandem.use().rss_mb:.0f} MB",
                    flush=True,
                )


async def _send(port: int, frames: bytes, *, reads: bool) -> None:
    """Send `frames`, for ten seconds at most."""
    async with connected(port, 4096) as (reader, writer):
        writer.write(UPGRADE)
        await read_head(reader)
        if not reads:
            cast(asyncio.Transport, writer.transport).pause_reading()
        reading = asyncio.create_task(reader.read(-1))
        writer.write(frames)
        try:
            async with asyncio.timeout(10):
                await writer.drain()
        except TimeoutError:
            pass
        await asyncio.sleep(2)
        reading.cancel()

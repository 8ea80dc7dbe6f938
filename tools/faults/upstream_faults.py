"""An upstream that is killed, fails or repeats secrets: what clients get."""

import asyncio
import json
import time
from collections import Counter

from tools.faults.processes import Tandem, running
from tools.faults.raw import CHAT, chat, chunks, connected, encode, is_told, send

_CLIENTS = 20
_TOKENS = 100
CANARY = "sk-canary-7f3a9c"


class _Group:
    """Clients that stream at once, until one moment of all of them."""

    def __init__(self, port: int, at: int) -> None:
        self._port, self._at = port, at
        self._reached = 0
        self.all_there = asyncio.Event()
        """Each client has got as many chunks."""

    async def client(self) -> tuple[str, float]:
        """Stream; returns the outcome, and when it came."""
        try:
            async with asyncio.timeout(60), connected(self._port) as (reader, writer):
                writer.write(chat(f"tokens={_TOKENS} pace=0.01"))
                if self._at == 0:
                    await asyncio.sleep(0.02)
                    self._reach()
                outcome = await self._read(reader)
        except TimeoutError:
            outcome = "hang"
        except (OSError, asyncio.IncompleteReadError, ValueError):
            outcome = "cut"
        return outcome, time.perf_counter()

    async def _read(self, reader: asyncio.StreamReader) -> str:
        head = await reader.readuntil(b"\r\n\r\n")
        if b" 200 " not in head.splitlines()[0]:
            return "status"
        text, seen = b"", 0
        async for piece in chunks(reader):
            text += piece
            seen += 1
            if seen == self._at:
                self._reach()
        if seen < self._at:  # On a busy machine many tokens share a chunk.
            self._reach()
        if f"{_TOKENS - 1} x".encode() in text and b"[DONE]" in text:
            return "complete before the kill"
        return "error event" if is_told(text) else "silent end"

    def _reach(self) -> None:
        self._reached += 1
        if self._reached == _CLIENTS:
            self.all_there.set()


async def kills(count: int) -> None:
    """`kill -9` of the upstream when each of 20 streams has got 0 to `count` (64) chunks."""
    last = count or 64
    with running() as (tandem, upstream):
        outcomes: Counter[str] = Counter()
        slowest = 0.0
        for at in range(last + 1):
            group = _Group(tandem.port, at)
            clients = [asyncio.create_task(group.client()) for _ in range(_CLIENTS)]
            async with asyncio.timeout(60):
                await group.all_there.wait()
            upstream.kill()
            killed = time.perf_counter()
            for outcome, ended in await asyncio.gather(*clients):
                outcomes[outcome] += 1
                slowest = max(slowest, ended - killed)
            upstream.start()
            await _recovered(tandem)
        stall = await tandem.stall()
        print(f"{last + 1} kills beside {_CLIENTS} streams: {dict(outcomes)}")
        print(f"the last client was told {slowest * 1e3:.0f} ms after the kill")
        print(f"longest stall of CPU time {stall['cpu_ms']:.0f} ms")


async def _recovered(tandem: Tandem) -> None:
    """Wait until an answer comes again."""
    async with asyncio.timeout(30):
        while (await send(tandem.port, chat("tokens=1", stream=False))).status != 200:  # noqa: ASYNC110
            await asyncio.sleep(0.1)


async def canary(count: int) -> None:
    """Secrets in headers, prompts, paths and an upstream's errors: where they come out again."""
    del count
    with running() as (tandem, _):
        found: Counter[str] = Counter()
        for name, request in _with_canaries().items():
            try:
                reply = await send(tandem.port, request, 10)
            except (OSError, asyncio.IncompleteReadError, ValueError):
                continue
            text = reply.body + json.dumps(reply.headers).encode()
            found[name] += CANARY.encode() in text
        for path in ("/health", "/api/health", "/metrics", "/v1/models"):
            reply = await send(tandem.port, encode("GET", path))
            found[path] += CANARY.encode() in reply.body
        await asyncio.sleep(1)
        found["log"] += tandem.log.read_text().count(CANARY)
        print(f"{sum(found.values())} canaries in {len(found)} places: {dict(+found)}")


def _with_canaries() -> dict[str, bytes]:
    body = json.dumps({"model": "m:latest", "messages": [{"role": "user", "content": CANARY}]})
    return {
        "an error that repeats the prompt": chat(f"{CANARY} echo=1"),
        "an error that repeats the prompt, whole": chat(f"{CANARY} echo=1", stream=False),
        "broken lines": chat(f"{CANARY} garbage=1"),
        "cut": chat(f"{CANARY} cut=2"),
        "status": chat(f"{CANARY} status=500"),
        "key": encode("POST", CHAT, b"{", authorization=f"Bearer {CANARY}"),
        "x-api-key": encode("POST", "/v1/messages", b"{}", x_api_key=CANARY),
        "query": encode("GET", f"/v1/models?key={CANARY}"),
        "malformed": encode("POST", CHAT, body.encode()[:-1]),
        "cookie": encode("POST", CHAT, body.encode(), cookie=CANARY),
        "wrong type": encode(
            "POST", CHAT, json.dumps({"model": "m:latest", "messages": CANARY}).encode()
        ),
        "wrong field": encode(
            "POST", CHAT, json.dumps({"model": "m:latest", "messages": [], "stop": CANARY}).encode()
        ),
    }


async def breaker(count: int) -> None:
    """Requests to an upstream that is gone, once the breaker is open; and its return."""
    count = count or 200
    with running() as (tandem, upstream):
        await send(tandem.port, chat("tokens=1"))
        upstream.kill()
        for _ in range(4):
            await send(tandem.port, chat("tokens=1", stream=False))
        began = time.perf_counter()
        replies = await asyncio.gather(
            *(send(tandem.port, chat("tokens=1", stream=False)) for _ in range(count))
        )
        took = (time.perf_counter() - began) / count
        print(f"{count} requests while it is open: {Counter(r.status for r in replies)}")
        print(f"{took * 1e3:.1f} ms each; retry-after {replies[0].headers.get('retry-after')}")
        upstream.start()
        began = time.perf_counter()
        await _recovered(tandem)
        print(f"answered {time.perf_counter() - began:.1f} s after the upstream had returned")

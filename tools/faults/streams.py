"""Many clients at once: streams held, disconnects, slow sockets; what is left of them."""

import asyncio
import random
import time

from tools.faults.load import health
from tools.faults.processes import running
from tools.faults.raw import chat, chunks, connected, read_head, reset, send

_HELD_TOKENS = 40
_PHASES = 8
"""Moments of a disconnect, from the first bytes of the head to the last chunk."""


async def hold(count: int) -> None:
    """Streams that are open at once, of 40 short tokens each; all have to be complete and equal."""
    count = count or 1000
    with running() as (tandem, _):
        await send(tandem.port, chat("tokens=1"))
        await tandem.stall()
        before = tandem.use()
        request = chat(f"tokens={_HELD_TOKENS} pace=0.5 size=5")
        holding = asyncio.gather(*(_words(tandem.port, request) for _ in range(count)))
        await asyncio.sleep(_HELD_TOKENS * 0.25)
        during = tandem.use()
        latencies = await health(tandem, 50)
        texts = await holding
        stall = await tandem.stall()
        print(f"{texts.count(max(texts))} of {count} streams complete and equal")
        print(f"descriptors {before.descriptors} -> {during.descriptors}")
        print(f"memory {(during.rss_mb - before.rss_mb) / count * 1024:.0f} KiB a stream")
        print(f"/health meanwhile: p99 {latencies[int(len(latencies) * 0.99)] * 1e3:.0f} ms")
        print(f"longest stall {stall['wall_ms']:.0f} ms, of CPU time {stall['cpu_ms']:.0f} ms")


async def _words(port: int, request: bytes) -> int:
    """Read a stream to its end; returns the bytes of its texts, 0 for one that broke."""
    try:
        async with asyncio.timeout(300), connected(port) as (reader, writer):
            writer.write(request)
            await read_head(reader)
            text = b"".join([piece async for piece in chunks(reader)])
    except (OSError, TimeoutError, asyncio.IncompleteReadError, ValueError):
        return 0
    return text.count(b"x") if text.endswith(b"[DONE]\n\n") else 0


async def disconnects(count: int) -> None:
    """Clients that leave at eight moments, half of them with RST; what stays behind."""
    count = count or 20_000
    with running() as (tandem, _):
        await _leave_all(tandem.port, 500)
        await asyncio.sleep(2)
        await tandem.stall()
        before = tandem.use()
        began = time.perf_counter()
        await _leave_all(tandem.port, count // 2)
        half = tandem.use()
        await _leave_all(tandem.port, count - count // 2)
        took = time.perf_counter() - began
        await asyncio.sleep(7)  # Idle connections to the upstream are kept for 5 s.
        after, stall = tandem.use(), await tandem.stall()
        good = await send(tandem.port, chat("tokens=3"))
        print(f"{count} disconnects in {took:.0f} s; then a good request: {good.status}")
        print(f"descriptors {before.descriptors} -> {after.descriptors}")
        print(f"threads {before.threads} -> {after.threads}")
        memory = (before.rss_mb, half.rss_mb, after.rss_mb)
        print("memory {:.0f}, half way {:.0f}, after {:.0f} MB".format(*memory))
        print(f"longest stall {stall['wall_ms']:.0f} ms, of CPU time {stall['cpu_ms']:.0f} ms")


async def _leave_all(port: int, count: int) -> None:
    pending = asyncio.Semaphore(100)

    async def one(at: int) -> None:
        async with pending:
            await _leave(port, at % _PHASES, with_reset=at % 2 == 0)

    await asyncio.gather(*(one(at) for at in range(count)))


async def _leave(port: int, phase: int, *, with_reset: bool) -> None:
    """Disconnect in the head, in the body, before an answer, or after some of its chunks."""
    request = chat("tokens=60 pace=0.01", stream=phase != 3)
    end = request.index(b"\r\n\r\n")
    sent = {0: request[: end // 2], 1: request[: end + 9]}.get(phase, request)
    try:
        async with asyncio.timeout(30), connected(port) as (reader, writer):
            writer.write(sent)
            await writer.drain()
            if phase >= 4:
                await read_head(reader)
                seen = 0
                async for _ in chunks(reader):
                    seen += 1
                    if seen >= phase - 3:
                        break
            else:
                await asyncio.sleep(random.random() / 50)  # noqa: S311
            if with_reset:
                reset(writer)
            else:
                writer.write_eof()
    except (OSError, TimeoutError, asyncio.IncompleteReadError, ValueError):
        return


async def slow(count: int) -> None:
    """Sockets that send a byte a second; when they are closed, and what a good request takes."""
    count = count or 500
    with running() as (tandem, _):
        await send(tandem.port, chat("tokens=3"))
        alone = await health(tandem, 50)
        holding = [asyncio.create_task(_drip(tandem.port)) for _ in range(count)]
        await asyncio.sleep(2)
        beside = await health(tandem, 100)
        open_for = sorted(await asyncio.gather(*holding))
        print(f"{count} slow sockets, closed after {open_for[0]:.1f} to {open_for[-1]:.1f} s")
        for name, times in (("alone", alone), ("beside", beside)):
            middle, last = times[len(times) // 2], times[int(len(times) * 0.99)]
            print(f"/health {name}: median {middle * 1e3:.1f} ms, p99 {last * 1e3:.1f} ms")
        print(f"descriptors left: {tandem.use().descriptors}")


async def _drip(port: int) -> float:
    """Send the head of a request a byte a second; returns the seconds until the server closes."""
    request = chat("tokens=3")
    began = time.perf_counter()
    try:
        async with asyncio.timeout(60), connected(port) as (reader, writer):
            answer = asyncio.ensure_future(reader.read(-1))
            for at in range(len(request)):
                writer.write(request[at : at + 1])
                await asyncio.wait([answer], timeout=1)
                if answer.done():
                    break
            await answer
    except (OSError, TimeoutError):
        pass
    return time.perf_counter() - began

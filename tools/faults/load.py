"""The end of the server, more requests than it can answer, and too few descriptors."""

import asyncio
import signal
import sys
import time
from collections import Counter
from typing import cast

from tools.faults.processes import ROOT, Tandem, running
from tools.faults.raw import Reply, chat, chunks, connected, is_told, send


async def sigterm(count: int) -> None:
    """SIGTERM, once and twice, beside endless streams and requests that wait."""
    count = count or 100
    for signals in (1, 2):
        with running(grace=3.0) as (tandem, _):
            streams = [asyncio.create_task(_stream(tandem.port)) for _ in range(count)]
            waiting = [
                asyncio.create_task(_status(tandem.port, chat("hang=1", stream=at % 2 == 0)))
                for at in range(count // 10)
            ]
            await asyncio.sleep(3)
            began = time.perf_counter()
            tandem.signal(signal.SIGHUP)
            for _ in range(signals):
                tandem.signal(signal.SIGTERM)
                await asyncio.sleep(0.5)
            told_waiting = Counter(await asyncio.gather(*waiting))
            until_waiting = time.perf_counter() - began
            told = Counter(await asyncio.gather(*streams))
            until_streams = time.perf_counter() - began
            code = await asyncio.to_thread(tandem.process.wait, 30)
            print(f"{signals} x SIGTERM: {count} streams {dict(told)} after {until_streams:.1f} s")
            print(f"  waiting requests {dict(told_waiting)} after {until_waiting:.1f} s")
            print(f"  exit status {code} after {time.perf_counter() - began:.1f} s")
            print(f"  tracebacks: {tandem.log.read_text().count('Traceback')}")


async def _stream(port: int) -> str:
    try:
        async with asyncio.timeout(60), connected(port) as (reader, writer):
            writer.write(chat("tokens=100000 pace=0.1"))
            await reader.readuntil(b"\r\n\r\n")
            text = b"".join([piece async for piece in chunks(reader)])
    except (OSError, asyncio.IncompleteReadError, ValueError, TimeoutError) as error:
        return type(error).__name__
    return "told" if is_told(text) else "silent"


async def _status(port: int, request: bytes) -> str:
    try:
        reply = await send(port, request)
    except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
        return type(error).__name__
    return f"{reply.status} {reply.code}"


async def overload(count: int) -> None:
    """Ten times as many clients as the upstream answers at once; times, refusals, `/health`."""
    count = count or 1000
    with running() as (tandem, _):
        await send(tandem.port, chat("tokens=1"))
        await tandem.stall()
        alone = await health(tandem, 50)
        begun = asyncio.Event()
        measuring = asyncio.create_task(health(tandem, 100, begun))
        await begun.wait()
        done = await asyncio.gather(*(_timed(tandem.port) for _ in range(count)))
        beside = await measuring
        stall = await tandem.stall()
        print(f"{count} requests at once: {Counter(reply.status for reply, _ in done)}")
        print(f"the longest took {max(seconds for _, seconds in done):.1f} s")
        for name, times in (("alone", alone), ("beside", beside)):
            middle, last = times[len(times) // 2], times[int(len(times) * 0.99)]
            print(f"/health {name}: median {middle * 1e3:.1f} ms, p99 {last * 1e3:.1f} ms")
        print(f"longest stall {stall['wall_ms']:.0f} ms, of CPU time {stall['cpu_ms']:.0f} ms")


async def _timed(port: int) -> tuple[Reply, float]:
    began = time.perf_counter()
    reply = await send(port, chat("tokens=20 pace=0.05", stream=False), 300)
    return reply, time.perf_counter() - began


async def health(tandem: Tandem, count: int, begun: asyncio.Event | None = None) -> list[float]:
    """Sorted times of `/health`, seconds, measured by a process of its own.

    `begun` is set after the first: work beside it may begin.

    Raises:
        RuntimeError: a status is not 200, or no response came.
    """
    measuring = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "tools.faults.latency", str(tandem.port), str(count)),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )
    output = cast(asyncio.StreamReader, measuring.stdout)
    times = [float(await output.readline())]
    if begun is not None:
        begun.set()
    times += [float(line) for line in (await output.read()).split()]
    if await measuring.wait():
        raise RuntimeError(f"only {len(times)} of {count} requests for /health were answered")
    return sorted(times)


async def descriptors(count: int) -> None:
    """256 descriptors, which are not raised: streams until none is left, and `/health` then."""
    count = count or 300
    with running(descriptors=256) as (tandem, _):
        await send(tandem.port, chat("tokens=1"))
        streams = [
            asyncio.create_task(_status(tandem.port, chat("tokens=20 pace=0.5")))
            for _ in range(count)
        ]
        await asyncio.sleep(3)
        times = await health(tandem, 20)
        print(f"/health beside them: 20 answers, the slowest in {times[-1] * 1e3:.0f} ms")
        print(f"descriptors in use: {tandem.use().descriptors} of 256")
        print(f"{count} streams: {dict(Counter(await asyncio.gather(*streams)))}")
        good = await send(tandem.port, chat("tokens=3"))
        print(f"a request after them: {good.status}")

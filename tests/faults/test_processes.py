"""Faults of clients, of the upstream and of the system, with real processes and raw sockets."""

import asyncio
import json
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import cast

import pytest
from fakes.waiting import pause, until

from tools.faults.bodies import BODIES
from tools.faults.frames import TEXT, UPGRADE, frame
from tools.faults.processes import ROOT, Tandem, free_port, running
from tools.faults.raw import (
    CHAT,
    chat,
    chunks,
    connected,
    encode,
    is_told,
    read_head,
    read_reply,
    reset,
    send,
)

pytestmark = [pytest.mark.long, pytest.mark.process, pytest.mark.timeout(600)]

ENDLESS = chat("tokens=100000 pace=0.05")
ECHO = "backends: {mlx: null, ollama: null, echo: {kind: echo}}\nserver: {store: false}"
GOOD = chat("tokens=2", stream=False)


async def stream_of(port: int, began: asyncio.Event) -> bytes:
    async with connected(port) as (reader, writer):
        writer.write(ENDLESS)
        await read_head(reader)
        text = b""
        async for piece in chunks(reader):
            began.set()
            text += piece
        return text


async def begun(tandem: Tandem, count: int) -> list[asyncio.Task[bytes]]:
    """Start streams, and wait until each has a piece of its answer."""
    events = [asyncio.Event() for _ in range(count)]
    streams = [asyncio.create_task(stream_of(tandem.port, event)) for event in events]
    async with asyncio.timeout(60):
        await asyncio.gather(*(event.wait() for event in events))
    return streams


@pytest.mark.parametrize("signals", [[signal.SIGTERM], [signal.SIGINT, signal.SIGTERM]])
async def test_signals_end_every_stream_with_an_error_event(signals: list[signal.Signals]):
    with running(grace=1.0) as (tandem, _):
        streams = await begun(tandem, 20)
        for number in signals:
            tandem.signal(number)
            await pause(0.1)
        assert all([is_told(await stream) for stream in streams])
        assert await asyncio.to_thread(tandem.process.wait, 30) == 0
        assert "Traceback" not in tandem.log.read_text()


async def test_clients_that_read_nothing_do_not_delay_the_end():
    """They are cut, each without a traceback."""
    message = b'{"type":"response.create","model":"m:latest","input":"tokens=100000 size=4000"}'
    with running(grace=1.0) as (tandem, _):
        async with (
            connected(tandem.port, 4096) as (_, writer),
            connected(tandem.port, 4096) as (reader, socket),
        ):
            writer.write(chat("tokens=100000 size=4000"))
            socket.write(UPGRADE)
            await read_head(reader)
            for each in (writer, socket):
                cast(asyncio.Transport, each.transport).pause_reading()
            socket.write(frame(TEXT, message))
            await pause(2)
            tandem.signal(signal.SIGTERM)
            assert await asyncio.to_thread(tandem.process.wait, 10) == 0
        assert "ERROR" not in tandem.log.read_text()


async def test_waiting_request_is_told_of_the_end_at_once():
    with running(grace=10.0) as (tandem, _):
        streams = await begun(tandem, 1)
        waiting = [
            asyncio.create_task(send(tandem.port, chat("hang=1", stream=streamed)))
            for streamed in (True, False)
        ]
        await pause(1)
        tandem.signal(signal.SIGTERM)
        for reply in await asyncio.gather(*waiting):
            assert (reply.status, reply.code) == (503, "server_shutdown")
        assert not streams[0].done()
        streams[0].cancel()


async def test_hangup_of_the_terminal_ends_nothing():
    with running() as (tandem, _):
        streams = await begun(tandem, 1)
        for _ in range(3):
            tandem.signal(signal.SIGHUP)
            await pause(0.1)
        assert (await send(tandem.port, GOOD)).status == 200
        assert not streams[0].done()
        streams[0].cancel()


async def test_second_interrupt_leaves_no_traceback():
    with running(grace=5.0) as (tandem, _):
        await begun(tandem, 2)
        for _ in range(4):
            tandem.signal(signal.SIGINT)
            await pause(0.05)
        await asyncio.to_thread(tandem.process.wait, 30)
        assert "Traceback" not in tandem.log.read_text()


@pytest.mark.parametrize("at", [0, 1, 5, 30])
async def test_kill_of_the_upstream_is_told_and_the_next_request_answered(at: int):
    with running() as (tandem, upstream):
        async with connected(tandem.port) as (reader, writer):
            writer.write(chat("tokens=200 pace=0.01"))
            seen, text = 0, b""
            if at:
                await read_head(reader)
                async for piece in chunks(reader):
                    text += piece
                    seen += 1
                    if seen == at:
                        upstream.kill()
                assert is_told(text)
            else:
                await pause(0.02)
                upstream.kill()
                reply = await read_reply(reader)
                assert reply.status in (200, 502, 503)
                assert reply.status != 200 or is_told(reply.body)
        upstream.start()

        async def answers_again() -> bool:
            return (await send(tandem.port, GOOD)).status == 200

        await until(answers_again, 30)


@pytest.mark.parametrize("leave", ["reset", "half-close", "close"])
async def test_clients_that_leave_keep_nothing(leave: str):
    with running() as (tandem, _):
        await send(tandem.port, GOOD)
        idle = tandem.use().descriptors
        for _ in range(20):
            async with connected(tandem.port) as (reader, writer):
                writer.write(ENDLESS)
                await reader.readuntil(b"data:")
                if leave == "reset":
                    reset(writer)
                elif leave == "half-close":
                    writer.write_eof()
                    await reader.read(-1)
        await until(lambda: tandem.use().descriptors <= idle + 1, 30)


async def test_few_descriptors_are_answered_with_503_and_health_goes_on():
    with running(descriptors=256) as (tandem, _):
        requests = [
            asyncio.create_task(send(tandem.port, chat("tokens=10 pace=0.3"))) for _ in range(300)
        ]
        await pause(1.5)
        assert (await send(tandem.port, encode("GET", "/health"))).status == 200
        replies = await asyncio.gather(*requests)
        assert {reply.status for reply in replies} == {200, 503}
        refused = next(reply for reply in replies if reply.status == 503)
        assert refused.code == "server_is_overloaded"
        assert refused.headers["retry-after"] == "1"
        assert (await send(tandem.port, GOOD)).status == 200


@pytest.mark.parametrize("name", BODIES)
async def test_huge_body_is_answered_and_takes_no_memory_for_good(name: str):
    path, body = BODIES[name]()
    with running() as (tandem, _):
        reply = await send(tandem.port, encode("POST", path, body), 120)
        assert reply.status in (200, 400)
        if reply.status == 400:
            assert json.loads(reply.body)["error"]["message"]
        assert tandem.peak_mb() < 400
        assert (await send(tandem.port, GOOD)).status == 200


async def test_pictures_of_a_request_take_at_most_100_mb():
    path, body = BODIES["16 pictures of 1.4 MB"]()
    with running() as (tandem, _):
        await send(tandem.port, GOOD)
        idle = tandem.use().rss_mb
        assert (await send(tandem.port, encode("POST", path, body), 120)).status == 200
        assert tandem.peak_mb() - idle < 100


@pytest.mark.parametrize(
    "redirection", [">&- 2>&-", ">/dev/full 2>/dev/full", "> >(true)", "2> >(true)"]
)
async def test_output_that_nobody_takes_ends_nothing(redirection: str, tmp_path: Path):
    port = free_port()
    config = tmp_path / "c.yaml"
    config.write_text(
        "backends: {mlx: null, ollama: null, echo: {kind: echo}}\nserver: {store: false}"
    )
    line = f"exec {sys.executable} -m proxy serve --port {port} --config {config} {redirection}"
    process = subprocess.Popen(["bash", "-c", line], cwd=ROOT)  # noqa: ASYNC220
    try:
        body = json.dumps({"model": "echo", "messages": [{"role": "user", "content": "Hi"}]})
        await until(lambda: _listens(port), 60)
        for _ in range(3):
            reply = await send(port, encode("POST", CHAT, body.encode()))
            assert reply.status == 200
            await pause(0.3)  # The request log is written.
        process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(process.wait, 30) == 0
    finally:
        process.kill()
        process.wait()


async def test_log_that_nobody_reads_holds_nothing_up(tmp_path: Path):
    config = tmp_path / "c.yaml"
    config.write_text(
        "backends: {mlx: null, ollama: null, echo: {kind: echo}}\nserver: {store: false}"
    )
    port = free_port()
    process = subprocess.Popen(  # noqa: ASYNC220
        [sys.executable, "-m", "proxy", "serve", "--port", str(port), "--config", str(config)],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        await until(lambda: _listens(port), 60)
        body = json.dumps({"model": "x" * 200, "messages": [{"role": "user", "content": "Hi"}]})
        for _ in range(400):  # 200 kB of a log, and a pipe holds 64.
            assert (await send(port, encode("POST", CHAT, body.encode()))).status == 404
        process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(process.wait, 30) == 0
    finally:
        process.kill()
        process.communicate()


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True

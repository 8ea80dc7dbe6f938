"""`tandem bench relay`: the replayed upstream, the client, the table, and one complete run."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from proxy.bench.developers.child_process import free_port, listening, running
from proxy.bench.developers.relay_client import Endpoint, fetch, ollama_body, openai_body, stream
from proxy.bench.developers.replayed_ollama import FAST, PACED, RECORDED
from proxy.bench.developers.tables import RelayRow, relay_lines

DATA = Path(__file__).parents[3] / "data" / "ollama"


@pytest.fixture
async def upstream(tmp_path: Path) -> AsyncIterator[Endpoint]:
    port = free_port()
    command = (sys.executable, "-m", "proxy.bench.developers.replayed_ollama", str(port), "0.02")
    with (tmp_path / "log").open("wb") as log:
        async with running(*command, log=log):
            await listening(port)
            yield Endpoint(port, "/api/chat", ollama_body)


def test_replayed_lines_are_those_of_the_recording():
    recorded = json.loads((DATA / "chat-stream.json").read_text())
    assert [line.decode() for line in RECORDED] == recorded["response"]["chunks"]


@pytest.mark.process
async def test_upstream_answers_with_the_requested_number_of_words(upstream: Endpoint):
    latency = await stream(upstream, FAST, 9)
    assert 0 < latency.first <= latency.total
    await fetch(upstream, FAST, 9, times=3)


@pytest.mark.process
async def test_upstream_keeps_its_pace_with_several_clients(upstream: Endpoint):
    async with asyncio.timeout(20):
        answers = await asyncio.gather(*(stream(upstream, PACED, 10) for _ in range(8)))
    assert all(answer.total >= 9 * 0.02 for answer in answers)


@pytest.mark.process
async def test_unexpected_response_is_an_error(upstream: Endpoint):
    version = Endpoint(upstream.port, "/api/version", openai_body)
    with pytest.raises(RuntimeError, match="unexpected response"):
        await stream(version, FAST, 1)
    with pytest.raises(RuntimeError, match="unexpected response"):
        await fetch(version, FAST, 1, times=1)


def test_costs_are_relative_to_the_first_relay():
    plain = RelayRow("plain relay", full=80e-6, paced=200e-6, whole=1e-3, first=2e-3, crowd=1.5)
    tandem = RelayRow("Tandem", full=8e-6, paced=50e-6, whole=3e-4, first=1e-3, crowd=1.01)
    row = "| Tandem | 8.0 (0.100) | 50.0 (0.250) | 300.0 (0.300) | 1.00 | 1.010 |"
    assert row in list(relay_lines([plain, tandem]))


@pytest.mark.long
def test_tandem_is_measured_beside_a_plain_relay():
    command = [sys.executable, "-m", "proxy", "bench", "relay", "--rounds", "1", "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [row["contestant"] for row in json.loads(done.stdout)] == ["plain relay", "Tandem"]
    assert "[1/5] round 1 of 1" in done.stderr

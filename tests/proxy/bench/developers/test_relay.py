"""The relay's benchmark: its upstream is a recorded one, its figures are ratios, and it runs."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from proxy.bench.developers.child_process import free_port, listening, running
from proxy.bench.developers.relay_client import Ask, fetch, fetch_whole, ollama_body, openai_body
from proxy.bench.developers.replayed_ollama import FAST, PACED, RECORDED
from proxy.bench.developers.tables import RelayRow, print_relays

DATA = Path(__file__).parents[3] / "data" / "ollama"


@pytest.fixture
async def upstream(tmp_path: Path) -> AsyncIterator[Ask]:
    port = free_port()
    command = (sys.executable, "-m", "proxy.bench.developers.replayed_ollama", str(port), "0.02")
    with (tmp_path / "log").open("wb") as log:
        async with running(*command, log=log):
            await listening(port)
            yield Ask(port, "/api/chat", ollama_body)


def test_what_is_replayed_was_recorded():
    recorded = json.loads((DATA / "chat-stream.json").read_text())
    assert [line.decode() for line in RECORDED] == recorded["response"]["chunks"]


async def test_upstream_says_as_many_words_as_it_is_asked_for(upstream: Ask):
    fetched = await fetch(upstream, FAST, 9)
    assert 0 < fetched.first <= fetched.total
    await fetch_whole(upstream, FAST, 9, times=3)


async def test_upstream_keeps_its_pace_however_many_listen(upstream: Ask):
    async with asyncio.timeout(5):
        answers = await asyncio.gather(*(fetch(upstream, PACED, 10) for _ in range(8)))
    assert all(answer.total >= 9 * 0.02 for answer in answers)


async def test_answer_other_than_asked_for_measures_nothing(upstream: Ask):
    elsewhere = Ask(upstream.port, "/api/version", openai_body)
    with pytest.raises(RuntimeError, match="not the answer"):
        await fetch(elsewhere, FAST, 1)
    with pytest.raises(RuntimeError, match="not the answer"):
        await fetch_whole(elsewhere, FAST, 1, times=1)


def test_costs_are_shares_of_the_first_relays(capsys: pytest.CaptureFixture[str]):
    plain = RelayRow("plain relay", full=80e-6, paced=200e-6, whole=1e-3, first=2e-3, crowd=1.5)
    ours = RelayRow("Tandem", full=8e-6, paced=50e-6, whole=3e-4, first=1e-3, crowd=1.01)
    print_relays([plain, ours])
    row = "| Tandem | 8.0 (0.100) | 50.0 (0.250) | 300.0 (0.300) | 1.00 | 1.010 |"
    assert row in capsys.readouterr().out


@pytest.mark.long
def test_tandem_is_measured_beside_a_plain_relay():
    command = [sys.executable, "-m", "proxy", "bench", "relay", "--rounds", "1"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for name in ("plain relay", "Tandem"):
        assert f"| {name} |" in done.stdout

"""Clients behind a network that vanishes, and one that comes back: in a network of their own."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes.waiting import pause, until

from tools.faults.processes import running
from tools.faults.raw import chat
from tools.faults.vanish import KINDS, SETTINGS, Link, client, linked

pytestmark = [pytest.mark.long, pytest.mark.process, pytest.mark.timeout(300)]

TOKENS = 400


@pytest.fixture
def link() -> Iterator[Link]:
    try:
        with linked() as link:
            yield link
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no network namespaces here: {error}")


@pytest.mark.parametrize("name", KINDS)
async def test_answer_to_a_client_that_has_vanished_ends(name: str, link: Link, tmp_path: Path):
    with running(settings=SETTINGS) as (tandem, _):
        process = client(link, tandem.port, KINDS[name], tmp_path / "received")
        await pause(5)
        link.cut()
        await until(lambda: '"disconnected"' in tandem.log.read_text(), 75)
        process.kill()
        process.wait()


async def test_network_that_comes_back_in_time_costs_no_answer(link: Link, tmp_path: Path):
    received = tmp_path / "received"
    with running(settings=SETTINGS) as (tandem, _):
        process = client(link, tandem.port, chat(f"tokens={TOKENS} pace=0.02"), received)
        await until(lambda: received.exists() and b"data:" in received.read_bytes())
        link.cut()
        await pause(15)
        assert b"[DONE]" not in received.read_bytes()
        link.join()
        await until(lambda: received.read_bytes().endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n"), 60)
        process.kill()
        process.wait()
    assert received.read_bytes().count(b" x") == TOKENS

"""`tandem pull` as a process, against a fake Ollama."""

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes.hub_server import Hub, serving_hub
from fakes.recorded_ollama import Reply, StandIn, says_lines, stand_in
from fakes.tiny_model import write_tiny_model
from servers.server_process import command, write

pytestmark = [pytest.mark.process, pytest.mark.long]

PART = {"status": "pulling dde5aa3fc5ff", "digest": "sha256:dd", "total": 8}


@pytest.fixture(autouse=True)
def interruptible() -> Iterator[None]:
    """Restore SIGINT: background jobs of a script ignore it, and child processes inherit that."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


async def start(
    folder: Path, standin: StandIn, model: str, mlx: str = "mlx: null,"
) -> asyncio.subprocess.Process:
    config = write(folder, f"backends: {{{mlx} ollama: {{host: '{standin.host}'}}}}")
    # No server of this machine's user, at the usual port, is meant.
    own = os.environ | {"TANDEM_PORT": "9"}
    return await asyncio.create_subprocess_exec(
        *command("pull", model, "--config", str(config)), stderr=asyncio.subprocess.PIPE, env=own
    )


async def ended(process: asyncio.subprocess.Process) -> tuple[int | None, list[str]]:
    async with asyncio.timeout(20):
        _, output = await process.communicate()
    return process.returncode, output.decode().splitlines()


async def test_pull_shows_progress(tmp_path: Path):
    async with stand_in() as standin:
        lines = [{"status": "pulling manifest"}, PART, PART | {"completed": 4}]
        done = [PART | {"completed": 8}, {"status": "success"}]
        standin.says("/api/pull", says_lines(*lines, *done))
        status, output = await ended(await start(tmp_path, standin, "ollama/tiny:1b"))
        assert standin.bodies("/api/pull") == [{"model": "tiny:1b"}]
    assert status == 0
    assert output[0] == "pulling manifest"
    assert [line.split("]")[1].split()[0] for line in output if "]" in line] == [
        "0%",
        "50%",
        "100%",
    ]
    assert output[-1] == "tiny:1b is downloaded"


async def test_unknown_model_is_reported(tmp_path: Path):
    async with stand_in() as standin:
        words = {"error": "pull model manifest: file does not exist"}
        standin.says("/api/pull", says_lines({"status": "pulling manifest"}, words))
        status, output = await ended(await start(tmp_path, standin, "hf.co/example/missing"))
        assert standin.bodies("/api/pull") == [{"model": "hf.co/example/missing"}]
    assert status == 1
    assert output[-1].startswith("tandem: hf.co/example/missing: ")


async def test_interrupted_pull_disconnects_and_says_how_to_continue(tmp_path: Path):
    began = asyncio.Event()

    async def script(reply: Reply) -> None:
        await reply.head()
        await reply.chunk(b'{"status": "pulling manifest"}\n')
        began.set()
        await reply.gone()

    async with stand_in() as standin:
        standin.says("/api/pull", script)
        process = await start(tmp_path, standin, "tiny")
        async with asyncio.timeout(20):
            await began.wait()
            process.send_signal(signal.SIGINT)
            status, output = await ended(process)
            await standin.closed()
    assert (status, output[-1]) == (
        130,
        "tandem: interrupted; `tandem pull tiny` continues the download",
    )


async def test_disabled_backend_is_reported(tmp_path: Path):
    async with stand_in() as standin:
        status, output = await ended(await start(tmp_path, standin, "mlx/tiny"))
        assert not standin.seen
    assert (status, output) == (1, ["tandem: mlx/tiny: the mlx backend is disabled in the config"])


async def test_hub_that_cannot_be_reached_is_reported_with_the_next_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    async with stand_in() as standin:
        status, output = await ended(await start(tmp_path, standin, "someone/tiny", mlx=""))
    assert status == 1
    assert "Check that this machine reaches the hub" in output[-1]
    assert "doctor" not in output[-1]


async def test_repository_is_downloaded_from_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    hub = Hub("someone/tiny", write_tiny_model(tmp_path / "model"))
    with serving_hub(hub) as address:
        monkeypatch.setenv("HF_ENDPOINT", address)
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
        async with stand_in() as standin:
            status, output = await ended(await start(tmp_path, standin, "someone/tiny", mlx=""))
            assert not standin.seen
    assert status == 0
    assert output[-1] == "someone/tiny is downloaded"
    assert "config.json" in hub.fetched

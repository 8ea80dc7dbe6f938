"""`tandem pull` as a process, before a server in Ollama's place."""

import asyncio
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes.hub_server import Hub, serving_hub
from fakes.recorded_ollama import Reply, StandIn, says_lines, stand_in
from fakes.tiny_model import write_tiny_model
from server_process import command, write

PART = {"status": "pulling dde5aa3fc5ff", "digest": "sha256:dd", "total": 8}


@pytest.fixture(autouse=True)
def heeded() -> Iterator[None]:
    """Ctrl-C is ignored in what a script runs in the background, and a child inherits that."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


async def start(
    folder: Path, standin: StandIn, model: str, mlx: str = "mlx: null,"
) -> asyncio.subprocess.Process:
    config = write(folder, f"backends: {{{mlx} ollama: {{host: '{standin.host}'}}}}")
    return await asyncio.create_subprocess_exec(
        *command("pull", model, "--config", str(config)), stderr=asyncio.subprocess.PIPE
    )


async def ended(process: asyncio.subprocess.Process) -> tuple[int | None, list[str]]:
    async with asyncio.timeout(20):
        _, told = await process.communicate()
    return process.returncode, told.decode().splitlines()


async def test_pull_tells_how_far_it_is(tmp_path: Path):
    async with stand_in() as standin:
        lines = [{"status": "pulling manifest"}, PART, PART | {"completed": 4}]
        done = [PART | {"completed": 8}, {"status": "success"}]
        standin.says("/api/pull", says_lines(*lines, *done))
        status, told = await ended(await start(tmp_path, standin, "ollama/tiny:1b"))
        assert standin.bodies("/api/pull") == [{"model": "tiny:1b"}]
    assert status == 0
    assert told[0] == "pulling manifest"
    assert [line.split("]")[1].split()[0] for line in told if "]" in line] == ["0%", "50%", "100%"]
    assert told[-1] == "tiny:1b is there"


async def test_model_that_is_not_to_be_had_is_told(tmp_path: Path):
    async with stand_in() as standin:
        words = {"error": "pull model manifest: file does not exist"}
        standin.says("/api/pull", says_lines({"status": "pulling manifest"}, words))
        status, told = await ended(await start(tmp_path, standin, "hf.co/nobody/none"))
        assert standin.bodies("/api/pull") == [{"model": "hf.co/nobody/none"}]
    assert status == 1
    assert told[-1].startswith("tandem: hf.co/nobody/none: ")


async def test_interrupted_pull_hangs_up_and_says_how_to_go_on(tmp_path: Path):
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
            status, told = await ended(process)
            await standin.closed()
    assert (status, told[-1]) == (130, "tandem: stopped; `tandem pull tiny` goes on from there")


async def test_backend_that_is_switched_off_is_told(tmp_path: Path):
    async with stand_in() as standin:
        status, told = await ended(await start(tmp_path, standin, "mlx/tiny"))
        assert not standin.seen
    assert (status, told) == (1, ["tandem: mlx/tiny: the mlx backend is switched off"])


async def test_repository_is_fetched_from_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    hub = Hub("someone/tiny", write_tiny_model(tmp_path / "model"))
    with serving_hub(hub) as address:
        monkeypatch.setenv("HF_ENDPOINT", address)
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
        async with stand_in() as standin:
            status, told = await ended(await start(tmp_path, standin, "someone/tiny", mlx=""))
            assert not standin.seen
    assert status == 0
    assert told[-1] == "someone/tiny is there"
    assert "config.json" in hub.fetched

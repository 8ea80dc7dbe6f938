"""The engine's process ends: requests are told with the reason, and another one is started."""

import asyncio
import os
import signal
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path

import pytest
from fakes.tiny_model import config_for, write_tiny_model
from fakes.waiting import until
from msgspec.structs import replace

from adapters import sink
from adapters.errors import BackendUnavailableError
from adapters.events import Event, Finished, Started, TextDelta
from adapters.memory import Footprint
from adapters.mlx.process.backend import MLXProcessBackend
from adapters.request import GenerationRequest, Sampling, TokenIds

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    write_tiny_model(root / "tiny", context=100_000)
    write_tiny_model(root / "other", "mamba", context=100_000)
    return root


@pytest.fixture
async def backend(folder: Path) -> AsyncGenerator[MLXProcessBackend]:
    config = replace(config_for(folder), engine="process")
    async with aclosing(MLXProcessBackend(config)) as backend:
        yield backend


def children() -> set[int]:
    """Return the engine's processes that this one has started."""
    found: set[int] = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command, status = path.read_bytes(), (path.parent / "stat").read_text()
        except OSError:
            continue  # It has ended.
        parent = int(status.rpartition(")")[2].split()[1])
        if b"adapters.mlx.process" in command and parent == os.getpid():
            found.add(int(path.parent.name))
    return found


def request(model: str = "tiny", max_tokens: int = 90_000) -> GenerationRequest:
    sampling = Sampling(logit_bias={257: -100.0}, temperature=0.0)
    prompt = TokenIds((5, 6, 7))
    return GenerationRequest(model=model, prompt=prompt, sampling=sampling, max_tokens=max_tokens)


async def test_killed_process_is_told_and_another_one_is_started(
    backend: MLXProcessBackend,
) -> None:
    assert {model.name for model in await backend.list_models()} == {"tiny", "other"}
    (first,) = children()
    load = asyncio.create_task(backend.load("tiny"))
    await until(lambda: "tiny" in backend.loading())
    os.kill(first, signal.SIGKILL)
    with pytest.raises(BackendUnavailableError, match="process ended \\(SIGKILL\\)") as caught:
        await load
    assert caught.value.retry_after == 1.0
    health = await backend.health()
    assert (health.ok, health.breaker, health.counters["restarts"]) == (False, "half-open", 1)
    assert not backend.loading()
    assert {model.name for model in await backend.list_models()} == {"tiny", "other"}
    assert first not in children()
    await backend.aclose()
    assert not children()


async def test_process_that_hangs_is_named_before_the_server_gives_its_report_up(
    backend: MLXProcessBackend,
) -> None:
    await backend.list_models()
    (child,) = children()
    os.kill(child, signal.SIGSTOP)
    try:
        async with asyncio.timeout(0.95):  # The server waits for a second.
            health = await backend.health()
    finally:
        os.kill(child, signal.SIGCONT)
    assert (health.ok, health.breaker) == (False, "open")
    assert health.detail == "The MLX engine's process does not respond."
    assert "restarts" in health.counters


async def test_reload_by_a_signal_to_all_processes_ends_none(backend: MLXProcessBackend) -> None:
    await backend.list_models()
    (child,) = children()
    os.kill(child, signal.SIGHUP)
    await backend.list_models()
    assert children() == {child}
    assert (await backend.health()).ok


async def test_process_is_started_by_the_first_use_only(backend: MLXProcessBackend) -> None:
    health = await backend.health()
    assert health.ok
    assert health.counters["active"] == 0
    assert await backend.list_running() == []
    assert await backend.memory_user.resident() == []
    assert await backend.memory_user.confine(5) == 0
    await backend.unload("tiny")
    assert not children()


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGABRT, signal.SIGSEGV, signal.SIGKILL])
async def test_answers_in_progress_get_an_error_and_the_next_one_is_whole(
    backend: MLXProcessBackend, number: signal.Signals
) -> None:
    expected = [event async for event in sink.events(backend, request(max_tokens=5))]
    (child,) = children()
    begun = asyncio.Event()

    async def answer(model: str) -> list[Event]:
        events: list[Event] = []
        async for event in sink.events(backend, request(model)):
            events.append(event)
            if isinstance(event, TextDelta):
                begun.set()
        return events

    answers = [asyncio.create_task(answer(model)) for model in ("tiny", "other") * 4]
    await begun.wait()
    os.kill(child, number)
    done, waiting = await asyncio.wait(answers, timeout=30)
    assert not waiting
    for each in done:
        with pytest.raises(BackendUnavailableError, match=number.name):
            each.result()
    events = [event async for event in sink.events(backend, request(max_tokens=5))]
    assert events[0] == Started(context=100_000, cold=True)
    assert isinstance(events[-1], Finished)
    assert events[1:] == expected[1:]
    assert (await backend.health()).ok


@pytest.mark.long
async def test_process_that_does_not_respond_is_ended_and_its_requests_told(folder: Path) -> None:
    config = replace(config_for(folder), engine="process", stall_seconds=3.0)
    async with aclosing(MLXProcessBackend(config)) as backend:
        await backend.load("tiny")
        (child,) = children()
        os.kill(child, signal.SIGSTOP)
        with pytest.raises(BackendUnavailableError, match="did not respond for 3 seconds"):
            await backend.list_models()
        assert {model.name for model in await backend.list_models()} == {"tiny", "other"}
        assert child not in children()


@pytest.mark.long
async def test_process_with_a_step_that_hangs_is_ended_and_its_requests_told(folder: Path) -> None:
    config = replace(config_for(folder), engine="process", stall_seconds=1e-5)  # Any step hangs.
    async with aclosing(MLXProcessBackend(config)) as backend:
        with pytest.raises(BackendUnavailableError, match="A step of MLX took more than"):
            async for _ in sink.events(backend, request()):
                pass


@pytest.mark.long
async def test_memory_is_reserved_through_the_server(backend: MLXProcessBackend) -> None:
    from contextlib import asynccontextmanager

    held: list[tuple[str, Footprint]] = []
    released: list[str] = []

    class Room:
        budget: int | None = 1 << 30

        @asynccontextmanager
        async def hold(self, model: str, footprint: Footprint) -> AsyncGenerator[None]:
            held.append((model, footprint))
            try:
                yield
            finally:
                released.append(model)

    backend.memory_user.share_budget(Room())
    assert await backend.memory_user.confine(1 << 20) == 0
    await backend.load("tiny")
    await until(lambda: released == ["tiny"])
    ((name, footprint),) = held
    assert name == "tiny"
    assert footprint.known > 0
    (resident,) = await backend.memory_user.resident()
    assert resident.name == "tiny"
    assert [model.name for model in await backend.list_running()] == ["tiny"]

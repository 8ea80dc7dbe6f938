"""The prefix cache on disk: blocks outlive the process, damaged files are not read."""

import os
import resource
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from fakes.tiny_model import config_for, write_tiny_model

from adapters import sink
from adapters.config import MLXConfig
from adapters.events import Finished, Started, TextDelta
from adapters.mlx.backend import MLXBackend
from adapters.mlx.engine.prefix_disk import BlockFolder, fingerprint
from adapters.request import GenerationRequest, Message, TextPart

PROMPT = "What is kept on disk is read again after a restart. " * 3


@contextmanager
def opened(root: Path, budget: int = 1 << 30) -> Iterator[BlockFolder]:
    """Open the folder; everything is written when the context ends."""
    folder = BlockFolder.open(str(root), "model", budget)
    assert folder is not None
    try:
        yield folder
    finally:
        folder.close(10)


def block(value: float, size: int = 1000) -> list[mx.array]:
    arrays = [mx.full((size,), value), mx.full((size,), -value)]
    mx.eval(arrays)
    return arrays


def files(root: Path) -> list[Path]:
    return sorted((root / "model").iterdir())


def test_a_block_is_found_when_the_folder_is_opened_anew(tmp_path: Path) -> None:
    with opened(tmp_path) as first:
        first.write("aa", block(3.0))
    with opened(tmp_path) as second:
        found = second.read("aa")
    assert found is not None
    assert [array[0].item() for array in found] == [3.0, -3.0]


@pytest.mark.parametrize("damage", [lambda b: b[:-5], lambda b: b[:-5] + b"\1" * 5, lambda b: b""])
def test_a_damaged_block_is_removed_when_it_is_read(tmp_path: Path, damage: Any) -> None:
    with opened(tmp_path) as first:
        first.write("aa", block(3.0))
    [file] = files(tmp_path)
    file.write_bytes(damage(file.read_bytes()))
    with opened(tmp_path) as second:
        assert second.read("aa") is None
    assert files(tmp_path) == []


def test_block_that_the_disk_does_not_take_leaves_no_file(tmp_path: Path) -> None:
    before, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with opened(tmp_path) as full:
            full.write("aa", block(3.0))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (before, hard))
    assert files(tmp_path) == []


def test_the_oldest_blocks_leave_when_the_folder_is_full(tmp_path: Path) -> None:
    with opened(tmp_path, budget=25_000) as folder:
        for name in ("aa", "bb", "cc", "dd"):
            folder.write(name, block(1.0))
    assert [file.name[:2] for file in files(tmp_path)] == ["bb", "cc", "dd"]


def test_files_can_be_read_by_their_user_only(tmp_path: Path) -> None:
    with opened(tmp_path) as folder:
        folder.write("aa", block(1.0))
    [file] = files(tmp_path)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "model").stat().st_mode) == 0o700


def test_what_is_no_file_of_the_cache_is_left_alone(tmp_path: Path) -> None:
    kept = tmp_path / "model"
    kept.mkdir()
    os.mkfifo(kept / "aa-00000000.safetensors")
    os.mkfifo(kept / "bb-1.part")
    (tmp_path / "elsewhere").write_bytes(b"mine")
    (kept / "cc-00000000.safetensors").symlink_to(tmp_path / "elsewhere")
    (kept / "dd-00000000.safetensors").symlink_to(tmp_path / "gone")
    os.utime(kept / "bb-1.part", (0, 0))
    before = files(tmp_path)
    with opened(tmp_path, budget=10_000) as folder:
        assert folder.read("aa") is None
        assert folder.read("cc") is None
        for name in ("ee", "ff", "gg"):  # The budget is for one of them.
            folder.write(name, block(1.0))
    assert [path for path in files(tmp_path) if path in before] == before
    assert len(files(tmp_path)) == len(before) + 1
    assert (tmp_path / "elsewhere").read_bytes() == b"mine"


def test_folder_that_is_a_link_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "model").symlink_to(tmp_path / "elsewhere")
    assert BlockFolder.open(str(tmp_path), "model", 1 << 30) is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_folder_of_another_user_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    os.chown(tmp_path / "model", 12345, 12345)
    assert BlockFolder.open(str(tmp_path), "model", 1 << 30) is None


def test_a_closed_folder_has_no_thread(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    with opened(tmp_path) as folder:
        folder.write("aa", block(1.0))
        [writer] = set(threading.enumerate()) - before
    assert not writer.is_alive()


def test_a_fingerprint_changes_with_the_files(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text("{}")
    before = fingerprint([file], "")
    assert fingerprint([file], "") == before
    file.write_text("[]")
    assert fingerprint([file], "") != before


async def answer(config: MLXConfig, model: str, *texts: str, max_tokens: int = 16) -> Any:
    """The text, the cached tokens and the seconds to the first token, of a server of its own."""
    backend = MLXBackend(config)
    try:
        await backend.load(model)
        return await ask(backend, model, *texts, max_tokens=max_tokens)
    finally:
        await backend.aclose()


async def ask(backend: MLXBackend, model: str, *texts: str, max_tokens: int = 16) -> Any:
    roles: tuple[Any, Any] = ("user", "assistant")
    chat = tuple(
        Message(role=roles[i % 2], content=(TextPart(text),)) for i, text in enumerate(texts)
    )
    text, cached, first, start = "", 0, None, time.perf_counter()
    request = GenerationRequest(model=model, prompt=chat, max_tokens=max_tokens)
    async for event in sink.events(backend, request):
        if isinstance(event, TextDelta):
            first = first or time.perf_counter() - start
            text += event.text
        if isinstance(event, Finished):
            cached = event.usage.cached_tokens
        assert isinstance(event, (Started, TextDelta, Finished))
    return text, cached, first


@pytest.mark.slow
async def test_text_is_the_same_when_the_prompt_comes_from_disk(tmp_path: Path) -> None:
    write_tiny_model(tmp_path / "models" / "llama", context=2048)
    config = config_for(tmp_path / "models", prefix_cache_folder=str(tmp_path / "kept"))
    first, cached, _ = await answer(config, "llama", PROMPT)
    again, cached_again, _ = await answer(config, "llama", PROMPT)
    assert (again, cached) == (first, 0)
    assert cached_again > 100


@pytest.mark.long
async def test_turn_two_is_answered_when_its_history_is_kept(
    tmp_path: Path, smollm2_folder: Path
) -> None:
    """Print the time to the first token: cold, cached in memory, and from disk after a restart."""
    history = ("The ship sailed north, and its crew counted the birds that followed it. " * 40,)
    name = str(smollm2_folder)
    config = MLXConfig(prefix_cache_folder=str(tmp_path))
    backend = MLXBackend(config)
    await backend.load(name)
    await ask(backend, name, "Hello", max_tokens=4)
    reply, _, cold = await ask(backend, name, *history, max_tokens=24)
    turn = (*history, reply, "Which way did the ship sail?")
    text, cached, warm = await ask(backend, name, *turn, max_tokens=24)
    await backend.aclose()
    again, from_disk, restarted = await answer(config, name, *turn, max_tokens=24)
    print(
        f"\ncold {cold:.2f} s | memory {warm:.2f} s ({warm / cold:.3f}, {cached} cached) | "
        f"restart {restarted:.2f} s ({restarted / cold:.3f}, {from_disk} cached)"
    )
    assert again == text
    assert min(cached, from_disk) > 500

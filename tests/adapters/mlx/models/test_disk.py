"""Reads of models' files on a disk that does not respond."""

import asyncio
import threading
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from adapters.backend import Model
from adapters.errors import BackendTimeoutError
from adapters.mlx.models.catalog import ModelFolder
from adapters.mlx.models.disk import Disk
from adapters.mlx.models.file_changes import LoadedFiles

READS = 40
"""More than Python's own pool of threads has."""


@pytest.fixture
async def hung() -> AsyncGenerator[Disk]:
    """A disk in which every thread hangs."""
    disk, responds = Disk(0.05), threading.Event()
    reads = [asyncio.create_task(disk.run_without_deadline(responds.wait)) for _ in range(READS)]
    await asyncio.sleep(0)
    yield disk
    responds.set()
    await asyncio.gather(*reads)
    disk.close()


async def test_read_is_an_error_while_the_disk_does_not_respond(hung: Disk):
    with pytest.raises(BackendTimeoutError, match="did not respond within"):
        await hung.run(lambda: None)


async def test_other_work_goes_on_while_the_disk_does_not_respond(hung: Disk):
    assert await asyncio.to_thread(lambda: "done") == "done"


async def test_error_of_a_read_is_its_own():
    def fail() -> None:
        raise TimeoutError("of the work")

    with pytest.raises(TimeoutError, match="of the work"):
        await Disk(10).run(fail)


@pytest.mark.slow
async def test_loaded_model_is_used_while_the_disk_does_not_respond(tmp_path: Path):
    (tmp_path / "config.json").write_text("{}")
    disk, responds = Disk(10), threading.Event()
    files = LoadedFiles(disk)
    await files.note("it", ModelFolder(Model(name="it"), tmp_path))
    (tmp_path / "config.json").write_text("{ }")
    assert await files.have_changed("it")
    reads = [asyncio.create_task(disk.run_without_deadline(responds.wait)) for _ in range(READS)]
    assert [await files.have_changed("it") for _ in range(100)] == [False] * 100
    responds.set()
    await asyncio.gather(*reads)
    disk.close()

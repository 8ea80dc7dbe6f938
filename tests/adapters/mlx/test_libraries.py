"""MLX that cannot be imported, and the limit of descriptors that its import would set."""

import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fakes.tiny_model import write_tiny_model

pytestmark = pytest.mark.process

_LOAD = """
import asyncio, json, resource, sys
from adapters.config import MLXConfig
from adapters.errors import BackendUnavailableError
from adapters.mlx.backend import MLXBackend

class Broken:
    def find_spec(self, name, path=None, target=None):
        if name == "mlx.core":
            raise ImportError("libcuda.so.1: cannot open shared object file")

async def main(folder, is_broken):
    backend = MLXBackend(MLXConfig(folders=(folder,), embedded="never"))
    if is_broken:
        sys.meta_path.insert(0, Broken())
        try:
            await backend.load("tiny")
        except BackendUnavailableError as error:
            health = await backend.health()
            is_well = backend.is_well("tiny")
            print(json.dumps([error.message, health.detail, health.breaker, is_well]))
        sys.meta_path.pop(0)
    await backend.load("tiny")
    health = await backend.health()
    print(json.dumps([health.ok, backend.is_well("tiny")]))
    print(json.dumps(resource.getrlimit(resource.RLIMIT_NOFILE)))
    await backend.aclose()

asyncio.run(main(sys.argv[1], sys.argv[2] == "broken"))
"""


def load_in_a_process(folder: Path, *words: str, limit: int = 4_096) -> list[Any]:
    """Load a tiny model in a process of its own; returns what it prints."""
    write_tiny_model(folder / "tiny")

    def set_limit() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))

    command = [sys.executable, "-c", _LOAD, str(folder), *words]
    done = subprocess.run(
        command, preexec_fn=set_limit, capture_output=True, check=False, timeout=240
    )
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_engine_that_cannot_be_imported_says_so_until_it_can(tmp_path: Path):
    broken, good, _ = load_in_a_process(tmp_path, "broken")
    words = "MLX cannot be used (ImportError); `tandem doctor` shows the reason."
    assert broken == [words, words, "open", False]
    assert good == [True, True]


@pytest.mark.parametrize("limit", [1_024, 4_096])
def test_first_load_keeps_the_limit_of_descriptors(tmp_path: Path, limit: int):
    """mlx-lm sets 2,048 of 4,096 when it is imported, and fails under a lower hard limit."""
    *_, limits = load_in_a_process(tmp_path, "good", limit=limit)
    assert limits == [limit, limit]

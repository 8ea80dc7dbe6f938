"""Which BLAS is loaded, and that MLX then uses it. In processes of their own: it is once only."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from adapters.mlx import blas

linux = pytest.mark.skipif(sys.platform != "linux", reason="on a Mac MLX uses Apple's BLAS")

# A library that Linux lacks stands for a system without OpenBLAS, or with it.
START = """
import logging, sys
logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
from adapters.mlx import blas
"""


def run(code: str, **environment: str) -> tuple[str, str]:
    """What the code printed, and what was logged."""
    ran = subprocess.run(
        [sys.executable, "-c", START + code],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | environment,
    )
    return ran.stdout.strip(), ran.stderr.strip()


@linux
def test_preload_takes_the_wheels_when_the_system_has_none() -> None:
    said, logged = run(
        "blas._SYSTEM = 'libnone.so.0'; print(blas.preload(), 'faiss' in sys.modules)"
    )
    assert said == "OpenBLAS of the wheel faiss-cpu False"
    assert logged == "INFO BLAS: OpenBLAS of the wheel faiss-cpu"


@linux
def test_preload_takes_the_systems_first() -> None:
    # Any library will do to see the order; every Linux has this one.
    said, logged = run("blas._SYSTEM = 'libm.so.6'; print(blas.preload())")
    assert said == "the system's libm.so.6"
    assert logged == "INFO BLAS: the system's libm.so.6"


@linux
def test_preload_says_what_it_costs_when_there_is_none() -> None:
    said, logged = run(
        "blas._SYSTEM = 'libnone.so.0'; blas._wheel_libraries = dict; print(blas.preload())"
    )
    assert said == "None"
    assert logged.startswith("INFO BLAS: none found, prompt speed is ten times lower")


@linux
def test_preload_finds_none_when_the_wheels_library_cannot_be_loaded(tmp_path: Path) -> None:
    (tmp_path / "libopenblas.so").write_bytes(b"no library")
    said, _ = run(
        "from pathlib import Path; blas._SYSTEM = 'libnone.so.0';"
        f"blas._wheel_libraries = lambda: {{'libopenblas': [Path({str(tmp_path)!r}) /"
        " 'libopenblas.so']}; print(blas.preload())"
    )
    assert said == "None"


@linux
def test_preload_says_so_when_it_comes_too_late() -> None:
    said, logged = run("import mlx.core; print(blas.preload())")
    assert said == "None"
    assert logged.startswith("INFO BLAS: mlx is already imported")


def test_preload_does_nothing_on_a_mac(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(blas.ctypes, "CDLL", lambda *_: pytest.fail("loaded a library"))
    assert blas.preload() is None


SPEED = """
blas._SYSTEM = 'libnone.so.0'
{preload}
import time
import mlx.core as mx
a = mx.random.normal((384, 384))
mx.eval(a @ a)
best = 1e9
for _ in range(20):
    began = time.perf_counter()
    mx.eval(a @ a)
    best = min(best, time.perf_counter() - began)
print(best)
"""


@linux
def test_mlx_multiplies_several_times_faster_after_preload() -> None:
    # On busy cores several threads wait for each other; one shows the library as well.
    slow = float(run(SPEED.format(preload=""), OMP_NUM_THREADS="1")[0])
    fast = float(run(SPEED.format(preload="blas.preload()"), OMP_NUM_THREADS="1")[0])
    assert fast < slow / 3, f"{slow:.4f} s without, {fast:.4f} s with"
    print(f"{slow / fast:.0f} times")

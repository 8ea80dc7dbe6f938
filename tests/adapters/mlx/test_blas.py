"""Loading a BLAS for MLX, in new processes: it has an effect once only."""

import ctypes
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
    """Run code in a new process; return its output and its log."""
    ran = subprocess.run(
        [sys.executable, "-c", START + code],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | environment,
    )
    return ran.stdout.strip(), ran.stderr.strip()


@pytest.mark.process
@linux
def test_preload_takes_the_wheels_when_the_system_has_none() -> None:
    printed, logged = run("print(blas.preload(system='libnone.so.0'), 'faiss' in sys.modules)")
    assert printed == "OpenBLAS of the wheel faiss-cpu False"
    assert logged == "INFO BLAS: OpenBLAS of the wheel faiss-cpu"


@pytest.mark.process
@linux
def test_preload_takes_the_systems_first() -> None:
    # Any library will do to see the order; every Linux has this one.
    printed, logged = run("print(blas.preload(system='libm.so.6'))")
    assert printed == "the system's libm.so.6"
    assert logged == "INFO BLAS: the system's libm.so.6"


@pytest.mark.process
@linux
def test_preload_says_what_it_costs_when_there_is_none() -> None:
    printed, logged = run("print(blas.preload(system='libnone.so.0', wheel='no-such-wheel'))")
    assert printed == "None"
    assert logged.startswith("INFO BLAS: none found, prompt speed is ten times lower")


@pytest.mark.process
@linux
def test_preload_finds_none_when_the_wheels_library_cannot_be_loaded(tmp_path: Path) -> None:
    library = tmp_path / "broken_blas.libs" / "libopenblas.so"
    about = tmp_path / "broken_blas-1.0.dist-info"
    for folder in (library.parent, about):
        folder.mkdir()
    library.write_bytes(b"no library")
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-blas\nVersion: 1.0\n")
    (about / "RECORD").write_text("broken_blas.libs/libopenblas.so,,\n")
    printed, _ = run(
        "print(blas.preload(system='libnone.so.0', wheel='broken-blas'))",
        PYTHONPATH=os.pathsep.join((str(tmp_path), os.environ.get("PYTHONPATH", ""))),
    )
    assert printed == "None"


@pytest.mark.process
@linux
def test_preload_says_so_when_it_comes_too_late() -> None:
    printed, logged = run("import mlx.core; print(blas.preload())")
    assert printed == "None"
    assert logged.startswith("INFO BLAS: mlx is already imported")


def test_preload_does_nothing_on_a_mac(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(ctypes, "CDLL", lambda *_: pytest.fail("loaded a library"))
    assert blas.preload() is None


@pytest.mark.process
@linux
@pytest.mark.parametrize("preloads", [True, False])
def test_mlx_multiplies_with_the_library_that_was_preloaded(
    tmp_path: Path, *, preloads: bool
) -> None:
    """The dynamic linker logs the library that each symbol is bound to."""
    load = "blas.preload(system='libnone.so.0');" if preloads else ""
    multiply = "import mlx.core as mx; a = mx.ones((64, 64)); mx.eval(a @ a)"
    run(load + multiply, LD_DEBUG="bindings", LD_DEBUG_OUTPUT=str(tmp_path / "bindings"))
    bound = [
        line
        for file in tmp_path.iterdir()
        for line in file.read_text(errors="replace").splitlines()
        if "cblas_sgemm'" in line and "libmlx" in line
    ]
    assert bound
    assert all(("openblas" in line.partition(" to ")[2]) is preloads for line in bound)

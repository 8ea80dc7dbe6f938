"""Load a fast BLAS for MLX on Linux; its wheel has the slow reference implementation.

MLX has no setting for it, but it calls the library that was loaded into the process first, with its
symbols visible to all. On a Mac MLX uses Apple's own.
"""

import ctypes
import logging
import os
import sys
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

# The libraries that the wheel's OpenBLAS links to are loaded first, so that it finds them.
_LIBRARIES = ("libquadmath", "libgomp", "libgfortran", "libopenblas")

_log = logging.getLogger(__name__)


def preload(*, system: str = "libopenblas.so.0", wheel: str = "faiss-cpu") -> str | None:
    """Load a BLAS for MLX, before the first import of mlx; return its name.

    The library `system` of the operating system comes first, then the one in the distribution
    `wheel`, which is not imported. Loading it again is harmless. Returns `None` on a Mac, where
    there is nothing to do, and without a library: MLX works then, but slowly.
    """
    if sys.platform != "linux":
        return None
    if "mlx.core" in sys.modules:
        _log.info("BLAS: mlx is already imported, a library loaded now would have no effect")
        return None
    # Read once, when OpenMP is loaded. By default its threads spin while they wait for each other:
    # on two busy cores 256 prompt tokens took over 20 s that way, and 1.2 s with threads that
    # sleep. On an idle machine sleeping costs a tenth of the prompt speed.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    loaded = _load_system(system) or _load_wheel(wheel)
    if loaded is None:
        _log.info("BLAS: none found, prompt speed is ten times lower; install libopenblas0")
    else:
        _log.info("BLAS: %s", loaded)
    return loaded


def _load_system(name: str) -> str | None:
    try:
        ctypes.CDLL(name, ctypes.RTLD_GLOBAL)
    except OSError:
        return None
    return f"the system's {name}"


def _load_wheel(wheel: str) -> str | None:
    libraries = _wheel_libraries(wheel)
    try:
        for stem in _LIBRARIES:
            # The arm64 wheel needs no libquadmath.
            for path in libraries.get(stem, ()):
                ctypes.CDLL(str(path), ctypes.RTLD_GLOBAL)
    except OSError as exc:
        _log.debug("BLAS: the library of the wheel %s cannot be loaded: %s", wheel, exc)
        return None
    return f"OpenBLAS of the wheel {wheel}" if "libopenblas" in libraries else None


def _wheel_libraries(wheel: str) -> dict[str, list[Path]]:
    """Return the files in the wheel by the stem of the library's name."""
    try:
        listed = files(wheel) or ()
    except PackageNotFoundError:
        return {}
    folder = f"{wheel.replace('-', '_')}.libs"
    libraries: dict[str, list[Path]] = {}
    for file in listed:
        stem = next((stem for stem in _LIBRARIES if file.name.startswith(stem)), None)
        if stem is not None and file.parent.name == folder:
            libraries.setdefault(stem, []).append(Path(str(file.locate())))
    return libraries

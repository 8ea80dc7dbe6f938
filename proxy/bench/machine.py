"""What was measured on, and with which versions: figures without them say nothing."""

import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from msgspec import Struct

_CPUINFO = Path("/proc/cpuinfo")


class Machine(Struct, frozen=True, kw_only=True):
    cpu: str
    cores: int
    memory_bytes: int
    system: str
    versions: dict[str, str]
    """By name: Python, Tandem, mlx, and the servers that were asked."""

    def in_words(self) -> str:
        versions = ", ".join(f"{name} {number}" for name, number in self.versions.items())
        memory = self.memory_bytes / 2**30
        return f"{self.cpu}, {self.cores} cores, {memory:.0f} GiB, {self.system}; {versions}"


def this_machine(servers: dict[str, str]) -> Machine:
    """`servers` are the versions that the backends told, by kind."""
    own = {"Python": platform.python_version()}
    found = {name: _version(package) for name, package in _PACKAGES.items()}
    return Machine(
        cpu=_cpu(),
        cores=os.cpu_count() or 1,
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        system=platform.platform(),
        versions=own | {name: number for name, number in found.items() if number} | servers,
    )


_PACKAGES = {"Tandem": "tandem-proxy", "mlx": "mlx", "mlx-lm": "mlx-lm"}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _cpu() -> str:
    """Its name as it is sold, where the system tells it."""
    if sys.platform == "darwin":
        asked = ("/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string")
        said = subprocess.run(asked, capture_output=True, text=True, check=False)  # noqa: S603
        return said.stdout.strip() or platform.machine()
    return cpu_of(_CPUINFO.read_text()) if _CPUINFO.is_file() else platform.machine()


def cpu_of(cpuinfo: str) -> str:
    """Of the text of `/proc/cpuinfo`, which names none on ARM."""
    for line in cpuinfo.splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name" and value.strip():
            return value.strip()
    return platform.machine()

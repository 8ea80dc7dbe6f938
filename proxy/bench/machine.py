"""Hardware and software versions that a benchmark ran on."""

import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from msgspec import Struct

_CPUINFO = Path("/proc/cpuinfo")
_PACKAGES = {"Tandem": "tandem-proxy", "mlx": "mlx", "mlx-lm": "mlx-lm"}


class Machine(Struct, frozen=True, kw_only=True):
    cpu: str
    cores: int
    memory_bytes: int
    system: str
    versions: dict[str, str]
    """Version by name: Python, Tandem, mlx, and the measured servers."""

    def to_text(self) -> str:
        versions = ", ".join(f"{name} {number}" for name, number in self.versions.items())
        memory = self.memory_bytes / 2**30
        return f"{self.cpu}, {self.cores} cores, {memory:.0f} GiB, {self.system}; {versions}"


def this_machine(servers: dict[str, str]) -> Machine:
    """Describe this machine. `servers` has the versions reported by the backends, by kind."""
    packages = {name: _installed_version(package) for name, package in _PACKAGES.items()}
    return Machine(
        cpu=_cpu_name(),
        cores=os.cpu_count() or 1,
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        system=platform.platform(),
        versions={"Python": platform.python_version()}
        | {name: number for name, number in packages.items() if number}
        | servers,
    )


def _installed_version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _cpu_name() -> str:
    """Return the CPU's product name, or its architecture if the system reports no name."""
    if sys.platform == "darwin":
        command = ("/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string")
        sysctl = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
        return sysctl.stdout.strip() or platform.machine()
    return parse_cpuinfo(_CPUINFO.read_text()) if _CPUINFO.is_file() else platform.machine()


def parse_cpuinfo(cpuinfo: str) -> str:
    """Extract the CPU's name from the text of `/proc/cpuinfo`, which has none on ARM."""
    for line in cpuinfo.splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name" and value.strip():
            return value.strip()
    return platform.machine()

"""Environments of the clients in tests/clients/pins.toml, outside the checkout.

    uv run python tools/install_clients.py [NAME...]

Each client has a folder of its own in `$TANDEM_CLIENTS`, or in the user's cache folder: a virtual
environment with pytest, or a folder of npm packages. Its name has a hash of the pins, so that a
changed pin is a new folder. A client of npm is left out where there is no Node.
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

from msgspec import Struct

PINS = Path(__file__).parents[1] / "tests" / "clients" / "pins.toml"
RUNNER = ("pytest==9.2.0", "pytest-asyncio==1.5.0", "pytest-timeout==2.4.0")
"""Packages that run the programs of clients in Python."""
_DONE = "installed"
"""A file that is written when an environment is complete."""


class Pins(Struct, frozen=True, forbid_unknown_fields=True):
    """The packages of one client, of one of the two languages."""

    python: tuple[str, ...] = ()
    npm: tuple[str, ...] = ()


class Environment(Struct, frozen=True):
    name: str
    pins: Pins
    folder: Path

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    @property
    def is_installed(self) -> bool:
        return (self.folder / _DONE).exists()


def environments() -> dict[str, Environment]:
    pins = tomllib.loads(PINS.read_text(encoding="utf-8"))
    return {name: _environment(name, Pins(**fields)) for name, fields in pins.items()}


def _environment(name: str, pins: Pins) -> Environment:
    version = ".".join(map(str, sys.version_info[:2])) if pins.python else ""
    packages = [*pins.python, *(RUNNER if pins.python else ()), *pins.npm, version]
    digest = hashlib.sha256(json.dumps(packages).encode()).hexdigest()[:12]
    return Environment(name, pins, clients_folder() / f"{name}-{digest}")


def clients_folder() -> Path:
    if given := os.environ.get("TANDEM_CLIENTS"):
        return Path(given).absolute()
    home = Path.home()
    base = home / "Library" / "Caches" if sys.platform == "darwin" else home / ".cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or base) / "tandem" / "clients"


def install(environment: Environment) -> None:
    """
    Raises:
        subprocess.CalledProcessError: the packages cannot be installed.
    """
    shutil.rmtree(environment.folder, ignore_errors=True)
    environment.folder.mkdir(parents=True)
    if environment.pins.python:
        uv = [sys.executable, "-m", "uv"] if shutil.which("uv") is None else ["uv"]
        _run([*uv, "venv", "--quiet", "--clear", "--python", sys.executable, "."], environment)
        packages = [*RUNNER, *environment.pins.python]
        _run([*uv, "pip", "install", "--quiet", "--python", "bin/python", *packages], environment)
    else:
        quiet = ["--no-audit", "--no-fund", "--loglevel=error", "--ignore-scripts"]
        _run(["npm", "install", *quiet, *environment.pins.npm], environment)
    (environment.folder / _DONE).touch()


def _run(command: list[str], environment: Environment) -> None:
    subprocess.run(command, cwd=environment.folder, check=True, stdout=sys.stderr)


def main() -> int:
    known = environments()
    parser = argparse.ArgumentParser(description="Install the clients of tests/clients/pins.toml.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(known)}; all")
    failed = 0
    for name in parser.parse_args().names or known:
        environment = known[name]
        if environment.is_installed:
            continue
        if environment.pins.npm and shutil.which("npm") is None:
            print(f"{name}: left out, there is no npm", file=sys.stderr)
            continue
        print(f"{name}: {' '.join(environment.pins.python or environment.pins.npm)}", flush=True)
        try:
            install(environment)
        except subprocess.CalledProcessError as error:
            print(f"{name}: {error}", file=sys.stderr)
            failed = 1
    return failed


if __name__ == "__main__":
    sys.exit(main())

"""A fresh machine installs the tested versions, and README's commands are the whole set-up."""

import re
import tomllib
from importlib.metadata import distributions
from pathlib import Path

import adapters
import proxy

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def pins() -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for pin in PROJECT["tool"]["uv"]["constraint-dependencies"]:
        name, version = pin.split(";")[0].strip().split("==")
        found.setdefault(name, set()).add(version)
    return found


def test_every_installed_distribution_has_the_pinned_version() -> None:
    pinned = pins()
    installed = {
        re.sub(r"[-_.]+", "-", found.metadata["Name"]).lower(): found.version
        for found in distributions()
    }
    installed.pop("tandem-proxy")
    wrong = {
        name: version for name, version in installed.items() if version not in pinned.get(name, ())
    }
    assert not wrong


def test_both_packages_come_from_this_checkout() -> None:
    for package in (adapters, proxy):
        assert Path(package.__file__ or "").parent.parent == ROOT


def test_the_readme_says_what_ci_runs() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    commands = re.findall(r"^```sh\n(.+?)\n```$", readme, re.MULTILINE | re.DOTALL)
    assert commands[0].endswith("uv run tandem serve")
    assert commands[1].endswith("uv run pytest")
    assert all(len(command.splitlines()) == 1 for command in commands[:2])

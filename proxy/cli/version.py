"""`tandem version`, `tandem --version`: the versions that a report of a fault needs."""

import platform
from importlib.metadata import PackageNotFoundError, version

from proxy.cli.command import AsJson, print_json

_PACKAGES = ("mlx", "mlx-lm", "transformers", "litestar", "uvicorn", "openai", "ollama")


def versions() -> dict[str, str]:
    """Versions by name; packages that are not installed are left out."""
    found = {"tandem": version("tandem-proxy"), "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found | {"system": platform.platform()}


def show_version(as_json: AsJson = False) -> None:
    """Print the versions of Tandem, Python and the engines' packages."""
    if as_json:
        print_json(versions())
    else:
        for name, number in versions().items():
            print(f"{name} {number}")

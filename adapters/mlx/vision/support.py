"""Vision models among the folders: found in their files, without importing mlx or mlx-vlm."""

import ast
from functools import cache, lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from adapters.mlx.models.memory_estimate import read_tensors

EXTRA = "tandem-proxy[vision]"
"""The extra with the library."""
_PROCESSORS = ("preprocessor_config.json", "processor_config.json")
_WORDS = ("vision", "visual", "image", "img", "vit.")
"""Parts of the names of an encoder's weights: folders of mlx-lm may have none left."""
OTHER_STATES = ("cross_attention_states", "decoder_inputs_embeds", "canvas_length", "pos_hw")
"""Names in the code of models that the engine cannot run: their answers depend on states beside the
caches of their layers, or are not written token by token."""

Sight = Literal["none", "missing", "supported"]


def sight_of(path: Path, config: dict[str, Any]) -> Sight:
    """Return whether the model in `path` reads images here.

    `missing`: it would, with the extra. `none` also for types of models that mlx-vlm lacks.
    """
    if not _has_encoder(path, config) or config.get("model_file") is not None:
        return "none"
    if find_spec("mlx_vlm") is None:
        return "missing"
    return "supported" if is_served(config) else "none"


def is_served(config: dict[str, Any]) -> bool:
    """Return whether the installed mlx-vlm has the type of the model, and the engine can batch or
    at least queue it."""
    kind = str(config.get("model_type")).lower()
    name = _remapping().get(kind, kind)
    return name.isidentifier() and _has_module(name)


@cache
def _has_module(name: str) -> bool:
    package = _package()
    if package is None or not (package / "models" / name).is_dir():
        return False
    code = "".join(file.read_text("utf-8") for file in (package / "models" / name).glob("*.py"))
    return not any(state in code for state in OTHER_STATES)


def _has_encoder(path: Path, config: dict[str, Any]) -> bool:
    if not any((path / name).is_file() for name in _PROCESSORS):
        return False
    stamp = tuple((f.name, f.stat().st_mtime_ns) for f in sorted(path.glob("model*.safetensors")))
    return isinstance(config.get("vision_config"), dict) and _has_weights(path, stamp)


@lru_cache(512)
def _has_weights(path: Path, _stamp: tuple[tuple[str, int], ...]) -> bool:
    try:
        return any(word in name for name in read_tensors(path) for word in _WORDS)
    except (OSError, ValueError, KeyError, TypeError):
        return False  # The load says what is wrong with the files.


@cache
def _package() -> Path | None:
    spec = find_spec("mlx_vlm")
    roots = spec.submodule_search_locations if spec is not None else None
    return next((Path(root) for root in roots or ()), None)


@cache
def _remapping() -> dict[str, str]:
    """Read mlx-vlm's names for model types from its source."""
    package = _package()
    if package is None:
        return {}
    for node in ast.parse((package / "utils.py").read_bytes()).body:
        if isinstance(node, ast.Assign) and any(
            isinstance(target, ast.Name) and target.id == "MODEL_REMAPPING"
            for target in node.targets
        ):
            return ast.literal_eval(node.value)
    return {}

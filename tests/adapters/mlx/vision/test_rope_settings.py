"""Vision models that transformers 5 has saved compute with their own rotary settings."""

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

pytest.importorskip("mlx_vlm", reason="the extra `vision` is not installed")

from fakes.tiny_vision import Family, write_tiny_vision

from adapters.mlx.vision.load import open_model

BASE = 300.0


def with_base(folder: Path, family: Family, *, new: bool) -> Path:
    """Write a model with another base than that which is the default of its code."""
    write_tiny_vision(folder, family)
    config: dict[str, Any] = json.loads((folder / "config.json").read_bytes())
    texts = config.get("text_config", config)
    scaling = texts.get("rope_scaling") or {}
    if new:
        texts.pop("rope_scaling", None)
        texts.pop("rope_theta", None)
        kind = scaling.get("type", "default")
        texts["rope_parameters"] = {**scaling, "rope_theta": BASE, "rope_type": kind}
    else:
        texts["rope_theta"] = BASE
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl", "qwen3_vl", "smolvlm"])
def test_settings_of_transformers_5_are_those_of_the_older_names(family: Family, tmp_path: Path):
    tokens = mx.arange(1, 40)[None]
    old, new = (
        open_model(with_base(tmp_path / name, family, new=name == "new"))(tokens)
        for name in ("old", "new")
    )
    default = open_model(write_tiny_vision(tmp_path / "default", family))(tokens)
    assert mx.array_equal(old, new)
    assert not mx.allclose(old, default)

"""Memory estimates from files, compared with the memory of the loaded model."""

import json
import struct
from pathlib import Path

import mlx.core as mx
import pytest
from fakes.tiny_model import KINDS, write_tiny_model
from mlx_lm.utils import quantize_model

from adapters.mlx.engine.admission import measure_footprint
from adapters.mlx.jobs import finish
from adapters.mlx.models.catalog import read_config
from adapters.mlx.models.load import load_folder
from adapters.mlx.models.load_progress import Loading
from adapters.mlx.models.memory_estimate import Weights, context_bytes, read_weights


@pytest.mark.parametrize("kind", KINDS)
def test_estimate_of_weights_is_exact(tmp_path: Path, kind: str) -> None:
    folder, loading = write_tiny_model(tmp_path / kind, kind), Loading(kind)
    finish(load_folder(folder, "auto", loading))
    weights = read_weights(folder)
    assert weights is not None
    assert weights.stored == weights.unpacked == loading.total


def quantized(folder: Path, bits: int, group_size: int) -> Path:
    """A quantised copy of `folder` in half precision, like most models on the hub."""
    loaded = finish(load_folder(folder, "never", Loading("plain")))
    loaded.model.set_dtype(mx.bfloat16)
    config = read_config(folder) or {}
    model, config = quantize_model(loaded.model, config, group_size=group_size, bits=bits)
    (folder / "config.json").write_text(json.dumps(config))
    from mlx.utils import tree_flatten

    mx.save_safetensors(str(folder / "model.safetensors"), dict(tree_flatten(model.parameters())))
    return folder


@pytest.mark.parametrize(("bits", "group_size"), [(4, 32), (6, 32), (8, 64)])
@pytest.mark.parametrize("dequantize", ["always", "never"])
def test_estimate_of_quantised_weights_is_exact(
    tmp_path: Path, bits: int, group_size: int, dequantize: str
) -> None:
    folder = quantized(
        write_tiny_model(tmp_path / "packed", hidden_size=64, intermediate_size=128),
        bits,
        group_size,
    )
    loading = Loading("packed")
    finish(load_folder(folder, dequantize, loading))  # type: ignore[arg-type]
    weights = read_weights(folder)
    assert weights is not None
    assert loading.total == (weights.unpacked if dequantize == "always" else weights.stored)
    assert weights.itemsize == 2


@pytest.mark.parametrize("kind", ["llama", "sliding"])
@pytest.mark.parametrize("tokens", [10, 400])
def test_estimate_of_keys_and_values_is_exact(tmp_path: Path, kind: str, tokens: int) -> None:
    folder = write_tiny_model(tmp_path / kind, kind)
    measured = measure_footprint(finish(load_folder(folder, "never", Loading(kind))).model)
    assert context_bytes(read_config(folder) or {}, tokens, itemsize=4) == measured.row(tokens)


@pytest.mark.parametrize("kind", ["mamba", "llama4"])
def test_estimate_is_none_for_other_states(tmp_path: Path, kind: str) -> None:
    config = read_config(write_tiny_model(tmp_path / kind, kind)) or {}
    assert context_bytes(config, 100, itemsize=4) is None


def test_quantised_keys_and_values_include_scales() -> None:
    config = {"num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 256}
    # 4 bits, and a scale and an offset of two bytes for each 64 of them.
    assert context_bytes(config, 10, itemsize=2, kv_bits=4) == 2 * 2 * 4 * 64 * 10 * 36 // 64


def test_estimate_is_none_when_files_are_malformed(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert read_weights(tmp_path) is None
    file = tmp_path / "model.safetensors"
    for content in (b"", b"short", struct.pack("<Q", 2**60), struct.pack("<Q", 4) + b"[1, "):
        file.write_bytes(content)
        assert read_weights(tmp_path) is None
    header = json.dumps({"a.weight": {"dtype": "F1", "shape": [3], "data_offsets": [0, 3]}})
    file.write_bytes(struct.pack("<Q", len(header)) + header.encode())
    assert read_weights(tmp_path) is None


def test_header_is_enough_for_an_estimate(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    header = json.dumps(
        {
            "__metadata__": {"format": "mlx"},
            "a.weight": {"dtype": "F16", "shape": [1000, 1000], "data_offsets": [0, 2_000_000]},
        }
    )
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header.encode())
    assert read_weights(tmp_path) == Weights(stored=2_000_000, unpacked=4_000_000, itemsize=2)

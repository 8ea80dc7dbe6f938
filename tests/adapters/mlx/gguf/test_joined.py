"""Two tensors of a GGUF that are one in MLX, whatever their types."""

from pathlib import Path

import gguf
import numpy as np
import pytest
from fakes.tiny_decoders import decoder_metadata
from fakes.tiny_gguf import quantised, write_gguf
from gguf import GGMLQuantizationType as GGML

from adapters.gguf.conversion import UnsupportedGGUFError
from adapters.mlx.gguf.architectures.table import ARCHITECTURES
from adapters.mlx.gguf.joined import joined

WIDTH, ROWS = 256, {"attn_qkv": 256, "attn_gate": 128}
FIELDS = {
    key.removeprefix("qwen3next."): value for key, value in decoder_metadata("qwen3next").items()
}
NEXT = ARCHITECTURES["qwen3next"]


def file_of(folder: Path, kinds: tuple[GGML, GGML]) -> gguf.GGUFReader:
    tensors = {
        f"blk.0.{name}.weight": quantised((rows, WIDTH), kind, seed)
        for seed, (kind, (name, rows)) in enumerate(zip(kinds, ROWS.items(), strict=True))
    }
    return gguf.GGUFReader(write_gguf(folder / "a.gguf", tensors, {}, "qwen3next"))


@pytest.mark.parametrize(
    ("kinds", "stored", "most"),
    [
        ((GGML.Q4_K, GGML.Q5_K), GGML.Q5_K, 0),
        ((GGML.Q5_K, GGML.Q4_K), GGML.Q5_K, 0),
        ((GGML.Q4_0, GGML.Q4_0), GGML.Q4_0, 0),
        ((GGML.BF16, GGML.BF16), GGML.BF16, 0),
        ((GGML.Q8_0, GGML.F16), GGML.F16, 1e-3),
        ((GGML.Q6_K, GGML.Q4_K), GGML.F16, 1e-3),
    ],
)
def test_rows_are_those_of_the_parts(
    tmp_path: Path, kinds: tuple[GGML, GGML], stored: GGML, most: float
) -> None:
    reader = file_of(tmp_path, kinds)
    [whole] = joined(NEXT, FIELDS, reader.tensors)
    rows = whole.data[np.arange(sum(ROWS.values()))]
    values = gguf.dequantize(np.ascontiguousarray(rows), whole.tensor_type)

    parts = NEXT.parts(FIELDS, "ssm_in")
    assert whole.tensor_type == stored
    for tensor in reader.tensors:
        expected = gguf.dequantize(tensor.data, tensor.tensor_type)
        written = values[parts[tensor.name.split(".")[2]]]
        assert np.abs(written - expected).max() <= most * np.abs(expected).max()


def test_a_slice_of_rows_is_that_of_all(tmp_path: Path) -> None:
    [whole] = joined(NEXT, FIELDS, file_of(tmp_path, (GGML.Q4_K, GGML.Q5_K)).tensors)
    assert np.array_equal(whole.data[100:300], whole.data[np.arange(384)][100:300])


def test_types_without_a_common_one_are_refused(tmp_path: Path) -> None:
    reader = file_of(tmp_path, (GGML.BF16, GGML.Q4_K))
    with pytest.raises(UnsupportedGGUFError, match="BF16 and Q4_K"):
        list(joined(NEXT, FIELDS, reader.tensors))

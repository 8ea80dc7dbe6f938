"""Convert the int8 ONNX file of Kokoro-82M to a folder that mlx-audio loads.

    uv run python tools/kokoro_from_onnx.py MODEL.onnx VOCAB.json VOICES.npz OUTPUT

The weights become float32 again, with the names and shapes of the original checkpoint. The export
has folded the weight norms of convolutions: their direction is the folded weight, their magnitude
its norm. BERT's pooler, which Kokoro does not use, is not in the file and becomes zeros.

Sources: `DequantizeLinear` of ONNX, `DynamicQuantizeLSTM` of ONNX Runtime, and the `config.json` of
Kokoro-82M.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
from safetensors.numpy import save_file

Array = np.ndarray[Any, Any]

_GATES = (0, 2, 3, 1)
"""Places of PyTorch's gates of an LSTM (input, forget, cell, output) in ONNX's order."""
_WEIGHT_INPUT = {
    "Conv": 1,
    "ConvInteger": 1,
    "ConvTranspose": 1,
    "DynamicQuantizeLSTM": 1,
    "Gather": 0,
    "MatMul": 1,
    "MatMulInteger": 1,
}
"""Kinds of nodes with weights, and the place of these among their inputs."""
_DIRECTIONS = ("", "_reverse")
_SUFFIX = "_quantized"


class Export:
    """The nodes and constants of an ONNX file."""

    def __init__(self, file: Path) -> None:
        graph: Any = onnx.load(file).graph
        self.nodes: list[Any] = list(graph.node)
        self.constants: dict[str, Array] = {
            tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer
        }
        self._zero_points = {
            node.input[1].removesuffix("_scale"): node.input[2]
            for node in self.nodes
            if node.op_type == "DequantizeLinear"
        }

    def real(self, name: str, zero_point: str | None = None) -> Array:
        """Return a constant as float32."""
        value = self.constants[name]
        if not name.endswith(_SUFFIX):
            return value.astype(np.float32)
        base = name.removesuffix(_SUFFIX)
        zero = self.constants[zero_point or self._zero_points[base]].astype(np.float32)
        scale = self.constants[f"{base}_scale"]
        if value.ndim == 3 and scale.ndim:  # An LSTM has one for each direction.
            zero, scale = zero.reshape(-1, 1, 1), scale.reshape(-1, 1, 1)
        return (value - zero) * scale


def to_weights(export: Export) -> dict[str, Array]:
    """Return all weights by the names of the checkpoint."""
    weights = {
        _without_wrapper(name): value.astype(np.float32)
        for name, value in export.constants.items()
        if name.endswith((".weight", ".bias", ".gamma", ".beta")) or ".alpha" in name
    }
    done: set[str] = set()
    for node in export.nodes:
        source = _source(node)
        # A layer that runs several times has a node for each: the first has its name.
        if source in export.constants and source not in done:
            done.add(source)
            weights |= _weights_of(node, source, export)
    # The basis of the inverse Fourier transform, a convolution in the export only.
    del weights["decoder.generator.istft.stft.weight"]
    width = weights["bert.encoder.embedding_hidden_mapping_in.bias"].shape[0]
    weights["bert.pooler.weight"] = np.zeros((width, width), np.float32)
    weights["bert.pooler.bias"] = np.zeros(width, np.float32)
    return {name: np.ascontiguousarray(value) for name, value in weights.items()}


def _source(node: Any) -> str:
    """Return the name of the input with the weights of a layer; empty for other nodes."""
    return node.input[_WEIGHT_INPUT[node.op_type]] if node.op_type in _WEIGHT_INPUT else ""


def _weights_of(node: Any, source: str, export: Export) -> dict[str, Array]:
    module = _module(node.name)
    match node.op_type:
        case "DynamicQuantizeLSTM":
            return dict(_lstm(module, node, export))
        case "MatMulInteger":
            return {f"{module}.weight": export.real(source, node.input[3]).T}
        case "MatMul":
            return {f"{module}.weight": export.real(source).T}
        case "ConvInteger":
            return _convolution(module, source, export.real(source, node.input[3]))
        case "Conv" | "ConvTranspose":
            return _convolution(module, source, export.real(source))
        case _:
            return {f"{module}.weight": export.real(source)}


def _convolution(module: str, source: str, weight: Array) -> dict[str, Array]:
    """Return a plain weight, or one with a norm: the export names that after its product."""
    if "/Mul_" not in source:
        return {f"{module}.weight": weight}
    norm = np.sqrt((weight**2).sum(axis=(1, 2), keepdims=True))
    return {f"{module}.weight_v": weight, f"{module}.weight_g": norm}


def _lstm(module: str, node: Any, export: Export) -> Iterator[tuple[str, Array]]:
    weights = {
        kind: export.real(node.input[at], node.input[zero]).transpose(0, 2, 1)
        for kind, at, zero in (("weight_ih", 1, 9), ("weight_hh", 2, 11))
    }
    both = export.real(node.input[3])
    weights["bias_ih"], weights["bias_hh"] = np.split(both, 2, axis=1)
    for kind, value in weights.items():
        for direction, suffix in zip(value, _DIRECTIONS, strict=True):
            gates = np.split(direction, len(_GATES))
            yield f"{module}.{kind}_l0{suffix}", np.concatenate([gates[at] for at in _GATES])


def _module(node: str) -> str:
    """Return the name of the module of a node, such as `text_encoder.cnn.0.0` of
    `/encoder/text_encoder/cnn.0/cnn.0.0/Conv_quant`."""
    parts: list[str] = []
    for part in node.split("/")[2:-1]:
        if parts and part.startswith(f"{parts[-1]}."):
            parts.pop()
        parts.append(part)
    name = ".".join(parts)
    # The export calls parts of the predictor by themselves.
    is_loose = name.split(".")[0] in ("F0", "N", "F0_proj", "N_proj", "shared")
    return f"predictor.{name}" if is_loose else name


def _without_wrapper(name: str) -> str:
    """Leave out the part of the export, `encoder` or `decoder`, that a module is in."""
    return name.partition(".")[2]


def convert(model: Path, vocabulary: Path, voices: Path, output: Path) -> None:
    """Write `output` with weights, configuration and voices."""
    weights = to_weights(Export(model))
    (output / "voices").mkdir(parents=True, exist_ok=True)
    vocab = json.loads(vocabulary.read_bytes())["vocab"]
    (output / "config.json").write_text(json.dumps(_CONFIG | {"vocab": vocab}))
    for name, style in np.load(voices).items():
        save_file({"voice": style}, output / "voices" / f"{name}.safetensors")
    save_file(weights, output / "model.safetensors", metadata={"format": "mlx"})


_CONFIG: dict[str, Any] = {
    "model_type": "kokoro",
    "istftnet": {
        "upsample_kernel_sizes": [20, 12],
        "upsample_rates": [10, 6],
        "gen_istft_hop_size": 5,
        "gen_istft_n_fft": 20,
        "resblock_dilation_sizes": [[1, 3, 5], [1, 3, 5], [1, 3, 5]],
        "resblock_kernel_sizes": [3, 7, 11],
        "upsample_initial_channel": 512,
    },
    "dim_in": 64,
    "dropout": 0.2,
    "hidden_dim": 512,
    "max_conv_dim": 512,
    "max_dur": 50,
    "multispeaker": True,
    "n_layer": 3,
    "n_mels": 80,
    "n_token": 178,
    "style_dim": 128,
    "text_encoder_kernel_size": 5,
    "plbert": {
        "hidden_size": 768,
        "num_attention_heads": 12,
        "intermediate_size": 2048,
        "max_position_embeddings": 512,
        "num_hidden_layers": 12,
        "dropout": 0.1,
    },
}

if __name__ == "__main__":
    convert(*map(Path, sys.argv[1:5]))

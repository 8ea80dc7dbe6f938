"""The part of a model that reads images, with random weights: it sees, and understands nothing.

Put beside the weights of SmolLM2 it makes a model that Ollama shows images to. It is built like
Pixtral's, which gives an image a token for each of its patches: large images take more of them.

Source: https://github.com/ggml-org/llama.cpp/blob/master/tools/mtmd/clip.cpp
"""

from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np

PATCH = 16
"""Pixels of a side."""
MOST_TOKENS = 1024
"""Patches of an image; a larger image is made smaller before it is cut."""
_WIDTH, _HEADS, _FEED_FORWARD = 64, 2, 128
_TEXT_WIDTH = 576
"""SmolLM2-135M's."""


def tokens_of(width: int, height: int) -> int:
    """Those of an image of whole patches, neither too small nor too large: each row has one more,
    which ends it, but for the last."""
    rows, columns = height // PATCH, width // PATCH
    return rows * columns + rows - 1


def write_projector(path: Path) -> None:
    writer = gguf.GGUFWriter(path, "clip")
    writer.add_bool("clip.has_vision_encoder", True)
    writer.add_string("clip.projector_type", "pixtral")
    writer.add_bool("clip.use_silu", True)
    for name, number in _SIZES.items():
        writer.add_uint32(f"clip.vision.{name}", number)
    writer.add_float32("clip.vision.attention.layer_norm_epsilon", 1e-5)
    for name in ("image_mean", "image_std"):
        writer.add_array(f"clip.vision.{name}", [0.5, 0.5, 0.5])
    for name, values in _tensors():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


_SIZES = {
    "image_size": 512,
    "patch_size": PATCH,
    "block_count": 1,
    "embedding_length": _WIDTH,
    "feed_forward_length": _FEED_FORWARD,
    "attention.head_count": _HEADS,
    "projection_dim": _TEXT_WIDTH,
}
_MATRICES = {
    "v.patch_embd.weight": (_WIDTH, 3, PATCH, PATCH),
    "v.token_embd.img_break": (_TEXT_WIDTH,),
    "v.blk.0.attn_q.weight": (_WIDTH, _WIDTH),
    "v.blk.0.attn_k.weight": (_WIDTH, _WIDTH),
    "v.blk.0.attn_v.weight": (_WIDTH, _WIDTH),
    "v.blk.0.attn_out.weight": (_WIDTH, _WIDTH),
    "v.blk.0.ffn_gate.weight": (_FEED_FORWARD, _WIDTH),
    "v.blk.0.ffn_up.weight": (_FEED_FORWARD, _WIDTH),
    "v.blk.0.ffn_down.weight": (_WIDTH, _FEED_FORWARD),
    "mm.1.weight": (_TEXT_WIDTH, _WIDTH),
    "mm.2.weight": (_TEXT_WIDTH, _TEXT_WIDTH),
}
_NORMS = ("v.pre_ln.weight", "v.blk.0.ln1.weight", "v.blk.0.ln2.weight")


def _tensors() -> Iterator[tuple[str, np.ndarray]]:
    generator = np.random.default_rng(0)
    for name, shape in _MATRICES.items():
        values = generator.normal(0, shape[-1] ** -0.5, shape)
        yield name, values.astype(np.float32)
    for name in _NORMS:
        yield name, np.ones(_WIDTH, np.float32)

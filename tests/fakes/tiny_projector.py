"""The part of a model that reads images, with random weights: it sees, and understands nothing.

Put beside the weights of SmolLM2 it makes a model that Ollama shows images to, in either of two
ways: like Pixtral, which gives an image a token for each of its patches, more of a large one, and
ends it with words; or like LLaVA, where each image comes to the same, with nothing around it.

Source: https://github.com/ggml-org/llama.cpp/blob/master/tools/mtmd/clip.cpp
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal, NamedTuple

import gguf
import numpy as np

Kind = Literal["pixtral", "mlp"]
"""Kinds of projectors, by llama.cpp's names."""
PATCH = 16
"""Pixels of a side."""
_WIDTH, _HEADS, _FEED_FORWARD = 64, 2, 128
_TEXT_WIDTH = 576
"""SmolLM2-135M's."""
_FIXED_SIDE = 64
"""Pixels that LLaVA's kind makes of an image's side."""


def tokens_of(width: int, height: int) -> int:
    """Return the number of tokens of an image for Pixtral's kind: one for each patch, and one after
    each row but the last. The image has whole patches and is neither too small nor too large."""
    rows, columns = height // PATCH, width // PATCH
    return rows * columns + rows - 1


class _Plan(NamedTuple):
    numbers: dict[str, int]
    activation: str
    matrices: Mapping[str, tuple[int, ...]]
    ones: tuple[str, ...]
    zeros: Mapping[str, int]


def write_projector(path: Path, kind: Kind = "pixtral") -> None:
    plan = _PLANS[kind]
    writer = gguf.GGUFWriter(path, "clip")
    writer.add_bool("clip.has_vision_encoder", True)
    writer.add_string("clip.projector_type", kind)
    writer.add_bool(f"clip.use_{plan.activation}", True)
    for name, number in (_NUMBERS | plan.numbers).items():
        writer.add_uint32(f"clip.vision.{name}", number)
    writer.add_float32("clip.vision.attention.layer_norm_epsilon", 1e-5)
    for name in ("image_mean", "image_std"):
        writer.add_array(f"clip.vision.{name}", [0.5, 0.5, 0.5])
    for name, values in _tensors(plan):
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _tensors(plan: _Plan) -> Iterator[tuple[str, np.ndarray]]:
    generator = np.random.default_rng(0)
    for name, shape in plan.matrices.items():
        values = generator.normal(0, shape[-1] ** -0.5, shape)
        yield name, values.astype(np.float32)
    for name in plan.ones:
        yield name, np.ones(_WIDTH, np.float32)
    for name, width in plan.zeros.items():
        yield name, np.zeros(width, np.float32)


def _block(at: int) -> dict[str, tuple[int, ...]]:
    heads = {f"v.blk.{at}.attn_{part}.weight": (_WIDTH, _WIDTH) for part in ("q", "k", "v", "out")}
    return heads | {
        f"v.blk.{at}.ffn_up.weight": (_FEED_FORWARD, _WIDTH),
        f"v.blk.{at}.ffn_down.weight": (_WIDTH, _FEED_FORWARD),
    }


def _norms(blocks: int, part: str) -> tuple[str, ...]:
    inner = [f"v.blk.{at}.ln{each}.{part}" for at in range(blocks) for each in (1, 2)]
    return (f"v.pre_ln.{part}", *inner)


_NUMBERS = {
    "patch_size": PATCH,
    "embedding_length": _WIDTH,
    "feed_forward_length": _FEED_FORWARD,
    "attention.head_count": _HEADS,
    "projection_dim": _TEXT_WIDTH,
}
_PATCHES = {"v.patch_embd.weight": (_WIDTH, 3, PATCH, PATCH)}
_PLANS: dict[Kind, _Plan] = {
    "pixtral": _Plan(
        numbers={"image_size": 512, "block_count": 1},
        activation="silu",
        matrices=_PATCHES
        | _block(0)
        | {
            "v.blk.0.ffn_gate.weight": (_FEED_FORWARD, _WIDTH),
            "v.token_embd.img_break": (_TEXT_WIDTH,),
            "mm.1.weight": (_TEXT_WIDTH, _WIDTH),
            "mm.2.weight": (_TEXT_WIDTH, _TEXT_WIDTH),
        },
        ones=_norms(1, "weight"),
        zeros={},
    ),
    # The last block but one is what is shown to the model.
    "mlp": _Plan(
        numbers={"image_size": _FIXED_SIDE, "block_count": 2},
        activation="gelu",
        matrices=_PATCHES
        | _block(0)
        | _block(1)
        | {
            "v.class_embd": (_WIDTH,),
            "v.position_embd.weight": (1 + (_FIXED_SIDE // PATCH) ** 2, _WIDTH),
            "mm.0.weight": (_TEXT_WIDTH, _WIDTH),
            "mm.2.weight": (_TEXT_WIDTH, _TEXT_WIDTH),
        },
        ones=_norms(2, "weight"),
        zeros=dict.fromkeys(_norms(2, "bias"), _WIDTH)
        | {"mm.0.bias": _TEXT_WIDTH, "mm.2.bias": _TEXT_WIDTH},
    ),
}

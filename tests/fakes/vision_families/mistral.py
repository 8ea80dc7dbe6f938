"""Tiny forms of Pixtral and Mistral 3."""

from collections.abc import Callable
from typing import Any

from fakes.vision_families.family import HALVES, PATCH, SIDE, TOWER, Family, Ids, text


def _pixtral(ids: Ids) -> dict[str, Any]:
    return {
        "model_type": "pixtral",
        "image_token_index": ids["[IMG]"],
        "text_config": text(ids, "mistral", head_dim=8),
        "vision_config": {"model_type": "pixtral", **TOWER, "head_dim": 8, "image_size": 2 * SIDE},
    }


def _mistral3(ids: Ids) -> dict[str, Any]:
    return {
        "model_type": "mistral3",
        "image_token_index": ids["[IMG]"],
        "spatial_merge_size": 2,
        "text_config": text(ids, "mistral", head_dim=8),
        "vision_config": {"model_type": "pixtral", **TOWER, "head_dim": 8, "image_size": 2 * SIDE},
    }


def _ministral3(ids: Ids) -> dict[str, Any]:
    rope = {
        "rope_theta": 10000.0,
        "rope_type": "yarn",
        "type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 512,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
        "llama_4_scaling_beta": 0.1,
    }
    config = _mistral3(ids)
    return {**config, "text_config": text(ids, "ministral3", head_dim=8, rope_parameters=rope)}


PIXTRAL_PREPROCESSOR = {
    "image_processor_type": "PixtralImageProcessor",
    "patch_size": {"height": PATCH, "width": PATCH},
    "size": {"longest_edge": SIDE * 2},
    **HALVES,
}


def _family(config: Callable[[Ids], dict[str, Any]]) -> Family:
    return Family(
        config,
        "[IMG]",
        ("[IMG]", "[IMG_BREAK]", "[IMG_END]"),
        processor={"processor_class": "PixtralProcessor", "patch_size": PATCH},
        preprocessor=PIXTRAL_PREPROCESSOR,
    )


MISTRAL: dict[str, Family] = {
    "pixtral": _family(_pixtral),
    "mistral3": _family(_mistral3),
    "mistral3, ministral3": _family(_ministral3),
}

"""Tiny vision models of the families of mlx-vlm that `tiny_vision` has not, for the sweep.

Each has mlx-vlm's own class and processor, and a template of ChatML with the family's placeholder.
"""

from pathlib import Path

from fakes.tiny_vision import FAMILIES, write_tiny_vision
from fakes.vision_families.glm import GLM
from fakes.vision_families.google_and_meta import GOOGLE_AND_META
from fakes.vision_families.llava import LLAVA
from fakes.vision_families.mistral import MISTRAL
from fakes.vision_families.others import OTHERS
from fakes.vision_families.qwen import QWEN
from mlx_vlm import models

OWN = {**QWEN, **MISTRAL, **LLAVA, **GOOGLE_AND_META, **GLM, **OTHERS}

UNTESTED: dict[str, str] = {
    name: reason
    for reason, names in (
        (
            "finds, divides, embeds or draws images, and does not chat",
            "clef colidefics3 colqwen2_5 d1 d1_omni embedding_gemma2 indic_ocr "
            "llama_nemotron_vl_embedding moss_image pp_doclayout_v3 qwen3_vl_embedding rfdetr "
            "rt_detr_v2 sam3 sam3_1 sam3d_body sam3d_objects siglip video_depth_anything",
        ),
        (
            "is refused: answers depend on states beside the caches of the layers, or are not "
            "written token by token",
            "diffusion_gemma falcon_ocr falcon_perception florence2 nemotron_parse",
        ),
        (
            "takes no images here, because mlx-vlm reads its own embeddings of a text as another "
            "text; its texts differ by 4e-3 from those of mlx-vlm's language model, and why is not "
            "known",
            "gemma3n",
        ),
        ("has an encoder of one size, which takes minutes on a CPU", "phi3_v"),
        (
            "has a processor with its tokens or sizes in the code",
            "deepseek_vl_v2 deepseekocr deepseekocr_2 unlimited_ocr",
        ),
        (
            "has no small configuration here yet",
            "cohere_compass deepseek_v41 ernie4_5_moe_vl glm5_next got inkling jina_vlm kimi_k3 "
            "locateanything mimo_v2 minicpmo minicpmv4_7 minimax_m3_vl mistral_large3 molmo_point "
            "moondream2 moondream3 multi_modality muse_glimmer muse_spark nemotron_h_nano_omni "
            "phi4mm plamo2vl prism_hadamard_qwen35 qwen3_5_text qwen3_omni_moe qwen4_exp step3p7 "
            "zaya1_vl",
        ),
    )
    for name in names.split()
}
"""Vision models of mlx-vlm without a tiny form here, and why."""


def modules() -> set[str]:
    """Return the models of the installed mlx-vlm with an encoder of images in their code."""
    root = Path(models.__file__ or "").parent
    return {
        folder.name
        for folder in root.iterdir()
        if (folder / "__init__.py").is_file()
        and any(
            name in file.read_text("utf-8")
            for file in folder.glob("*.py")
            for name in ("vision_config", "VisionConfig")
        )
    }


def families() -> list[str]:
    """Return the names of all families that can be built here."""
    return [*FAMILIES, *OWN]


def write_family(folder: Path, name: str) -> Path:
    for family in FAMILIES:
        if family == name:
            return write_tiny_vision(folder, family)
    return OWN[name].write(folder)

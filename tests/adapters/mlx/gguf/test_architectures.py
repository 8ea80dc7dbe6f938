"""For each architecture, logits of the converted folder are those of the GGUF."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes.tiny_decoders import (
    BLOCKS,
    HEAD_DIMS,
    decoder_gguf,
    decoder_metadata,
    decoder_tensors,
)
from fakes.tiny_gguf import Metadata, write_gguf
from gguf import GGMLQuantizationType as GGML
from references.decoder import ARCHITECTURES, Reference

from adapters.mlx.gguf import UnsupportedGGUFError, convert
from adapters.mlx.to_gguf import write_gguf as write_folder
from adapters.recommended_sampling import RecommendedSampling

IDS = [1, 7, 31, 8, 200, 263, 5, 5, 90, 17, 2, 44, 45, 46, 120, 9, 33, 250, 6, 71, 72, 73, 11, 1]


def quiet(done: int, total: int) -> None:
    pass


def mlx_logits(source: Path, target: Path) -> np.ndarray:
    import mlx.core as mx
    from mlx_lm.utils import dequantize_model, load_model

    convert(source, target, quiet)
    model: Any = load_model(target)[0]
    model.set_dtype(mx.float32)
    model = dequantize_model(model)
    return np.array(model(mx.array([IDS]))[0])


def largest_difference(source: Path, target: Path) -> float:
    """The largest difference of a logit, in standard deviations of all logits."""
    expected = Reference(source).logits(IDS)
    return float(np.abs(mlx_logits(source, target) - expected).max() / expected.std())


@pytest.mark.slow
@pytest.mark.parametrize("kind", [GGML.F32, GGML.Q8_0, GGML.Q4_1], ids=lambda kind: kind.name)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_logits_are_those_of_the_gguf(tmp_path: Path, architecture: str, kind: GGML) -> None:
    source = decoder_gguf(tmp_path, architecture, kind)
    assert largest_difference(source, tmp_path / "out") < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("architecture", sorted(HEAD_DIMS.keys() - set(ARCHITECTURES)))
def test_logits_are_the_same_after_an_export_and_an_import(
    tmp_path: Path, architecture: str
) -> None:
    first = mlx_logits(decoder_gguf(tmp_path, architecture), tmp_path / "one")
    write_folder(tmp_path / "one", tmp_path / "back.gguf", quiet)
    assert np.array_equal(first, mlx_logits(tmp_path / "back.gguf", tmp_path / "two"))
    configs = [(tmp_path / name / "config.json").read_text() for name in ("one", "two")]
    assert configs[0] == configs[1]


LINEAR: Metadata = {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0}
YARN: Metadata = {
    "rope.scaling.type": "yarn",
    "rope.scaling.factor": 4.0,
    "rope.scaling.original_context_length": 128,
}


@pytest.mark.slow
@pytest.mark.parametrize("scaling", [LINEAR, YARN], ids=["linear", "yarn"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_rotary_scaling_is_that_of_the_gguf(
    tmp_path: Path, architecture: str, scaling: Metadata
) -> None:
    changed = {f"{architecture}.{key}": value for key, value in scaling.items()}
    source = decoder_gguf(tmp_path, architecture, changed=changed)
    assert largest_difference(source, tmp_path / "out") < 1e-4
    (tmp_path / "plain").mkdir()
    plain = Reference(decoder_gguf(tmp_path / "plain", architecture))
    apart = np.abs(Reference(source).logits(IDS) - plain.logits(IDS)).max()
    assert apart > 0.01  # Else nothing is proved.


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_logits_are_the_same_when_read_token_by_token(tmp_path: Path, architecture: str) -> None:
    import mlx.core as mx
    from mlx_lm.models.cache import make_prompt_cache
    from mlx_lm.utils import load_model

    source = decoder_gguf(tmp_path, architecture)
    at_once = mlx_logits(source, tmp_path / "out")
    model: Any = load_model(tmp_path / "out")[0]
    cache = make_prompt_cache(model)
    one_by_one = np.array([np.array(model(mx.array([[i]]), cache=cache)[0, 0]) for i in IDS])
    assert np.abs(at_once - one_by_one).max() < 1e-3


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("tensor", ["blk.0.attn_norm.weight", "blk.1.ffn_up.weight"])
def test_block_without_a_tensor_is_rejected(tmp_path: Path, architecture: str, tensor: str) -> None:
    tensors = decoder_tensors(architecture, GGML.F32)
    del tensors[tensor]
    source = write_gguf(tmp_path / "a.gguf", tensors, decoder_metadata(architecture), architecture)
    with pytest.raises(UnsupportedGGUFError, match=tensor):
        convert(source, tmp_path / "out", quiet)


_EPSILON = "deepseek2.attention.layer_norm_rms_epsilon"
REFUSED: list[tuple[str, Metadata, str]] = [
    ("qwen2", {"qwen2.attention.key_length": 64}, "key_length"),
    ("qwen3", {"qwen3.expert_count": 8}, "expert_count"),
    ("gemma3", {"gemma3.final_logit_softcapping": 30.0}, "softcapping"),
    ("gemma3", {"gemma3.attention.sliding_window_pattern": 4}, "sliding_window_pattern"),
    ("gemma3", {"gemma3.vision.block_count": 27}, "vision"),
    ("llama", {"llama.rope.scaling.type": "yarn", "llama.rope.scaling.factor": 2.0}, "original"),
    ("mixtral", {"llama.rope.scaling.factor": 2.0}, "scaling"),
    ("cohere2", {"cohere2.attention.sliding_window_pattern": 5}, "sliding_window_pattern"),
    ("olmo3", {"olmo2.attention.sliding_window_pattern": [True] * 5}, "sliding_window_pattern"),
    ("olmo3", {"olmo2.rope.freq_base_swa": 1.0}, "freq_base_swa"),
    ("lfm2moe", {"lfm2moe.expert_gating_func": 1}, "expert_gating_func"),
    ("deepseek-v2", {"deepseek2.expert_group_count": 2}, "expert_group_count"),
    ("deepseek-v2", {"deepseek2.attention.key_length_mla": 80}, "key_length_mla"),
    ("deepseek-v2", {"deepseek2.expert_weights_norm": True}, "expert_weights_norm"),
    ("deepseek-v2", {_EPSILON: 1e-5}, "rms_norm_eps"),
    ("deepseek-v3", {"deepseek2.rope.scaling.type": "linear"}, "linear"),
    ("deepseek-v3", {"deepseek2.rope.scaling.yarn_beta_fast": 16.0}, "yarn_beta_fast"),
    ("glm4moelite", {"deepseek2.attention.head_count_kv": 4}, "head_count_kv"),
    ("gemma4", {"gemma4.attention.head_count_kv": [2, 1, 1, 1]}, "head_count_kv"),
    ("gemma4", {"gemma4.attention.head_count_kv": 2}, r"blk.1.attn_v"),
    ("gemma4-shared", {"gemma4.attention.shared_kv_layers": 2}, "shared_kv_layers"),
    ("gemma4-shared", {"gemma4.feed_forward_length": [96] * 4 + [192] * 2}, "feed_forward_length"),
]


@pytest.mark.parametrize(("architecture", "change", "named"), REFUSED)
def test_unsupported_setting_is_rejected(
    tmp_path: Path, architecture: str, change: Metadata, named: str
) -> None:
    source = decoder_gguf(tmp_path, architecture, changed=change)
    with pytest.raises(UnsupportedGGUFError, match=named):
        convert(source, tmp_path / "out", quiet)


@pytest.mark.slow
def test_layers_that_predict_several_tokens_are_left_out(tmp_path: Path) -> None:
    plain = decoder_gguf(tmp_path, "qwen35")
    tensors = decoder_tensors("qwen35", GGML.F32)
    last = BLOCKS["qwen35"]
    added = {
        name.replace("blk.1.", f"blk.{last}."): data
        for name, data in tensors.items()
        if name.startswith("blk.1.")
    }
    added[f"blk.{last}.nextn.eh_proj.weight"] = tensors["blk.1.ffn_up.weight"]
    metadata = decoder_metadata("qwen35")
    metadata |= {"qwen35.block_count": last + 1, "qwen35.nextn_predict_layers": 1}
    source = write_gguf(tmp_path / "mtp.gguf", tensors | added, metadata, "qwen35")
    expected = mlx_logits(plain, tmp_path / "plain")
    assert np.array_equal(mlx_logits(source, tmp_path / "out"), expected)
    report = json.loads((tmp_path / "out" / "conversion.json").read_text())
    assert report["left_out"] == sorted(added)
    configs = [(tmp_path / name / "config.json").read_text() for name in ("plain", "out")]
    assert configs[0] == configs[1]


def test_keys_that_no_engine_reads_are_left_out(tmp_path: Path) -> None:
    convert(decoder_gguf(tmp_path, "gemma4-shared"), tmp_path / "out", quiet)
    report = json.loads((tmp_path / "out" / "conversion.json").read_text())
    names = ("attn_k", "attn_k_norm", "attn_v")
    assert report["left_out"] == [f"blk.{i}.{name}.weight" for i in (3, 4, 5) for name in names]


@pytest.mark.parametrize(
    ("factors", "named"), [([1.0, 2.0] * 16, "1e30"), (None, r"rope_freqs\.weight")]
)
def test_gemma_4_without_its_table_is_rejected(
    tmp_path: Path, factors: list[float] | None, named: str
) -> None:
    tensors = decoder_tensors("gemma4", GGML.F32)
    del tensors["rope_freqs.weight"]
    if factors is not None:
        tensors["rope_freqs.weight"] = np.array(factors, np.float32), GGML.F32
    source = write_gguf(tmp_path / "a.gguf", tensors, decoder_metadata("gemma4"), "gemma4")
    with pytest.raises(UnsupportedGGUFError, match=named):
        convert(source, tmp_path / "out", quiet)


def test_layers_after_the_last_are_rejected_when_no_setting_names_them(tmp_path: Path) -> None:
    metadata = decoder_metadata("qwen35") | {"qwen35.block_count": BLOCKS["qwen35"] - 1}
    source = write_gguf(
        tmp_path / "a.gguf", decoder_tensors("qwen35", GGML.F32), metadata, "qwen35"
    )
    with pytest.raises(UnsupportedGGUFError, match=r"blk\.2"):
        convert(source, tmp_path / "out", quiet)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["gpt-oss", "deepseek-v2", "deepseek-v3"])
def test_bounds_of_yarn_are_taken_when_they_are_the_defaults(
    tmp_path: Path, architecture: str
) -> None:
    family = "gpt-oss" if architecture == "gpt-oss" else "deepseek2"
    bounds: Metadata = {
        f"{family}.rope.scaling.yarn_beta_fast": 32.0,
        f"{family}.rope.scaling.yarn_beta_slow": 1.0,
    }
    plain = mlx_logits(decoder_gguf(tmp_path, architecture), tmp_path / "plain")
    source = decoder_gguf(tmp_path, architecture, changed=bounds)
    assert np.array_equal(mlx_logits(source, tmp_path / "out"), plain)


@pytest.mark.parametrize("architecture", ["lfm2", "lfm2moe"])
def test_output_matrix_is_rejected_where_mlx_has_none(tmp_path: Path, architecture: str) -> None:
    tensors = decoder_tensors(architecture, GGML.F32)
    tensors["output.weight"] = tensors["token_embd.weight"]
    metadata = decoder_metadata(architecture)
    source = write_gguf(tmp_path / "a.gguf", tensors, metadata, architecture)
    with pytest.raises(UnsupportedGGUFError, match=r"output\.weight"):
        convert(source, tmp_path / "out", quiet)


@pytest.mark.parametrize("architecture", ["glm4moe", "glm4moe-norms"])
def test_norms_of_heads_are_a_setting_by_their_tensors(tmp_path: Path, architecture: str) -> None:
    convert(decoder_gguf(tmp_path, architecture), tmp_path / "out", quiet)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["use_qk_norm"] == (architecture == "glm4moe-norms")


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["lfm2moe", "glm4moe", "deepseek-v3"])
def test_bias_of_experts_stays_in_float32_when_matrices_are_quantised(
    tmp_path: Path, architecture: str
) -> None:
    from safetensors.numpy import load_file

    source = decoder_gguf(tmp_path, architecture, GGML.Q8_0)
    convert(source, tmp_path / "out", quiet)
    stored = load_file(tmp_path / "out" / "model.safetensors")
    biases = [name for name in stored if name.endswith(("expert_bias", "correction_bias"))]
    assert biases
    assert {stored[name].dtype for name in biases} == {np.dtype(np.float32)}


RECOMMENDED: Metadata = {"general.sampling.temp": 0.2, "general.sampling.top_k": 20}


@pytest.mark.parametrize(
    ("metadata", "sampling", "expected"),
    [
        (RECOMMENDED, None, {"temperature": 0.2, "top_k": 20}),
        (RECOMMENDED, RecommendedSampling(min_p=0.1), {"min_p": 0.1}),
        ({}, RecommendedSampling(temperature=0.0), {"temperature": 0.0}),
    ],
)
def test_recommended_sampling_is_kept(
    tmp_path: Path,
    metadata: Metadata,
    sampling: RecommendedSampling | None,
    expected: dict[str, Any],
) -> None:
    source = decoder_gguf(tmp_path, "llama", changed=metadata)
    convert(source, tmp_path / "out", quiet, sampling=sampling)
    assert json.loads((tmp_path / "out" / "generation_config.json").read_text()) == expected


def test_stop_that_is_a_control_token_ends_answers(tmp_path: Path) -> None:
    convert(
        decoder_gguf(tmp_path, "llama"), tmp_path / "out", quiet, stops=("<|im_start|>", "User:")
    )
    assert json.loads((tmp_path / "out" / "config.json").read_text())["eos_token_id"] == [2, 0, 1]


def test_no_recommendation_is_no_file(tmp_path: Path) -> None:
    convert(decoder_gguf(tmp_path, "llama"), tmp_path / "out", quiet)
    assert not (tmp_path / "out" / "generation_config.json").exists()


def test_gemma_has_its_sliding_window(tmp_path: Path) -> None:
    pattern = [(index + 1) % 6 != 0 for index in range(BLOCKS["gemma3"])]
    changed: Metadata = {
        "gemma3.attention.sliding_window_pattern": pattern,
        "gemma3.rope.local.freq_base": 10000.0,
    }
    convert(decoder_gguf(tmp_path, "gemma3", changed=changed), tmp_path / "out", quiet)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["sliding_window"] == 8
    assert config["sliding_window_pattern"] == 6
    assert config["rope_local_base_freq"] == 10000.0
    assert config["query_pre_attn_scalar"] == 32


def test_gemma_norms_are_those_of_the_source_minus_one(tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    source = decoder_gguf(tmp_path, "gemma3")
    report = convert(source, tmp_path / "out", quiet)
    stored = load_file(tmp_path / "out" / "model.safetensors")["model.norm.weight"]
    data, _ = decoder_tensors("gemma3", GGML.F32)["output_norm.weight"]
    assert np.abs(stored + 1 - data).max() < 1e-6
    assert report.worst.relative_l2 < 1e-6

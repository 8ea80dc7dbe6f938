"""Export to GGUF: importing the file restores the folder."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from fakes.tiny_decoders import BLOCKS, decoder_gguf, decoder_metadata, decoder_tensors
from fakes.tiny_gguf import write_gguf as write_source
from gguf import GGMLQuantizationType as GGML
from references.decoder import ARCHITECTURES as COMPUTED
from references.decoder import Reference
from tokenizers import AddedToken, Tokenizer, models, normalizers

from adapters.gguf.conversion import UnsupportedGGUFError
from adapters.gguf.tokenizer import build_tokenizer
from adapters.mlx.gguf import convert
from adapters.mlx.to_gguf import write_gguf
from adapters.mlx.to_gguf.arrays import read_arrays
from adapters.mlx.to_gguf.vocabulary import vocabulary

pytestmark = pytest.mark.long

ARCHITECTURES = sorted(BLOCKS)
IDS = [1, 7, 31, 8, 200, 263, 5, 90, 17, 2, 44, 45]


def quiet(done: int, total: int) -> None:
    pass


def kinds(path: Path) -> dict[str, str]:
    return {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(path).tensors}


@pytest.mark.parametrize(
    ("kind", "back"),
    [
        (GGML.F32, "F32"),
        (GGML.F16, "F16"),
        (GGML.BF16, "BF16"),
        (GGML.Q4_0, "Q4_1"),
        (GGML.Q4_1, "Q4_1"),
        (GGML.Q5_0, "Q5_1"),
        (GGML.Q5_1, "Q5_1"),
        (GGML.Q8_0, "Q8_0"),
    ],
    ids=lambda value: getattr(value, "name", None),
)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_export_and_import_restore_the_folder(
    tmp_path: Path, architecture: str, kind: GGML, back: str
) -> None:
    convert(decoder_gguf(tmp_path, architecture, kind), tmp_path / "one", quiet)
    written = write_gguf(tmp_path / "one", tmp_path / "back.gguf", quiet)
    convert(tmp_path / "back.gguf", tmp_path / "two", quiet)

    assert weights(tmp_path / "one") == weights(tmp_path / "two")
    for name in ("tokenizer.json", "tokenizer_config.json", "config.json"):
        assert json.loads((tmp_path / "one" / name).read_text()) == json.loads(
            (tmp_path / "two" / name).read_text()
        )
    assert {tensor.relative_l2 for tensor in written.tensors} == {0.0}
    assert kinds(tmp_path / "back.gguf")["token_embd.weight"] == back


def weights(folder: Path) -> dict[str, tuple[str, bytes]]:
    arrays = read_arrays(folder)
    return {name: (array.dtype, array.data.tobytes()) for name, array in arrays.items()}


SCALINGS: list[dict[str, Any]] = [
    {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0},
    {
        "rope.scaling.type": "yarn",
        "rope.scaling.factor": 4.0,
        "rope.scaling.original_context_length": 128,
    },
]


@pytest.mark.parametrize("scaling", SCALINGS, ids=lambda scaling: scaling["rope.scaling.type"])
@pytest.mark.parametrize("architecture", COMPUTED)
def test_logits_of_an_export_are_those_of_the_source(
    tmp_path: Path, architecture: str, scaling: dict[str, Any]
) -> None:
    changed = {f"{architecture}.{key}": value for key, value in scaling.items()}
    source = decoder_gguf(tmp_path, architecture, changed=changed)
    convert(source, tmp_path / "one", quiet)
    write_gguf(tmp_path / "one", tmp_path / "back.gguf", quiet)
    expected = Reference(source).logits(IDS)
    assert np.abs(Reference(tmp_path / "back.gguf").logits(IDS) - expected).max() < 1e-4


def test_llama3_scaling_is_written_as_a_table(tmp_path: Path) -> None:
    from adapters.mlx.gguf.rotary import llama3_factors

    scaling = {
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    factors = llama3_factors(scaling, 20000.0, 16).astype(np.float32)
    tensors = decoder_tensors("llama", GGML.F32) | {"rope_freqs.weight": (factors, GGML.F32)}
    source = write_source(tmp_path / "a.gguf", tensors, decoder_metadata("llama"))
    convert(source, tmp_path / "one", quiet)
    write_gguf(tmp_path / "one", tmp_path / "back.gguf", quiet)
    expected = Reference(source).logits(IDS)
    assert np.abs(Reference(tmp_path / "back.gguf").logits(IDS) - expected).max() < 1e-4
    assert "rope_freqs.weight" in kinds(tmp_path / "back.gguf")


@pytest.mark.parametrize(
    ("bits", "group", "kind", "most"),
    [
        (2, 32, "Q4_1", 0),
        (3, 64, "Q4_1", 0),
        (4, 64, "Q4_1", 0),
        (5, 64, "Q5_1", 0),
        (6, 64, "F16", 5e-4),
        (8, 64, "F16", 5e-4),
    ],
)
def test_weights_quantised_by_mlx_are_kept(
    tmp_path: Path, bits: int, group: int, kind: str, most: float
) -> None:
    """Quantised like `mlx_lm.convert -q`, scales in float16."""
    import mlx.core as mx
    from mlx_lm.utils import load_model, quantize_model, save_model

    tensors = decoder_tensors("llama", GGML.F32)
    source = write_source(tmp_path / "a.gguf", tensors, decoder_metadata("llama"))
    convert(source, tmp_path / "one", quiet)
    model: Any = load_model(tmp_path / "one")[0]
    model.set_dtype(mx.float16)
    config = json.loads((tmp_path / "one" / "config.json").read_text())

    def has_whole_groups(_: str, module: Any) -> bool:
        return module.weight.shape[-1] % group == 0

    model, config = quantize_model(model, config, group, bits, quant_predicate=has_whole_groups)
    (tmp_path / "one" / "model.safetensors").unlink()
    save_model(tmp_path / "one", model)
    (tmp_path / "one" / "config.json").write_text(json.dumps(config))

    written = write_gguf(tmp_path / "one", tmp_path / "back.gguf", quiet)
    packed = [tensor for tensor in written.tensors if tensor.source.endswith(f"of {group}")]
    assert len(packed) > 5
    assert {tensor.stored for tensor in packed} == {kind}
    assert max(tensor.relative_l2 for tensor in packed) <= most


def change(folder: Path, **values: Any) -> None:
    """Change settings, those of the text model where a config has one inside."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config.get("text_config", config).update(values)
    path.write_text(json.dumps(config))


def remove(folder: Path, setting: str) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    del config[setting]
    path.write_text(json.dumps(config))


def wrap(folder: Path, kind: str) -> None:
    """Make the folder one of an outer type, with the text model inside."""
    from safetensors.numpy import load_file, save_file

    path = folder / "config.json"
    config = json.loads(path.read_text())
    outer = {"model_type": kind, "text_config": config, "vocab_size": config["vocab_size"]}
    path.write_text(json.dumps(outer))
    file = folder / "model.safetensors"
    arrays = {f"language_model.{name}": array for name, array in load_file(file).items()}
    save_file(arrays, file)


OUTER = [
    ("gemma3", "gemma3"),
    ("gemma4", "gemma4"),
    ("gemma4-shared", "gemma4"),
    ("gemma4-moe", "gemma4_unified"),
    ("llama", "mistral3"),
]


@pytest.mark.parametrize(("architecture", "kind"), OUTER)
def test_text_model_inside_of_another_type_is_exported_like_it_alone(
    tmp_path: Path, architecture: str, kind: str
) -> None:
    convert(decoder_gguf(tmp_path, architecture), tmp_path / "one", quiet)
    alone = logits_of(tmp_path / "one")
    write_gguf(tmp_path / "one", tmp_path / "alone.gguf", quiet)
    wrap(tmp_path / "one", kind)
    assert np.array_equal(logits_of(tmp_path / "one"), alone)
    write_gguf(tmp_path / "one", tmp_path / "inside.gguf", quiet)
    assert (tmp_path / "inside.gguf").read_bytes() == (tmp_path / "alone.gguf").read_bytes()


def logits_of(folder: Path) -> np.ndarray:
    import mlx.core as mx
    from mlx_lm.utils import load_model

    model: Any = load_model(folder)[0]
    return np.array(model(mx.array([IDS]))[0])


def test_setting_that_a_config_lacks_is_what_mlx_takes_for_it(tmp_path: Path) -> None:
    convert(decoder_gguf(tmp_path, "deepseek-v3"), tmp_path / "one", quiet)
    change(tmp_path / "one", norm_topk_prob=True)
    write_gguf(tmp_path / "one", tmp_path / "first.gguf", quiet)
    remove(tmp_path / "one", "norm_topk_prob")
    write_gguf(tmp_path / "one", tmp_path / "second.gguf", quiet)
    assert (tmp_path / "first.gguf").read_bytes() == (tmp_path / "second.gguf").read_bytes()


@pytest.mark.parametrize(
    ("architecture", "setting"),
    [("gemma2", "query_pre_attn_scalar"), ("qwen3next", "norm_topk_prob")],
)
def test_default_of_mlx_that_a_gguf_cannot_have_is_refused(
    tmp_path: Path, architecture: str, setting: str
) -> None:
    convert(decoder_gguf(tmp_path, architecture), tmp_path / "one", quiet)
    remove(tmp_path / "one", setting)
    with pytest.raises(UnsupportedGGUFError, match=setting):
        write_gguf(tmp_path / "one", tmp_path / "back.gguf", quiet)


NEMOTRON_WORDS = ["mamba", "mlp", "attention", "linear_attention", "mlp"]


@pytest.mark.parametrize(
    "pattern",
    [
        {"hybrid_override_pattern": list("M-*M-")},
        {"hybrid_override_pattern": None, "layers_block_type": NEMOTRON_WORDS},
        {"hybrid_override_pattern": None, "layer_types": NEMOTRON_WORDS},
    ],
)
def test_kinds_of_blocks_are_letters_or_words(tmp_path: Path, pattern: dict[str, Any]) -> None:
    convert(decoder_gguf(tmp_path, "nemotron_h"), tmp_path / "one", quiet)
    write_gguf(tmp_path / "one", tmp_path / "first.gguf", quiet)
    change(tmp_path / "one", num_hidden_layers=None, **pattern)
    write_gguf(tmp_path / "one", tmp_path / "second.gguf", quiet)
    assert (tmp_path / "first.gguf").read_bytes() == (tmp_path / "second.gguf").read_bytes()


@pytest.mark.parametrize("tower", ["vision_tower", "audio_tower", "multi_modal_projector"])
def test_part_for_images_or_sound_is_refused_with_the_next_step(tmp_path: Path, tower: str) -> None:
    from safetensors.numpy import load_file, save_file

    convert(decoder_gguf(tmp_path, "gemma4"), tmp_path / "one", quiet)
    wrap(tmp_path / "one", "gemma4")
    file = tmp_path / "one" / "model.safetensors"
    save_file(load_file(file) | {f"{tower}.proj.weight": np.ones((2, 2), np.float32)}, file)
    with pytest.raises(UnsupportedGGUFError, match=rf"images or sound.*{tower}.*mlx_lm.convert"):
        write_gguf(tmp_path / "one", tmp_path / "back.gguf", quiet)
    assert not (tmp_path / "back.gguf").exists()


def test_other_text_model_inside_of_mistral_3_is_refused(tmp_path: Path) -> None:
    convert(decoder_gguf(tmp_path, "llama"), tmp_path / "one", quiet)
    wrap(tmp_path / "one", "mistral3")
    change(tmp_path / "one", model_type="ministral3")
    with pytest.raises(UnsupportedGGUFError, match="'ministral3' of 'mistral3'"):
        write_gguf(tmp_path / "one", tmp_path / "back.gguf", quiet)


REFUSED: list[tuple[Callable[[Path], object], str]] = [
    (lambda folder: change(folder, model_type="mamba"), "'mamba'"),
    (lambda folder: change(folder, partial_rotary_factor=0.5), "partial_rotary_factor"),
    (lambda folder: change(folder, sliding_window=4096), "sliding_window"),
    (lambda folder: change(folder, num_hidden_layers=3), r"layers\.2"),
    (lambda folder: change(folder, num_hidden_layers=1), r"layers\.1.* is not supported"),
    (lambda folder: change(folder, rms_norm_eps=None), "rms_norm_eps"),
    (lambda folder: change(folder, rope_scaling={"rope_type": "longrope"}), "longrope"),
    (lambda folder: change(folder, quantization={"mode": "mxfp4"}), "MXFP4"),
    (lambda folder: (folder / "model.safetensors").unlink(), "no weights"),
    (lambda folder: (folder / "model.safetensors").write_bytes(b"\xff" * 64), "not a safetensors"),
]


@pytest.mark.parametrize(("spoil", "named"), REFUSED, ids=[named for _, named in REFUSED])
def test_unsupported_model_is_rejected_by_name(
    tmp_path: Path, spoil: Callable[[Path], object], named: str
) -> None:
    convert(decoder_gguf(tmp_path, "llama", GGML.Q8_0), tmp_path / "one", quiet)
    spoil(tmp_path / "one")
    with pytest.raises(UnsupportedGGUFError, match=named):
        write_gguf(tmp_path / "one", tmp_path / "back.gguf", quiet)


def test_unknown_pre_tokenizer_is_rejected(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, pre_tokenizers

    convert(decoder_gguf(tmp_path, "llama"), tmp_path / "one", quiet)
    path = str(tmp_path / "one" / "tokenizer.json")
    tokenizer = Tokenizer.from_file(path)
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(path)
    with pytest.raises(UnsupportedGGUFError, match="pre-tokenizer is not supported"):
        write_gguf(tmp_path / "one", tmp_path / "back.gguf", quiet)


@pytest.mark.parametrize(
    "pre",
    [
        *("gpt-2", "smollm", "llama-bpe", "dbrx", "qwen2"),
        *("qwen35", "seed-coder", "gpt-4o", "tekken"),
        *("deepseek-llm", "deepseek-coder", "deepseek-v3"),
    ],
)
def test_pre_tokenizer_is_named_by_how_it_splits(tmp_path: Path, pre: str) -> None:
    source = decoder_gguf(tmp_path, "llama", changed={"tokenizer.ggml.pre": pre})
    convert(source, tmp_path / "one", quiet)
    write_gguf(tmp_path / "one", tmp_path / "back.gguf", quiet)
    field = gguf.GGUFReader(tmp_path / "back.gguf").fields["tokenizer.ggml.pre"]
    assert field.contents() == pre


def test_pre_tokenizer_of_deepseek_v2_on_the_hub_is_named_like_llama_cpps(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, pre_tokenizers

    source = decoder_gguf(tmp_path, "llama", changed={"tokenizer.ggml.pre": "deepseek-llm"})
    convert(source, tmp_path / "one", quiet)
    path = str(tmp_path / "one" / "tokenizer.json")
    tokenizer = Tokenizer.from_file(path)
    steps: Any = tokenizer.pre_tokenizer
    steps[5] = pre_tokenizers.Digits(individual_digits=True)
    tokenizer.save(path)
    write_gguf(tmp_path / "one", tmp_path / "back.gguf", quiet)
    field = gguf.GGUFReader(tmp_path / "back.gguf").fields["tokenizer.ggml.pre"]
    assert field.contents() == "deepseek-llm"


def test_three_end_tokens_of_a_folder_have_keys(tmp_path: Path) -> None:
    convert(decoder_gguf(tmp_path, "llama"), tmp_path / "one", quiet)
    change(tmp_path / "one", eos_token_id=[2, 7, 9])
    write_gguf(tmp_path / "one", tmp_path / "back.gguf", quiet)
    fields = gguf.GGUFReader(tmp_path / "back.gguf").fields
    ends = [fields[f"tokenizer.ggml.{end}_token_id"].contents() for end in ("eos", "eot", "eom")]
    assert ends == [2, 7, 9]


def test_mxfp4_is_copied_and_not_computed_again(tmp_path: Path) -> None:
    source = decoder_gguf(tmp_path, "gpt-oss", GGML.Q8_0)
    convert(source, tmp_path / "one", quiet)
    config = json.loads((tmp_path / "one" / "config.json").read_text())
    module = "model.layers.0.mlp.experts.up_proj"
    assert config["quantization"][module] == {"group_size": 32, "bits": 4, "mode": "mxfp4"}
    write_gguf(tmp_path / "one", tmp_path / "back.gguf", quiet)
    name = "blk.0.ffn_up_exps.weight"
    before, after = [
        next(t for t in gguf.GGUFReader(path).tensors if t.name == name)
        for path in (source, tmp_path / "back.gguf")
    ]
    assert after.tensor_type == GGML.MXFP4
    assert np.array_equal(before.data, after.data)


UNTYPED = {"full_attention": {"rope_theta": 5.0}, "sliding_attention": {"rope_theta": 5.0}}
YARN = {
    "rope_type": "yarn",
    "factor": 4.0,
    "original_max_position_embeddings": 128,
    "mscale_all_dim": 1.0,
}


@pytest.mark.parametrize(
    ("architecture", "changed", "named"),
    [
        ("qwen3moe", {"norm_topk_prob": False}, "norm_topk_prob"),
        ("qwen3moe", {"mlp_only_layers": [1]}, "mlp_only_layers"),
        ("qwen2moe", {"norm_topk_prob": True}, "norm_topk_prob"),
        ("phi3", {"partial_rotary_factor": 0.75}, "partial_rotary_factor"),
        ("gemma2", {"query_pre_attn_scalar": 7}, "query_pre_attn_scalar"),
        ("gpt-oss", {"layer_types": ["full_attention", "full_attention"]}, "layer_types"),
        ("gpt-oss", {"rope_scaling": {"rope_type": "yarn", "beta_fast": 8}}, "beta_fast"),
        ("olmo2", {"sliding_window": 8}, "sliding_window"),
        ("granite", {"logits_scaling": None}, "logits_scaling"),
        ("mixtral", {"rope_scaling": {"rope_type": "llama3", "factor": 8}}, "llama3"),
        ("ernie4_5", {"rope_scaling": {"rope_type": "linear", "factor": 8}}, "linear"),
        ("ernie4_5", {"use_bias": True}, "use_bias"),
        ("smollm3", {"no_rope_layers": [1, 1, 1, 1, 1]}, "no_rope_layers"),
        ("olmoe", {"num_key_value_heads": 2}, "num_key_value_heads"),
        ("olmo3", {"layer_types": ["full_attention"] * 5}, "layer_types"),
        ("cohere2", {"sliding_window_pattern": 2}, "sliding_window_pattern"),
        ("seed_oss", {"attention_bias": False}, "attention_bias"),
        ("lfm2moe", {"routed_scaling_factor": 2.0}, "routed_scaling_factor"),
        ("glm4moe", {"attention_bias": False}, "attention_bias"),
        ("deepseek-v2", {"topk_method": "group_limited_greedy"}, "topk_method"),
        ("deepseek-v3", {"rms_norm_eps": 1e-5}, "rms_norm_eps"),
        ("deepseek-v3", {"rope_scaling": YARN | {"mscale": 0.5}}, "mscale"),
        ("deepseek-v3", {"rope_scaling": {"rope_type": "llama3", "factor": 8}}, "llama3"),
        ("glm4moelite", {"q_lora_rank": None}, "q_lora_rank"),
        ("gemma4", {"num_kv_shared_layers": 1}, "shared_kv_layers"),
        ("gemma4-shared", {"vocab_size_per_layer_input": 8}, "vocab_size_per_layer_input"),
        ("gemma4", {"global_head_dim": None}, "global_head_dim"),
        ("gemma4", {"rope_parameters": {"rope_theta": 5.0}}, "full_attention"),
        ("gemma4", {"rope_parameters": UNTYPED}, "rope_type"),
        ("llama4", {"use_qk_norm": False}, "use_qk_norm"),
        ("llama4", {"use_qk_norm": None}, "use_qk_norm"),
        ("qwen3moe", {"norm_topk_prob": None}, "norm_topk_prob"),
        ("llama4", {"num_experts_per_tok": 2}, "num_experts_per_tok"),
        ("llama4", {"attention_chunk_size": 4096}, "attention_chunk_size"),
        ("llama4", {"attn_temperature_tuning": False}, "attn_temperature_tuning"),
        ("llama4", {"no_rope_layers": [1] * 5}, "no_rope_layers"),
        ("llama4", {"layer_types": ["full_attention"] * 5}, "layer_types"),
        ("llama4", {"attention_bias": True}, "attention_bias"),
        ("deepseek-v2", {"rope_scaling": {"factor": 4.0}}, "rotary scaling"),
        ("deepseek-v3", {"rope_scaling": {"mscale_all_dim": 4.0}}, "rotary scaling"),
        ("nemotron_h", {"hybrid_override_pattern": "M-*ME"}, "hybrid_override_pattern"),
        ("nemotron_h", {"time_step_limit": [0.1, 0.2]}, "time_step_limit"),
        ("nemotron_h", {"use_conv_bias": False}, "use_conv_bias"),
        ("nemotron_h", {"mlp_bias": True}, "mlp_bias"),
        ("nemotron_h_moe", {"n_group": 2}, "n_group"),
        ("qwen3next", {"linear_value_head_dim": 64}, "linear_value_head_dim"),
        ("qwen3next", {"layer_types": ["full_attention"] * 3}, "layer_types"),
        ("qwen3next", {"mlp_only_layers": [0]}, "mlp_only_layers"),
    ],
)
def test_what_a_gguf_cannot_have_is_refused_by_name_before_a_file_is_written(
    tmp_path: Path, architecture: str, changed: dict[str, Any], named: str
) -> None:
    convert(decoder_gguf(tmp_path, architecture), tmp_path / "one", quiet)
    change(tmp_path / "one", **changed)
    with pytest.raises(UnsupportedGGUFError, match=named):
        write_gguf(tmp_path / "one", tmp_path / "back.gguf", quiet)
    assert not (tmp_path / "back.gguf").exists()


def test_spaces_that_are_added_tokens_keep_their_ids(tmp_path: Path) -> None:
    """Gemma 2 and 3 have them so: no text has them by that name, its spaces are merged to them."""
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    words = ["<unk>", *bytes_, "▁", "▁▁", "▁▁▁", "a"]
    model = models.BPE(
        {word: at for at, word in enumerate(words)},
        [("▁", "▁"), ("▁▁", "▁")],
        unk_token="<unk>",
        byte_fallback=True,
        fuse_unk=True,
    )
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in ("▁▁", "▁▁▁")])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text("{}")
    read = build_tokenizer(vocabulary(tmp_path, {}, len(words), "llama"))
    for text in ("a  a   a", "   a"):
        assert read.encode(text).ids == tokenizer.encode(text).ids

"""All architectures with tiny random weights, against numpy."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from fakes.tiny_model import write_tiny_model
from references import embedding as reference

from adapters.backend import Model
from adapters.mlx.embedding.embedder import Embedder, load_embedder
from adapters.mlx.jobs import finish
from adapters.mlx.models.catalog import read_folder
from adapters.mlx.models.load_progress import Loading

_SHAPE = {
    "vocab_size": 258,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
}
_GROUPED = {"num_key_value_heads": 2, "head_dim": 16, "rms_norm_eps": 1e-6}
_BERT = {**_SHAPE, "layer_norm_eps": 1e-12, "hidden_act": "gelu", "type_vocab_size": 2}
CONFIGS: dict[str, dict[str, Any]] = {
    "bert": {**_BERT, "model_type": "bert", "pad_token_id": 0},
    "xlm-roberta": {**_BERT, "model_type": "xlm-roberta", "pad_token_id": 1},
    "modernbert": {
        **_SHAPE,
        "model_type": "modernbert",
        "norm_eps": 1e-5,
        "local_attention": 8,
        "global_attn_every_n_layers": 3,
        "global_rope_theta": 160000.0,
        "local_rope_theta": 10000.0,
        "pad_token_id": 3,
    },
    "qwen3": {
        **_SHAPE,
        **_GROUPED,
        "model_type": "qwen3",
        "rope_theta": 1000000.0,
        "tie_word_embeddings": True,
    },
    "gemma3_text": {
        **_SHAPE,
        **_GROUPED,
        "model_type": "gemma3_text",
        "query_pre_attn_scalar": 16,
        "sliding_window": 8,
        "_sliding_window_pattern": 3,
        "rope_theta": 1000000.0,
        "rope_local_base_freq": 10000.0,
        "use_bidirectional_attention": True,
    },
}
FORWARD: dict[str, Callable[..., Any]] = {
    "bert": reference.bert,
    "xlm-roberta": reference.bert,
    "modernbert": reference.modernbert,
    "qwen3": reference.qwen3,
    "gemma3_text": reference.gemma3,
}
TEXTS = [list(range(5, 5 + size)) for size in (40, 3, 17, 1)]


def shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the weights, as in the repositories of these models."""
    hidden, wide = config["hidden_size"], config["intermediate_size"]
    layers = range(config["num_hidden_layers"])
    if config["model_type"] in ("bert", "xlm-roberta"):
        tensors: dict[str, tuple[int, ...]] = {
            "embeddings.word_embeddings.weight": (config["vocab_size"], hidden),
            "embeddings.position_embeddings.weight": (config["max_position_embeddings"], hidden),
            "embeddings.token_type_embeddings.weight": (2, hidden),
            "embeddings.LayerNorm.weight": (hidden,),
            "embeddings.LayerNorm.bias": (hidden,),
        }
        for at in (f"encoder.layer.{layer}" for layer in layers):
            for name, (rows, columns) in {
                "attention.self.query": (hidden, hidden),
                "attention.self.key": (hidden, hidden),
                "attention.self.value": (hidden, hidden),
                "attention.output.dense": (hidden, hidden),
                "intermediate.dense": (wide, hidden),
                "output.dense": (hidden, wide),
            }.items():
                tensors |= {f"{at}.{name}.weight": (rows, columns), f"{at}.{name}.bias": (rows,)}
            for name in ("attention.output.LayerNorm", "output.LayerNorm"):
                tensors |= {f"{at}.{name}.weight": (hidden,), f"{at}.{name}.bias": (hidden,)}
        return tensors
    if config["model_type"] == "modernbert":
        tensors = {
            "model.embeddings.tok_embeddings.weight": (config["vocab_size"], hidden),
            "model.embeddings.norm.weight": (hidden,),
            "model.final_norm.weight": (hidden,),
        }
        for layer in layers:
            at = f"model.layers.{layer}"
            tensors |= {f"{at}.attn_norm.weight": (hidden,)} if layer else {}
            tensors |= {
                f"{at}.attn.Wqkv.weight": (3 * hidden, hidden),
                f"{at}.attn.Wo.weight": (hidden, hidden),
                f"{at}.mlp_norm.weight": (hidden,),
                f"{at}.mlp.Wi.weight": (2 * wide, hidden),
                f"{at}.mlp.Wo.weight": (hidden, wide),
            }
        return tensors
    width, queries = config["head_dim"], config["num_attention_heads"] * config["head_dim"]
    keys = config["num_key_value_heads"] * width
    tensors = {"embed_tokens.weight": (config["vocab_size"], hidden), "norm.weight": (hidden,)}
    norms = ["input_layernorm", "post_attention_layernorm"]
    if config["model_type"] == "gemma3_text":
        norms += ["pre_feedforward_layernorm", "post_feedforward_layernorm"]
    for at in (f"layers.{layer}" for layer in layers):
        tensors |= {f"{at}.{name}.weight": (hidden,) for name in norms}
        tensors |= {
            f"{at}.self_attn.q_proj.weight": (queries, hidden),
            f"{at}.self_attn.k_proj.weight": (keys, hidden),
            f"{at}.self_attn.v_proj.weight": (keys, hidden),
            f"{at}.self_attn.o_proj.weight": (hidden, queries),
            f"{at}.self_attn.q_norm.weight": (width,),
            f"{at}.self_attn.k_norm.weight": (width,),
            f"{at}.mlp.gate_proj.weight": (wide, hidden),
            f"{at}.mlp.up_proj.weight": (wide, hidden),
            f"{at}.mlp.down_proj.weight": (hidden, wide),
        }
    return tensors


def weights_of(config: dict[str, Any]) -> dict[str, Any]:
    random = np.random.default_rng(3)
    return {
        name: (random.normal(size=shape) * 0.3).astype(np.float32)
        for name, shape in shapes(config).items()
    }


def write(
    folder: Path, kind: str, prefix: str = "", pooling: str = "", **extra: Any
) -> dict[str, Any]:
    write_tiny_model(folder)
    config = {**CONFIGS[kind], **extra}
    weights = weights_of(config)
    arrays = {prefix + name: mx.array(value) for name, value in weights.items()}
    mx.save_safetensors(str(folder / "model.safetensors"), arrays)
    (folder / "config.json").write_text(json.dumps(config))
    if pooling:
        modules = [
            {"path": "", "type": "sentence_transformers.models.Transformer"},
            {"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        ]
        (folder / "modules.json").write_text(json.dumps(modules))
        (folder / "1_Pooling").mkdir(exist_ok=True)
        (folder / "1_Pooling" / "config.json").write_text(json.dumps({pooling: True}))
    return weights


def load(folder: Path) -> Embedder:
    return finish(load_embedder(folder, "auto", Loading("tiny-embedding")))


def unit(vector: Any) -> Any:
    return vector / np.linalg.norm(vector)


POOLS: dict[str, Callable[[Any], Any]] = {
    "pooling_mode_cls_token": lambda x: x[0],
    "pooling_mode_mean_tokens": lambda x: x.mean(0),
    "pooling_mode_max_tokens": lambda x: x.max(0),
    "pooling_mode_mean_sqrt_len_tokens": lambda x: x.sum(0) / len(x) ** 0.5,
    "pooling_mode_lasttoken": lambda x: x[-1],
    "pooling_mode_weightedmean_tokens": lambda x: np.average(
        x, axis=0, weights=np.arange(1, len(x) + 1)
    ),
}


@pytest.mark.parametrize("pooling", POOLS)
@pytest.mark.parametrize("kind", CONFIGS)
def test_vectors_in_a_batch_are_those_of_numpy(tmp_path: Path, kind: str, pooling: str) -> None:
    weights = write(tmp_path, kind, pooling=pooling)
    made = load(tmp_path).embed(TEXTS)
    for ids, vector in zip(TEXTS, made, strict=True):
        expected = unit(POOLS[pooling](FORWARD[kind](weights, CONFIGS[kind], ids)))
        assert np.allclose(vector, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "prefix"),
    [("bert", "bert."), ("xlm-roberta", "roberta."), ("bert", "model."), ("qwen3", "model.")],
)
def test_prefix_of_parameter_names_is_removed(tmp_path: Path, kind: str, prefix: str) -> None:
    write(tmp_path / "a", kind, pooling="pooling_mode_mean_tokens")
    write(tmp_path / "b", kind, prefix, pooling="pooling_mode_mean_tokens")
    assert load(tmp_path / "a").embed(TEXTS) == load(tmp_path / "b").embed(TEXTS)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("Tiny-Embedding-4bit", {"embedding"}), ("Tiny-4bit", {"chat"})],
)
def test_converted_decoder_is_recognised_by_its_name(
    tmp_path: Path, name: str, expected: set[str]
) -> None:
    write(tmp_path, "qwen3")
    model = read_folder(name, tmp_path)
    assert isinstance(model, Model)
    assert model.capabilities == expected


def test_classifier_is_not_an_embedding_model(tmp_path: Path) -> None:
    write(tmp_path, "bert", architectures=["BertForSequenceClassification"])
    assert isinstance(read_folder("reranker", tmp_path), str)


def test_dense_layers_follow_the_pooling(tmp_path: Path) -> None:
    weights = write(tmp_path, "bert", pooling="pooling_mode_mean_tokens")
    modules = json.loads((tmp_path / "modules.json").read_text())
    modules.append({"path": "2_Dense", "type": "sentence_transformers.models.Dense"})
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    (tmp_path / "2_Dense").mkdir()
    config_of_dense = {"activation_function": "torch.nn.modules.linear.Identity"}
    (tmp_path / "2_Dense" / "config.json").write_text(json.dumps(config_of_dense))
    matrix = np.random.default_rng(1).normal(size=(6, 32)).astype(np.float32)
    file = tmp_path / "2_Dense" / "model.safetensors"
    mx.save_safetensors(str(file), {"linear.weight": mx.array(matrix)})
    [vector] = load(tmp_path).embed([TEXTS[0]])
    hidden = reference.bert(weights, CONFIGS["bert"], TEXTS[0]).mean(0)
    assert np.allclose(vector, unit(matrix @ hidden), atol=1e-5)


def test_missing_pooling_mode_is_an_error(tmp_path: Path) -> None:
    write(tmp_path, "bert", pooling="pooling_mode_cls_token")
    shutil.rmtree(tmp_path / "1_Pooling")
    with pytest.raises(Exception, match=r"1_Pooling/config.json"):
        load(tmp_path)

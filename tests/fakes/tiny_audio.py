"""Small models of audio with random weights: mlx-audio's real classes, loaded by its real code.

They speak noise and write nonsense, in the shape that the real ones do.
"""

# pyright: basic
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from tokenizers import decoders as token_decoders

_PHONEMES = ';:,.!?—…"()“” abcdefhijklmnopqrstuvwxyzæðŋɑɔəɛɜɡɪɹʃʊʌʒʤʧˈˌːθᵊAIOQTWY'
KOKORO_RATE = 24_000
DIA_RATE = 44_100


def tiny_kokoro(
    folder: Path, voices: tuple[str, ...] = ("af_heart", "af_alloy", "bm_fable")
) -> Path:
    """Kokoro with tens of millions of parameters: the width of its decoder is in its code."""
    from mlx_audio.tts.models.kokoro import Model, ModelConfig

    config = {
        "model_type": "kokoro",
        "istftnet": {
            "upsample_kernel_sizes": [20, 12],
            "upsample_rates": [10, 6],
            "gen_istft_hop_size": 5,
            "gen_istft_n_fft": 20,
            "resblock_dilation_sizes": [[1, 3, 5]],
            "resblock_kernel_sizes": [3],
            "upsample_initial_channel": 512,
        },
        "dim_in": 32,
        "dropout": 0.0,
        "hidden_dim": 512,
        "max_conv_dim": 32,
        "max_dur": 4,
        "multispeaker": True,
        "n_layer": 1,
        "n_mels": 80,
        "n_token": len(_PHONEMES) + 1,
        "style_dim": 128,
        "text_encoder_kernel_size": 5,
        "plbert": {
            "hidden_size": 32,
            "num_attention_heads": 2,
            "intermediate_size": 32,
            "max_position_embeddings": 512,
            "num_hidden_layers": 1,
            "dropout": 0.0,
        },
        "vocab": {phoneme: at for at, phoneme in enumerate(_PHONEMES, 1)},
    }
    mx.random.seed(1)
    _save(folder, config, Model(ModelConfig.from_dict(config)))
    (folder / "voices").mkdir()
    for at, voice in enumerate(voices):
        pack = mx.random.normal((510, 1, 256), key=mx.random.key(at))
        mx.save_safetensors(str(folder / "voices" / f"{voice}.safetensors"), {"voice": pack})
    return folder


def _save(folder: Path, config: dict[str, Any], model: Any) -> None:
    """Write a model as its checkpoints are: `sanitize` turns some weights when they are loaded."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    parameters: Any = tree_flatten(model.parameters())
    weights = {name: _stored(model, name, value) for name, value in parameters}
    mx.save_safetensors(str(folder / "model.safetensors"), weights)


def _stored(model: Any, name: str, value: mx.array) -> mx.array:
    turned = [value] if value.ndim != 3 else [value, value.transpose(0, 2, 1)]
    for stored in turned:
        loaded = model.sanitize({name: stored})
        if loaded.get(name) is not None and loaded[name].shape == value.shape:
            return stored
    raise AssertionError(f"{name} cannot be stored")


def tiny_whisper(folder: Path) -> Path:
    """Write a Whisper for English with 60 thousand random parameters, which writes random bytes."""
    from mlx_audio.stt.models.whisper.whisper import Model, ModelDimensions

    tokens = _write_whisper_tokenizer(folder)
    config = {
        "model_type": "whisper",
        "n_mels": 80,
        "n_audio_ctx": 1500,
        "n_audio_state": 16,
        "n_audio_head": 2,
        "n_audio_layer": 1,
        "n_vocab": tokens,
        "n_text_ctx": 48,
        "n_text_state": 16,
        "n_text_head": 2,
        "n_text_layer": 1,
    }
    mx.random.seed(3)
    _save(folder, config, Model(ModelDimensions.from_dict(config), mx.float32))
    return folder


def _write_whisper_tokenizer(folder: Path) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {char: token for token, char in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = token_decoders.ByteLevel()
    marks = "endoftext startoftranscript en translate transcribe startoflm startofprev nocaptions"
    special = [f"<|{name}|>" for name in (*marks.split(), "notimestamps")]
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in special])
    tokenizer.add_tokens([AddedToken(f"<|{at / 50:.2f}|>") for at in range(1501)])
    tokenizer.save(str(folder / "tokenizer.json"))
    about = {"tokenizer_class": "WhisperTokenizer", "errors": "replace", "unk_token": special[0]}
    about |= {"bos_token": special[0], "eos_token": special[0], "pad_token": special[0]}
    (folder / "tokenizer_config.json").write_text(json.dumps(about))
    kind = {"feature_extractor_type": "WhisperFeatureExtractor", "feature_size": 80}
    (folder / "preprocessor_config.json").write_text(json.dumps(kind))
    return tokenizer.get_vocab_size()


def tiny_dia(folder: Path, hub: Path) -> Path:
    """Dia, which speaks three seconds at most, and its codec in the hub's cache `hub`."""
    from mlx_audio.tts.models.dia.config import DiaConfig
    from mlx_audio.tts.models.dia.layers import DiaModel

    attention = {"gqa_query_heads": 2, "kv_heads": 2, "gqa_head_dim": 8}
    config = {
        "version": "1.0",
        "model": {
            "encoder": {"n_layer": 1, "n_embd": 16, "n_hidden": 32, "n_head": 2, "head_dim": 8},
            "decoder": {
                "n_layer": 1,
                "n_embd": 16,
                "n_hidden": 32,
                **attention,
                "cross_query_heads": 2,
                "cross_head_dim": 8,
            },
        },
        "training": {"dtype": "float32"},
        "data": {"text_length": 128, "audio_length": 128},
    }
    mx.random.seed(4)
    parsed = DiaConfig.load_dict(config)
    assert parsed is not None
    model = DiaModel(parsed)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    weights = dict(tree_flatten(model.parameters()))
    mx.save_safetensors(str(folder / "model.safetensors"), weights)
    _write_codec(hub / "models--mlx-community--descript-audio-codec-44khz")
    return folder


def _write_codec(folder: Path) -> None:
    from mlx_audio.codec.models import DAC

    shape = {"encoder_dim": 4, "encoder_rates": [2, 4, 8, 8], "decoder_dim": 32, "n_codebooks": 9}
    shape |= {"decoder_rates": [8, 8, 4, 2], "codebook_dim": 4, "sample_rate": DIA_RATE}
    _write_snapshot(folder, shape, DAC(**shape))


def _write_snapshot(folder: Path, config: dict[str, Any], model: Any) -> None:
    snapshot = folder / "snapshots" / "0"
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("0")
    (snapshot / "config.json").write_text(json.dumps(config))
    weights = dict(tree_flatten(model.parameters()))
    mx.save_safetensors(str(snapshot / "model.safetensors"), weights)


ORPHEUS_FRAME = 2048
"""Samples of seven codes."""


def tiny_orpheus(folder: Path, hub: Path) -> Path:
    """Orpheus, which says one frame whatever it reads, and its codec in the hub's cache `hub`.

    Its seven codes are tokens of text, which its codec does not have.
    """
    from mlx_audio.lm.models.llama import Model, ModelArgs

    config: dict[str, Any] = {
        "model_type": "llama",
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "intermediate_size": 16,
        "num_attention_heads": 1,
        "head_dim": 16,
        "rms_norm_eps": 1e-5,
        "vocab_size": 128_266 + 7 * 4096,
        "tie_word_embeddings": False,
    }
    parameters: Any = tree_flatten(Model(ModelArgs.from_dict(config)).parameters())
    weights = {name: mx.zeros(value.shape) for name, value in parameters}
    weights["model.norm.weight"] = mx.ones(16)
    end_of_prompt, end_of_speech = 128_260, 128_258
    said = [end_of_prompt, 128_257, 1, 2, 3, 4, 5, 6, 7, end_of_speech]
    for place, (token, after) in enumerate(pairwise(said)):
        weights["model.embed_tokens.weight"][token, place] = 1.0
        weights["lm_head.weight"][after, place] = 100.0
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    mx.save_safetensors(str(folder / "model.safetensors"), weights)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({char: at for at, char in enumerate(alphabet, 8)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.save(str(folder / "tokenizer.json"))
    kind = {"tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(kind))
    _write_snac(hub / "models--mlx-community--snac_24khz")
    return folder


def _write_snac(folder: Path) -> None:
    from mlx_audio.codec.models.snac import SNAC

    shape: dict[str, Any] = {"sampling_rate": 24_000, "encoder_dim": 4, "decoder_dim": 16}
    shape |= {"encoder_rates": [2, 4, 8, 8], "decoder_rates": [8, 8, 4, 2]}
    shape |= {"attn_window_size": None, "vq_strides": [4, 2, 1], "depthwise": False}
    _write_snapshot(folder, shape, SNAC(**shape))


def tiny_parakeet(folder: Path, durations: tuple[int, ...] = (0, 1, 2, 3, 4)) -> Path:
    """Parakeet TDT with random weights, in the form of NeMo's checkpoints: no `model_type`."""
    from mlx_audio.stt.models.parakeet import Model

    words = ["▁one", "▁two", "▁three", "er", "ly", "."]
    config: dict[str, Any] = {
        "target": "nemo.collections.asr.models.rnnt_bpe_models.EncDecRNNTBPEModel",
        "model_defaults": {"tdt_durations": list(durations)},
        "preprocessor": {
            "sample_rate": 16_000,
            "normalize": "per_feature",
            "window_size": 0.025,
            "window_stride": 0.01,
            "window": "hann",
            "features": 80,
            "n_fft": 512,
            "dither": 0.0,
        },
        "encoder": {
            "feat_in": 80,
            "n_layers": 1,
            "d_model": 32,
            "n_heads": 2,
            "ff_expansion_factor": 2,
            "subsampling_factor": 8,
            "self_attention_model": "rel_pos",
            "subsampling": "dw_striding",
            "conv_kernel_size": 9,
            "subsampling_conv_channels": 16,
            "pos_emb_max_len": 5000,
        },
        "decoder": {
            "blank_as_pad": True,
            "vocab_size": len(words),
            "prednet": {"pred_hidden": 16, "pred_rnn_layers": 1},
        },
        "joint": {
            "num_classes": len(words),
            "vocabulary": words,
            "num_extra_outputs": len(durations),
            "jointnet": {
                "joint_hidden": 16,
                "activation": "relu",
                "encoder_hidden": 32,
                "pred_hidden": 16,
            },
        },
        "decoding": {
            "model_type": "tdt",
            "durations": list(durations),
            "greedy": {"max_symbols": 10},
        },
    }
    mx.random.seed(5)
    model = Model.from_config(json.loads(json.dumps(config)))
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    parameters: Any = tree_flatten(model.parameters())
    weights = {name: mx.random.normal(value.shape) for name, value in parameters}
    weights |= {n: mx.abs(noise) for n, noise in weights.items() if n.endswith("running_var")}
    mx.save_safetensors(str(folder / "model.safetensors"), weights)
    return folder


def sine(seconds: float, rate: int = 16_000, pitch: float = 440.0) -> bytes:
    """A tone as mono float32."""
    times = np.arange(round(seconds * rate)) / rate
    return (0.5 * np.sin(2 * np.pi * pitch * times)).astype("<f4").tobytes()

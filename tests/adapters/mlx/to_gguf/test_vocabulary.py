"""Vocabularies of a folder as metadata of a GGUF."""

import json
from pathlib import Path
from typing import Any

from adapters.gguf.tokenizer import write_tokenizer
from adapters.mlx.to_gguf.vocabulary import vocabulary

DATA = Path(__file__).parents[3] / "data"


def test_vocabulary_of_gemma_4_is_restored(tmp_path: Path) -> None:
    tokens = json.loads((DATA / "sentencepiece-token-ids.json").read_text("utf-8"))
    about: dict[str, Any] = {key: tokens[key] for key in ("tokens", "token_type")}
    about |= {"model": "gemma4", "add_bos_token": True, "add_space_prefix": False}
    about |= {"bos_token_id": 1, "eos_token_id": 2, "unknown_token_id": 0}
    merges = json.loads((DATA / "gemma4-token-ids.json").read_text("utf-8"))["merges"]
    metadata = {f"tokenizer.ggml.{key}": value for key, value in about.items()}
    metadata["tokenizer.ggml.merges"] = merges
    write_tokenizer(tmp_path, metadata, 512)
    restored = vocabulary(tmp_path, {}, len(tokens["tokens"]), "gemma4")
    assert {key: restored[key] for key in metadata} == metadata


def test_control_tokens_that_take_white_space_have_the_name_for_it(tmp_path: Path) -> None:
    about = json.loads((DATA / "sentencepiece-token-ids.json").read_text("utf-8"))
    about = {key: about[key] for key in ("tokens", "scores", "token_type")}
    about["tokens"][-1], about["token_type"][-1] = "<|endoftext|>", 3
    about |= {"model": "llama", "bos_token_id": 1, "eos_token_id": 2, "unknown_token_id": 0}
    metadata = {f"tokenizer.ggml.{key}": value for key, value in about.items()}
    write_tokenizer(tmp_path, metadata, 512)
    assert "general.name" not in vocabulary(tmp_path, {}, len(about["tokens"]), "llama")
    write_tokenizer(tmp_path, metadata | {"general.name": "Phi-3"}, 512)
    assert vocabulary(tmp_path, {}, len(about["tokens"]), "llama")["general.name"] == "phi-3"

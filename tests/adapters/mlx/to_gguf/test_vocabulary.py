"""Vocabularies of a folder as metadata of a GGUF."""

import json
from pathlib import Path
from typing import Any

import pytest

from adapters.gguf.conversion import UnsupportedGGUFError
from adapters.gguf.tokenizer import build_tokenizer, write_tokenizer
from adapters.mlx.models.tokenizer import open_tokenizer
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


TEMPLATE = "{% for m in messages %}<s>{{ m.content }}</s>{% endfor %}<s>"


def write_llama(folder: Path, template: str | None, **settings: Any) -> int:
    """Write a vocabulary that transformers opens as Llama's, and return its size."""
    about = json.loads((DATA / "sentencepiece-token-ids.json").read_text("utf-8"))
    about = {key: about[key] for key in ("tokens", "scores", "token_type")}
    about["token_type"] = [1 if kind == 4 else kind for kind in about["token_type"]]
    about |= {"model": "llama", "bos_token_id": 1, "eos_token_id": 2, "unknown_token_id": 0}
    metadata = {f"tokenizer.ggml.{key}": value for key, value in about.items()}
    write_tokenizer(folder, metadata, 512)
    file = folder / "tokenizer_config.json"
    changed = {"tokenizer_class": "LlamaTokenizer", "chat_template": template, **settings}
    file.write_text(json.dumps(json.loads(file.read_text("utf-8")) | changed), "utf-8")
    return len(about["tokens"])


@pytest.mark.parametrize(
    ("template", "legacy", "prefix"),
    [(TEMPLATE, False, False), (TEMPLATE, True, True), (None, False, True)],
)
def test_spaces_after_control_tokens_are_those_of_mlx(
    tmp_path: Path, template: str | None, legacy: bool, prefix: bool
) -> None:
    rows = write_llama(tmp_path, template, legacy=legacy)
    metadata = vocabulary(tmp_path, {}, rows, "llama")
    assert metadata["tokenizer.ggml.add_space_prefix"] == prefix
    prompt = "<s>Hello</s><s>" if template else "Hello"
    own = open_tokenizer(tmp_path).encode(prompt, add_special_tokens=False)
    assert build_tokenizer(metadata).encode(prompt, add_special_tokens=False).ids == own


def test_a_space_at_the_beginning_of_chats_alone_is_refused(tmp_path: Path) -> None:
    template = "{% for m in messages %}USER: {{ m.content }}</s>{% endfor %}BOT:"
    rows = write_llama(tmp_path, template, legacy=False)
    with pytest.raises(UnsupportedGGUFError, match="would change"):
        vocabulary(tmp_path, {}, rows, "llama")

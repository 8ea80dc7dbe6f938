"""Tokenizer and template of an imported folder."""

from pathlib import Path
from typing import Any

import pytest
from fakes.tiny_decoders import decoder_gguf
from gguf import GGMLQuantizationType as GGML

from adapters.mlx.gguf import convert
from adapters.mlx.prompt.template import FolderTokenizer

TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message.role == 'system' %}{{ raise_exception('no system here') }}{% endif %}"
    "<|im_start|>{{ message.content }}{% endfor %}"
)


def tokenizer(folder: Path, **words: Any) -> FolderTokenizer:
    changed = {f"tokenizer.{key}": value for key, value in words.items()}
    source = decoder_gguf(folder, "llama", GGML.F16, changed=changed)
    convert(source, folder / "out", lambda done, total: None)
    return FolderTokenizer(folder / "out")


def test_first_token_is_that_of_the_tokenizer(tmp_path: Path) -> None:
    begins: dict[str, Any] = {"ggml.add_bos_token": True, "ggml.bos_token_id": 0}
    assert tokenizer(tmp_path, **begins).first == "<|endoftext|>"
    (tmp_path / "plain").mkdir()
    assert tokenizer(tmp_path / "plain").first == ""


def test_prompt_is_rendered_by_the_template(tmp_path: Path) -> None:
    folder = tokenizer(tmp_path, chat_template=TEMPLATE)
    prompt = folder.render([("user", "hello")])
    assert prompt == "<|im_start|><|im_start|>hello"
    assert len(folder.ids(prompt)) == 3


@pytest.mark.parametrize("template", [{}, {"chat_template": TEMPLATE}])
def test_prompt_is_none_when_the_template_rejects_it(
    tmp_path: Path, template: dict[str, str]
) -> None:
    assert tokenizer(tmp_path, **template).render([("system", "be brief")]) is None

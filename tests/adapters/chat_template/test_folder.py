"""Chat templates in the files of a model folder."""

import json
from pathlib import Path

from adapters.chat_template.folder import choose, read_templates, renderer_name, special_tokens


def write(folder: Path, name: str, content: object) -> None:
    file = folder / name
    file.parent.mkdir(exist_ok=True)
    file.write_text(content if isinstance(content, str) else json.dumps(content))


def test_folder_without_files_has_no_template(tmp_path: Path):
    assert read_templates(tmp_path) == {}
    assert special_tokens(tmp_path) == {}


def test_file_comes_before_the_configuration_of_the_tokenizer(tmp_path: Path):
    write(tmp_path, "tokenizer_config.json", {"chat_template": "old"})
    assert read_templates(tmp_path) == {"default": "old"}
    write(tmp_path, "chat_template.jinja", "new")
    assert read_templates(tmp_path) == {"default": "new"}


def test_template_of_a_processor_is_read(tmp_path: Path):
    write(tmp_path, "chat_template.json", {"chat_template": "of a processor"})
    assert read_templates(tmp_path) == {"default": "of a processor"}


def test_named_templates_are_read_from_the_list_and_from_their_folder(tmp_path: Path):
    named = [{"name": "default", "template": "plain"}, {"name": "rag", "template": "documents"}]
    write(tmp_path, "tokenizer_config.json", {"chat_template": named})
    write(tmp_path, "additional_chat_templates/tool_use.jinja", "tools")
    templates = read_templates(tmp_path)
    assert templates == {"default": "plain", "rag": "documents", "tool_use": "tools"}
    assert choose(templates, tools=True) == "tools"
    assert choose(templates, tools=False) == "plain"


def test_malformed_files_have_no_template(tmp_path: Path):
    write(tmp_path, "tokenizer_config.json", "{")
    write(tmp_path, "chat_template.json", ["a list"])
    assert read_templates(tmp_path) == {}


def test_special_tokens_may_be_objects(tmp_path: Path):
    tokens = {"bos_token": {"content": "<s>"}, "eos_token": "</s>", "add_bos_token": True}
    write(tmp_path, "tokenizer_config.json", tokens)
    assert special_tokens(tmp_path) == {"bos_token": "<s>", "eos_token": "</s>"}


def test_renderer_is_a_name_only(tmp_path: Path):
    write(tmp_path, "tokenizer_config.json", {"chat_template_type": "deepseek_v32"})
    assert renderer_name(tmp_path) == "deepseek_v32"
    write(tmp_path, "tokenizer_config.json", {"chat_template_type": "../evil"})
    assert renderer_name(tmp_path) is None

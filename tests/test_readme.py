"""The README has one screen, and the parameter table is generated from the code."""

from msgspec.structs import fields

from proxy.endpoints.openai.chat_completions.request import ChatCompletionRequest
from tools.parameter_table import ASKING, PAGE, ROOT, cells, with_table


def test_the_readme_has_one_screen() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(readme.splitlines()) <= 100


def test_the_parameter_table_is_what_the_code_does() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page == with_table(page), "run `uv run python tools/parameter_table.py`"


def test_the_table_has_every_field() -> None:
    names = {field.name for field in fields(ChatCompletionRequest)}
    assert {name.partition(":")[0] for name in ASKING} == names


def test_the_table_distinguishes_the_backends() -> None:
    assert cells("logit_bias") == ["yes", "400"]
    assert cells("temperature") == ["yes", "yes"]
    assert cells("user") == ["no effect", "no effect"]
    assert cells("options") == ["400", "yes"]
    assert cells("mirostat") == ["400", "400"]

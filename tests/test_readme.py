from msgspec.structs import fields
from parameter_table import ASKING, ROOT, cells, with_table

from proxy.endpoints.chat_completions.request import ChatCompletionRequest


def test_the_readmes_table_is_what_the_code_does() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert readme == with_table(readme), "run `uv run python tests/parameter_table.py`"


def test_the_table_has_every_field() -> None:
    names = {field.name for field in fields(ChatCompletionRequest)}
    assert {name.partition(":")[0] for name in ASKING} == names


def test_the_table_tells_the_backends_apart() -> None:
    assert cells("logit_bias") == ["yes", "400"]
    assert cells("temperature") == ["yes", "yes"]
    assert cells("user") == ["no effect", "no effect"]
    assert cells("options") == ["400", "yes"]

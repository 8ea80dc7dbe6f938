import re
import subprocess
import sys
from pathlib import Path

import pytest
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


def test_the_examples_without_a_server_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The model that comes along is offered where there is no other.
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    examples = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    (one,) = [each for each in examples if "import open_backend\n" in each]
    (both,) = [each for each in examples if "import open_router\n" in each]
    # In one process: to import mlx takes longer than to answer.
    command = [sys.executable, "-c", f"{one}\n{both}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Paris") == 2

"""Capabilities of a model, detected in the bytes of its tokenizer's files."""

import json
from pathlib import Path
from typing import Any

import pytest

from adapters.mlx.models.capabilities import capabilities
from adapters.mlx.models.fim import KNOWN
from adapters.mlx.output.reasoning import MARKERS

WAYS = [way.markers for way in KNOWN]


def write_vocabulary(folder: Path, tokens: tuple[str, ...], *, escaped: bool = False) -> None:
    words = ["<", "[", "<p", "[[", "a<b", 'say "<', *tokens, "<", "end"]
    text = json.dumps(
        {"model": {"vocab": {w: at for at, w in enumerate(words)}}, "merges": [["a"]]},
        ensure_ascii=escaped,
    )
    (folder / "tokenizer.json").write_text(text, encoding="utf-8")


def detect(folder: Path, config: dict[str, Any] | None = None) -> frozenset[str]:
    return frozenset(capabilities("org/model", folder, config or {"model_type": "llama"}))


@pytest.mark.parametrize("escaped", [False, True])
@pytest.mark.parametrize("markers", WAYS, ids=lambda markers: markers[0])
def test_model_has_fim_when_all_markers_are_tokens(
    tmp_path: Path, markers: tuple[str, ...], escaped: bool
):
    write_vocabulary(tmp_path, markers, escaped=escaped)
    assert "fim" in detect(tmp_path)


@pytest.mark.parametrize("markers", WAYS, ids=lambda markers: markers[0])
def test_model_lacks_fim_when_a_marker_is_missing_or_part_of_a_word(
    tmp_path: Path, markers: tuple[str, ...]
):
    write_vocabulary(tmp_path, (*markers[:-1], f"{markers[-1]}s", f"s{markers[-1]}"))
    assert "fim" not in detect(tmp_path)


@pytest.mark.parametrize("pair", MARKERS, ids=lambda pair: pair[0])
def test_model_has_reasoning_when_both_markers_are_tokens(tmp_path: Path, pair: tuple[str, str]):
    write_vocabulary(tmp_path, pair)
    assert "reasoning" in detect(tmp_path)
    write_vocabulary(tmp_path, pair[:1])
    assert "reasoning" not in detect(tmp_path)


def test_model_without_files_has_no_capabilities(tmp_path: Path):
    assert detect(tmp_path) == frozenset()

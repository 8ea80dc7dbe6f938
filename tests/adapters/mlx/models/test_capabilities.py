"""Capabilities of a model, detected in the bytes of its tokenizer's files."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from fakes.tiny_model import TOOL_TEMPLATE, config_for, write_tiny_model

from adapters.chat_template.thought_markers import MARKERS
from adapters.mlx.models.capabilities import (
    BackgroundDescriptions,
    TemplateDescription,
    capabilities,
    describe_template,
)
from adapters.mlx.models.catalog import read_catalog
from adapters.mlx.models.fim import KNOWN

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


COUNT = """
import sys
from adapters.chat_template.confined import RENDERERS
from adapters.config import MLXConfig
from adapters.mlx.models.catalog import find_models
found = find_models(MLXConfig(folders=(sys.argv[1],), huggingface_cache=False, embedded="never"))
print(len(found), RENDERERS.renderings, sorted(found["one"].model.capabilities))
"""


def count_renderings(folder: Path, state: Path) -> tuple[int, int, str]:
    """List the folder in a process of its own: the number of models, of renderings, and what the
    first can do."""
    done = subprocess.run(
        [sys.executable, "-c", COUNT, str(folder)],
        env={**os.environ, "XDG_STATE_HOME": str(state)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    models, renderings, can = done.stdout.split(" ", 2)
    return int(models), int(renderings), can.strip()


@pytest.mark.process
def test_template_is_rendered_once_whatever_folders_and_starts_have_it(tmp_path: Path):
    state, folders = tmp_path / "state", tmp_path / "models"
    write_tiny_model(folders / "one", template=TOOL_TEMPLATE)
    _, alone, can = count_renderings(folders, state)
    assert alone > 0
    assert can == "['chat', 'reasoning', 'tools']"
    shutil.copytree(folders / "one", folders / "two")
    shutil.copytree(folders / "one", folders / "three")
    assert count_renderings(folders, state) == (3, 0, can)
    (kept,) = (state / "tandem" / "templates").iterdir()
    kept.write_text('{"edition": "another"}')
    assert count_renderings(folders, state) == (3, alone, can)


def test_template_that_takes_long_delays_no_other_description(tmp_path: Path):
    for name in ("odd", "fine"):
        write_tiny_model(tmp_path / name, template=TOOL_TEMPLATE)
    held = Event()

    def describe(name: str, path: Path) -> TemplateDescription:
        if name == "odd":
            held.wait()
        return describe_template(name, path)

    descriptions = BackgroundDescriptions(describe)
    config = config_for(tmp_path)
    assert not read_catalog(config, descriptions.known).is_complete
    full = descriptions.complete("fine", tmp_path / "fine")
    catalog = read_catalog(config, descriptions.known)
    assert (set(catalog.folders), catalog.is_complete) == ({"odd", "fine"}, False)
    fine, odd = catalog.folders["fine"].model, catalog.folders["odd"].model
    assert fine.capabilities == full.capabilities == {"chat", "tools", "reasoning"}
    assert "suffix" in fine.lacks
    assert "suffix" not in odd.lacks
    held.set()
    catalog = read_catalog(config, descriptions.complete)
    assert catalog.is_complete
    assert catalog.folders["odd"].model.lacks == fine.lacks
    descriptions.close()

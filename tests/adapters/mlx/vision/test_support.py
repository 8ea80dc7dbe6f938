"""Vision models among the folders, with and without the extra; nothing is loaded."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from fakes.pictures import data_url, photo
from fakes.scripted_backend import openai_client
from fakes.tiny_model import config_for, write_tokenizer
from openai import BadRequestError

from adapters.config import MLXModel
from adapters.mlx.backend import MLXBackend
from adapters.mlx.models.catalog import read_catalog
from adapters.mlx.vision.support import EXTRA, sight_of

PARTS = (
    "{% for message in messages %}{% for part in message.content %}"
    "{% if part.type == 'image' %}<image>{% else %}{{ part.text }}{% endif %}{% endfor %}"
    "{% endfor %}"
)
ENCODER = "vision_tower.encoder.layers.0.weight"


def write_folder(folder: Path, kind: str, *weights: str, processor: bool = True) -> Path:
    """A folder with the files that are read to tell what it is, and no more."""
    folder.mkdir()
    config = {"model_type": kind, "vision_config": {}, "text_config": {}}
    (folder / "config.json").write_text(json.dumps(config))
    if processor:
        (folder / "preprocessor_config.json").write_text("{}")
    mx.save_safetensors(
        str(folder / "model.safetensors"), {name: mx.zeros((1,)) for name in weights}
    )
    write_tokenizer(folder, PARTS)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_folder(tmp_path / "idefics", "idefics3", ENCODER)
    write_folder(tmp_path / "gemma", "gemma3", ENCODER)
    return tmp_path


@pytest.fixture
def without_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlx_vlm", None)


def test_vision_models_say_so(folder: Path) -> None:
    models = {name: found.model for name, found in read_catalog(config_for(folder)).folders.items()}
    assert {name: model.capabilities for name, model in models.items()} == {
        "idefics": {"chat", "vision"},
        "gemma": {"chat", "vision"},
    }
    assert all("images" not in model.lacks for model in models.values())


@pytest.mark.usefixtures("without_extra")
def test_models_that_need_the_extra_are_listed_with_it(folder: Path) -> None:
    catalog = read_catalog(config_for(folder))
    # mlx-lm runs the words of one, and does not know the other.
    gemma = catalog.folders["gemma"].model
    assert gemma.capabilities == {"chat"}
    assert gemma.extras == {"images": EXTRA}
    assert catalog.unusable == {
        "idefics": "it needs mlx-vlm, which pip install 'tandem-proxy[vision]' installs"
    }


@pytest.mark.parametrize(
    ("kind", "weights", "processor"),
    [
        ("gemma3", ("language_model.model.norm.weight",), True),
        ("gemma3", (ENCODER,), False),
        ("mllama", (ENCODER,), True),
        ("../../etc", (ENCODER,), True),
    ],
    ids=["encoder left out", "no processor", "states beside caches", "no name"],
)
def test_others_are_no_vision_models(
    tmp_path: Path, kind: str, weights: tuple[str, ...], processor: bool
) -> None:
    path = write_folder(tmp_path / "model", kind, *weights, processor=processor)
    assert sight_of(path, json.loads((path / "config.json").read_text())) == "none"


def test_code_in_the_folder_is_not_run(tmp_path: Path) -> None:
    path = write_folder(tmp_path / "model", "llava", ENCODER)
    (path / "evil.py").write_text("raise SystemExit")
    config = {**json.loads((path / "config.json").read_text()), "model_file": "evil.py"}
    assert sight_of(path, config) == "none"


@pytest.mark.usefixtures("without_extra")
@pytest.mark.parametrize("model", ["idefics", "gemma"])
async def test_request_with_an_image_names_the_extra(folder: Path, model: str) -> None:
    content: list[Any] = [
        {"type": "text", "text": "?"},
        {"type": "image_url", "image_url": {"url": data_url(photo("png"))}},
    ]
    backend = MLXBackend(config_for(folder))
    async with openai_client(backend) as client:
        with pytest.raises(BadRequestError, match=re.escape("'tandem-proxy[vision]'")):
            await client.chat.completions.create(
                model=model, messages=[{"role": "user", "content": content}]
            )


def test_model_with_adapters_takes_no_images(folder: Path) -> None:
    lora = folder / "lora"
    lora.mkdir()
    for name in ("adapter_config.json", "adapters.safetensors"):
        (lora / name).write_bytes(b"{}")
    config = config_for(folder, models={"tuned": MLXModel(base="gemma", lora=str(lora))})
    tuned = read_catalog(config).folders["tuned"].model
    assert tuned.capabilities == {"chat"}
    assert "images" in tuned.lacks

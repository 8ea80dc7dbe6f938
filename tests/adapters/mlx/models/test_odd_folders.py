"""Folders with odd files: each is left out with a reason, and hides no other model."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from fakes.tiny_model import NO_FOLDER, config_for, write_tiny_model
from msgspec.structs import replace

from adapters.config import MLXConfig, MLXModel
from adapters.errors import GenerationError
from adapters.mlx.backend import MLXBackend
from adapters.mlx.models.capabilities import TemplateDescription
from adapters.mlx.models.catalog import read_catalog

LOOP = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("tiny") / "tiny")


@pytest.fixture(autouse=True)
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def config(**changed: Any) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        known = json.loads((folder / "config.json").read_bytes())
        (folder / "config.json").write_text(json.dumps(known | changed))

    return change


def content(name: str, data: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(data)


def dangling_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to("../../blobs/gone")


def pipe(name: str) -> Callable[[Path], object]:
    def replace(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)

    return replace


NESTED = b'{"a":' * 100_000 + b"1" + b"}" * 100_000


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (dangling_weights, "model.safetensors is a link without its target"),
        (config(quantization="4bit"), "'quantization' in its config.json is not an object"),
        (config(quantization=[4, 64]), "'quantization' in its config.json is not an object"),
        (config(quantization_config=4), "'quantization_config' in its config.json"),
        (config(text_config="llama"), "'text_config' in its config.json is not an object"),
        (config(model_type=["llama"]), "names no model_type"),
        (config(model_type={"name": "llama"}), "names no model_type"),
        (config(architectures=5), "its files cannot be interpreted"),
        (config(num_hidden_layers=1_000_000_000), "'num_hidden_layers' in its config.json is 1000"),
        (config(text_config={"n_layer": 10**30}), "'n_layer' in its config.json"),
        (config(num_local_experts=-(10**9)), "'num_local_experts' in its config.json"),
        (config(num_hidden_layers=float("nan")), "'num_hidden_layers' in its config.json is nan"),
        (content("config.json", NESTED), "its config.json cannot be read"),
        (content("config.json", b" " * 17_000_000), "its config.json cannot be read"),
        (content("tokenizer_config.json", NESTED), None),
        (content("chat_template.jinja", b"\xff\xfe"), None),
        (pipe("tokenizer.json"), "tokenizer.json is not a regular file"),
        (pipe("chat_template.jinja"), "chat_template.jinja is not a regular file"),
        (
            content("model-00001-of-99999999999.safetensors", b""),
            "-of-99999999999.safetensors is missing",
        ),
        (content("model.safetensors", b"\xff" * 64), None),
        (content("conversion.json", NESTED), None),
    ],
)
def test_odd_folder_is_left_out_and_others_stay(
    tmp_path: Path, tiny: Path, damage: Callable[[Path], object], reason: str | None
) -> None:
    for name in ("before", "odd", "zebra"):
        shutil.copytree(tiny, tmp_path / "models" / name)
    damage(tmp_path / "models" / "odd")
    found = read_catalog(config_for(tmp_path / "models"))
    assert {"before", "zebra"} <= set(found.folders)
    if reason is not None:
        assert set(found.folders) == {"before", "zebra"}
        assert reason in found.unusable["odd"]
        assert str(tmp_path) not in found.unusable["odd"]


@pytest.mark.parametrize("reference", [b"\xff\xfe", b"a\0b", b"../../..", b"x" * 5000])
def test_odd_reference_in_the_hub_hides_no_other_model(
    tmp_path: Path, tiny: Path, hub: Path, reference: bytes
) -> None:
    for name in ("odd", "fine"):
        shutil.copytree(tiny, hub / f"models--org--{name}" / "snapshots" / "aaa")
    (hub / "models--org--odd" / "refs").mkdir()
    (hub / "models--org--odd" / "refs" / "main").write_bytes(reference)
    found = read_catalog(MLXConfig(embedded="never", cache_folder=NO_FOLDER))
    assert "org/fine" in found.folders


@pytest.mark.process
def test_template_that_takes_all_memory_hides_no_other_model(tmp_path: Path, tiny: Path) -> None:
    for name in ("odd", "zebra"):
        shutil.copytree(tiny, tmp_path / name)
    (tmp_path / "odd" / "chat_template.jinja").write_text("{{ 'a' * 10**12 }}")
    found = read_catalog(config_for(tmp_path))
    assert set(found.folders) == {"zebra"}
    assert found.unusable["odd"] == "its chat template needs more than 1 GB of memory to render"


@pytest.mark.long
def test_template_that_loops_is_tried_once_and_hides_no_other_model(
    tmp_path: Path, tiny: Path
) -> None:
    for name in ("odd", "zebra"):
        shutil.copytree(tiny, tmp_path / name)
    (tmp_path / "odd" / "chat_template.jinja").write_text(LOOP)
    for _ in range(20):  # Each would take seconds if its failure were not remembered.
        found = read_catalog(config_for(tmp_path))
        assert set(found.folders) == {"zebra"}
        assert found.unusable["odd"].startswith("its chat template takes longer than")


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"temperature": "hot"}, "Expected `float | null`, got `str` - at `$.temperature`"),
        ({"temperature": -1}, "`$.temperature`"),
        ({"top_p": [0.9]}, "`$.top_p`"),
        ({"top_p": 7}, "`$.top_p`"),
        ({"top_k": 10**20}, "`$.top_k`"),
        ({"top_k": 2.5}, "`$.top_k`"),
        ({"eos_token_id": "</s>"}, "`$.eos_token_id`"),
        ([1], "Expected `object`, got `array`"),
    ],
)
async def test_wrong_recommendation_is_an_error_of_the_load(
    tmp_path: Path, tiny: Path, settings: Any, reason: str
) -> None:
    shutil.copytree(tiny, tmp_path / "odd")
    (tmp_path / "odd" / "generation_config.json").write_text(json.dumps(settings))
    backend = MLXBackend(config_for(tmp_path))
    try:
        with pytest.raises(GenerationError) as caught:
            await backend.load("odd")
    finally:
        await backend.aclose()
    assert "generation_config.json is wrong" in caught.value.message
    assert reason in caught.value.message
    assert caught.value.lasting


@pytest.mark.parametrize(
    "changed",
    [
        {"num_hidden_layers": -1},
        {"num_hidden_layers": "2"},
        {"hidden_size": 10**12},
        {"hidden_size": 0},
        {"vocab_size": 10**12},
        {"num_attention_heads": 0},
        {"num_key_value_heads": 10**9},
        {"intermediate_size": None},
        {"rms_norm_eps": "small"},
        {"rope_theta": []},
        {"rope_scaling": {"type": ["linear"], "factor": "two"}},
        {"eos_token_id": "x"},
    ],
)
async def test_absurd_setting_is_an_error_of_the_load(
    tmp_path: Path, tiny: Path, changed: dict[str, Any]
) -> None:
    shutil.copytree(tiny, tmp_path / "odd")
    config(**changed)(tmp_path / "odd")
    backend = MLXBackend(config_for(tmp_path))
    try:
        with pytest.raises(GenerationError) as caught:
            await backend.load("odd")
    finally:
        await backend.aclose()
    assert caught.value.lasting
    assert caught.value.message.startswith("The model 'odd' could not be loaded")


LORA = "it is a LoRA adapter, not a model"


async def test_tokenizer_that_is_a_program_is_not_run(tmp_path: Path, tiny: Path) -> None:
    shutil.copytree(tiny, tmp_path / "odd")
    settings = tmp_path / "odd" / "tokenizer_config.json"
    own = {"tokenizer_class": "OwnTokenizer", "auto_map": {"AutoTokenizer": ["own.Own", None]}}
    settings.write_text(json.dumps(json.loads(settings.read_text()) | own))
    (tmp_path / "odd" / "own.py").write_text("raise SystemExit('was run')")
    backend = MLXBackend(config_for(tmp_path))
    try:
        with pytest.raises(GenerationError, match="is a program in its folder") as caught:
            await backend.load("odd")
    finally:
        await backend.aclose()
    assert caught.value.lasting


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        (("adapter_config.json", "adapters.safetensors"), LORA),
        (("adapter_config.json", "adapter_model.safetensors"), LORA),
        (("model-Q4_K_M.gguf",), "its weights are in model-Q4_K_M.gguf: `tandem import`"),
        (("model.safetensors", "tokenizer.json"), "it has no config.json"),
        (("notes.txt",), None),
    ],
)
@pytest.mark.parametrize("name", ["it", "org/it"])
def test_weights_without_a_config_have_a_reason(
    tmp_path: Path, tiny: Path, files: tuple[str, ...], reason: str | None, name: str
) -> None:
    shutil.copytree(tiny, tmp_path / "org" / "fine")
    (tmp_path / name).mkdir(parents=True)
    for file in files:
        (tmp_path / name / file).write_bytes(b"")
    found = read_catalog(config_for(tmp_path))
    assert set(found.folders) == {"org/fine"}
    assert reason is None or reason in found.unusable[name]
    assert set(found.unusable) == ({name} if reason is not None else set())


def test_download_without_a_snapshot_has_a_reason(tmp_path: Path, hub: Path) -> None:
    for name, file in (("begun", "blobs/abc.incomplete"), ("asked-for", "refs/main")):
        path = hub / f"models--org--{name}" / file
        path.parent.mkdir(parents=True)
        path.write_bytes(b"abc")
    found = read_catalog(MLXConfig(embedded="never", cache_folder=NO_FOLDER))
    assert found.unusable == {"org/begun": "its download is not complete"}


@pytest.mark.parametrize(
    "name", ["new\nline", b"not-\xff-UTF-8".decode(errors="surrogateescape"), "x" * 201]
)
def test_folder_that_no_request_can_name_is_not_listed(
    tmp_path: Path, tiny: Path, name: str
) -> None:
    shutil.copytree(tiny, tmp_path / name)
    found = read_catalog(config_for(tmp_path))
    assert not found.folders
    [(shown, reason)] = found.unusable.items()
    assert shown.isprintable()
    assert "its folder's name is not 1 to 200 printable characters" in reason


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json", "tokenizer_config.json"])
def test_file_without_permission_is_named(
    tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    shutil.copytree(tiny, tmp_path / "odd")
    # The suite may run as root, which may read every file.
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != file)
    found = read_catalog(config_for(tmp_path))
    assert found.unusable == {"odd": f"{file} cannot be read: Permission denied"}


def test_templates_that_cannot_be_rendered_now_have_their_reason(
    tmp_path: Path, tiny: Path
) -> None:
    def describe(name: str, path: Path) -> TemplateDescription:
        raise GenerationError("The process that renders chat templates cannot be started: busy.")

    shutil.copytree(tiny, tmp_path / "it")
    found = read_catalog(config_for(tmp_path), describe)
    assert found.unusable["it"] == (
        "its chat template cannot be rendered: "
        "The process that renders chat templates cannot be started: busy"
    )


def test_link_to_a_place_that_cannot_be_read_hides_no_other_model(tiny: Path, tmp_path: Path):
    shutil.copytree(tiny, tmp_path / "good")
    (tmp_path / "odd").symlink_to("x" * 300)
    assert set(read_catalog(config_for(tmp_path)).folders) == {"good"}


def test_lora_folder_that_cannot_be_read_hides_no_other_model(tiny: Path, tmp_path: Path):
    shutil.copytree(tiny, tmp_path / "good")
    mine = MLXModel(base="good", lora=str(tmp_path / ("x" * 300)))
    found = read_catalog(replace(config_for(tmp_path), models={"mine": mine}))
    assert set(found.folders) == {"good"}
    assert found.unusable["mine"].startswith("its LoRA folder lacks")


def test_cache_folder_that_cannot_be_read_hides_no_model(tiny: Path, tmp_path: Path):
    shutil.copytree(tiny, tmp_path / "good")
    odd = replace(config_for(tmp_path), cache_folder="/" + "x" * 300, embedded="always")
    assert "good" in read_catalog(odd).folders


@pytest.mark.parametrize("weights", ["model.layers.0.mlp.up_proj.weight", "model.norm.weight"])
async def test_weights_without_their_scale_are_named(
    tmp_path: Path, tiny: Path, weights: str
) -> None:
    """MLX reads `F8_E4M3` as integers of 8 bits, which would be taken for the weights."""
    shutil.copytree(tiny, tmp_path / "odd")
    arrays: Any = mx.load(str(tiny / "model.safetensors"))
    arrays[weights] = mx.ones(arrays[weights].shape, dtype=mx.uint8)
    mx.save_safetensors(str(tmp_path / "odd" / "model.safetensors"), arrays)
    backend = MLXBackend(config_for(tmp_path))
    try:
        with pytest.raises(GenerationError, match=f"'{weights}' have 8-bit numbers") as caught:
            await backend.load("odd")
    finally:
        await backend.aclose()
    assert caught.value.lasting

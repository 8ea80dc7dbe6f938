"""Descriptions of MLX models, and the models that can be deleted."""

import shutil
from pathlib import Path

import pytest
from fakes.tiny_model import write_tiny_model

from adapters.config import MLXConfig, MLXModel
from adapters.errors import InvalidRequestError
from adapters.mlx.models.catalog import find_model, find_models, read_config
from adapters.mlx.models.description import describe, to_parameter_size
from adapters.mlx.models.removal import remove, to_removable


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("tiny") / "tiny")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def config_of(tmp_path: Path, **fields: object) -> MLXConfig:
    settings = {"embedded": "never", "cache_folder": str(tmp_path / "cache"), **fields}
    return MLXConfig(**settings)  # pyright: ignore[reportArgumentType]


def put_in_hub(hub: Path, tiny: Path, name: str) -> Path:
    """Store a model as the hub's client does: files by digest, and a revision of links to them."""
    repository = hub / f"models--{name.replace('/', '--')}"
    snapshot = repository / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (repository / "blobs").mkdir()
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("a" * 40)
    for file in tiny.iterdir():
        shutil.copy(file, repository / "blobs" / file.name)
        (snapshot / file.name).symlink_to(Path("../../blobs") / file.name)
    return repository


def test_listing_has_architecture_and_size(tmp_path: Path, hub: Path, tiny: Path) -> None:
    shutil.copytree(tiny, tmp_path / "models" / "mine")
    config = config_of(tmp_path, folders=(str(tmp_path / "models"),))
    details = find_models(config)["mine"].model.details
    assert (details.format, details.family, details.families) == (
        "safetensors",
        "llama",
        ("llama",),
    )
    assert details.parameter_size.endswith(("K", "M"))


def test_description_has_facts_template_and_tensors(tiny: Path) -> None:
    config = read_config(tiny)
    assert config is not None
    told = describe("org/tiny", tiny, config, verbose=True)
    assert told.facts["general.architecture"] == "llama"
    assert told.facts["general.basename"] == "tiny"
    assert told.facts["llama.block_count"] == config["num_hidden_layers"]
    sizes = {tensor.name: tensor.shape for tensor in told.tensors}
    assert sizes["model.embed_tokens.weight"] == (config["vocab_size"], config["hidden_size"])
    assert describe("org/tiny", tiny, config, verbose=False).tensors == ()


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (None, ""),
        (900, "900"),
        (134_515_008, "134.52M"),
        (7_615_616_512, "7.6B"),
        (4_000_000_000, "4B"),
        (22_570_000, "22.57M"),
    ],
)
def test_number_of_parameters_is_abbreviated(count: int | None, text: str) -> None:
    assert to_parameter_size(count) == text


def test_downloaded_model_is_removed_with_all_its_files(
    tmp_path: Path, hub: Path, tiny: Path
) -> None:
    repository, other = put_in_hub(hub, tiny, "org/one"), put_in_hub(hub, tiny, "org/two")
    config = config_of(tmp_path)
    remove(to_removable(find_model(config, "org/one"), config), config)
    assert not repository.exists()
    assert other.exists()
    assert list(find_models(config)) == ["org/two"]


def test_imported_model_is_removed(tmp_path: Path, hub: Path, tiny: Path) -> None:
    folder = tmp_path / "cache" / "imported" / "mine"
    shutil.copytree(tiny, folder)
    config = config_of(tmp_path)
    remove(to_removable(find_model(config, "mine"), config), config)
    assert not folder.exists()


def test_models_of_the_user_stay(tmp_path: Path, hub: Path, tiny: Path) -> None:
    shutil.copytree(tiny, tmp_path / "models" / "mine")
    parts = {"made": MLXModel(base="mine")}
    config = config_of(tmp_path, folders=(str(tmp_path / "models"),), models=parts)
    for name in ("mine", "made"):
        with pytest.raises(InvalidRequestError, match=f"'{name}' cannot be deleted"):
            to_removable(find_model(config, name), config)


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({}, ""),
        ({"LICENSE.txt": "As you like.", "README.md": "---\nlicense: mit\n---\n"}, "As you like."),
        ({"README.md": "---\ntags:\n- mlx\nlicense: apache-2.0\n---\nA model."}, "apache-2.0"),
        ({"README.md": '---\nlicense: "llama3.2"\n---\n'}, "llama3.2"),
        ({"README.md": "---\ntags: x\n---\nlicense: in words"}, ""),
        ({"README.md": "license: no head"}, ""),
    ],
)
def test_license_is_a_file_of_the_model_or_its_name_in_the_card(
    tmp_path: Path, files: dict[str, str], told: str
):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert describe("m", tmp_path, {}, verbose=False).license == told

"""Origins of folders: recorded, and ignored once the weights have changed."""

import json
from pathlib import Path

import pytest

from adapters.gguf.conversion import TensorReport
from adapters.mlx.models.provenance import Origin, exports, note_export, origin_of


def tensor(error: float) -> TensorReport:
    return TensorReport("t", "Q6_K", "float16", error)


@pytest.mark.parametrize(
    ("content", "origin"),
    [
        ({"origin": "sha256:1", "tensors": [{"relative_l2": 0.0}]}, Origin("sha256:1", True)),
        (
            {"origin": "sha256:1", "tensors": [{"relative_l2": 0.0}, {"relative_l2": 1e-9}]},
            Origin("sha256:1", False),
        ),
        ({"origin": "sha256:1"}, Origin("sha256:1", False)),
        ({"origin": 3}, None),
        ([], None),
    ],
)
def test_origin_is_exact_when_no_tensor_was_rounded(
    tmp_path: Path, content: object, origin: Origin | None
):
    (tmp_path / "conversion.json").write_text(json.dumps(content))
    assert origin_of(tmp_path) == origin


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = tmp_path / "model"
    model.mkdir()
    (model / "model.safetensors").write_bytes(b"weights")
    return model


@pytest.mark.parametrize(("errors", "exact"), [((0.0, 0.0), True), ((0.0, 1e-4), False)])
def test_export_is_found_by_its_folder(
    tmp_path: Path, folder: Path, errors: tuple[float, ...], exact: bool
):
    note_export(folder, tmp_path / "cache", "sha256:ab", [tensor(error) for error in errors])
    assert exports(tmp_path / "cache") == {folder: Origin("sha256:ab", exact)}
    assert [file.name for file in folder.iterdir()] == ["model.safetensors"]


def test_export_is_ignored_when_the_weights_have_changed(tmp_path: Path, folder: Path):
    note_export(folder, tmp_path / "cache", "sha256:ab", [tensor(0.0)])
    (folder / "model.safetensors").write_bytes(b"other weights")
    assert exports(tmp_path / "cache") == {}


@pytest.mark.parametrize("broken", [b"", b"{", b'{"folder": 1}'])
def test_malformed_record_is_ignored(tmp_path: Path, folder: Path, broken: bytes):
    note_export(folder, tmp_path, "sha256:ab", [tensor(0.0)])
    (tmp_path / "exported" / "cd.json").write_bytes(broken)
    assert list(exports(tmp_path)) == [folder]

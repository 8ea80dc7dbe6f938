"""Find the file of a model in a store with Ollama's layout."""

import json
from pathlib import Path

import pytest

from adapters.conversion.ollama_store import find_stored, store_folders
from adapters.errors import InvalidRequestError, ModelNotFoundError
from adapters.recommended_sampling import RecommendedSampling

DIGEST = "sha256:" + "5a" * 32
KIND = "application/vnd.ollama.image."


def store(root: Path, place: str, *layers: tuple[str, str]) -> Path:
    manifest = root / "manifests" / place
    manifest.parent.mkdir(parents=True)
    listed = [{"mediaType": KIND + kind, "digest": digest, "size": 1} for kind, digest in layers]
    manifest.write_text(json.dumps({"schemaVersion": 2, "config": {}, "layers": listed}))
    (root / "blobs").mkdir(exist_ok=True)
    (root / "blobs" / DIGEST.replace(":", "-")).write_bytes(b"GGUF")
    return root


LAYERS = (("model", DIGEST), ("template", "sha256:" + "00" * 32))


@pytest.mark.parametrize(
    ("name", "place", "listed"),
    [
        ("tiny:1b", "registry.ollama.ai/library/tiny/1b", "tiny:1b"),
        ("tiny", "registry.ollama.ai/library/tiny/latest", "tiny:latest"),
        ("ada/tiny:1b", "registry.ollama.ai/ada/tiny/1b", "ada/tiny:1b"),
        ("hf.co/ada/tiny-GGUF:Q4_K_M", "hf.co/ada/tiny-GGUF/Q4_K_M", "hf.co/ada/tiny-GGUF:Q4_K_M"),
    ],
)
def test_find_stored_follows_the_manifest_to_the_blob(
    tmp_path: Path, name: str, place: str, listed: str
):
    root = store(tmp_path, place, *LAYERS)
    stored = find_stored(name, (tmp_path / "absent", root))
    assert stored.name == listed
    assert stored.weights == root / "blobs" / f"sha256-{'5a' * 32}"


@pytest.mark.parametrize(
    "name", ["tiny:2b", "", "..", "../../tiny", "tiny:../1b", "a/../tiny:1b", "tiny:1b/", "/tiny"]
)
def test_find_stored_raises_when_there_is_no_such_model(tmp_path: Path, name: str):
    root = store(tmp_path, "registry.ollama.ai/library/tiny/1b", *LAYERS)
    with pytest.raises(ModelNotFoundError):
        find_stored(name, (root,))


def test_find_stored_raises_when_the_file_is_missing(tmp_path: Path):
    root = store(tmp_path, "registry.ollama.ai/library/tiny/1b", *LAYERS)
    (root / "blobs" / f"sha256-{'5a' * 32}").unlink()
    with pytest.raises(ModelNotFoundError, match="its file is missing"):
        find_stored("tiny:1b", (root,))


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ((*LAYERS, ("adapter", DIGEST)), "LoRA"),
        ((*LAYERS, ("projector", DIGEST)), "image encoder"),
        ((("tensor", DIGEST), ("tensor", DIGEST)), "MLX runner"),
        ((("model", DIGEST), ("model", DIGEST)), "2 files"),
        ((("template", DIGEST),), "0 files"),
        ((("model", "sha256:../../secret"),), "malformed"),
    ],
)
def test_find_stored_raises_when_the_model_is_not_one_gguf(
    tmp_path: Path, layers: tuple[tuple[str, str], ...], message: str
):
    root = store(tmp_path, "registry.ollama.ai/library/tiny/1b", *layers)
    with pytest.raises(InvalidRequestError, match=message):
        find_stored("tiny:1b", (root,))


def parameters(root: Path, text: str) -> Path:
    digest = "sha256:" + "7b" * 32
    store(root, "registry.ollama.ai/library/tiny/1b", *LAYERS, ("params", digest))
    (root / "blobs" / digest.replace(":", "-")).write_text(text)
    return root


@pytest.mark.parametrize(
    ("text", "sampling"),
    [
        (
            '{"stop": ["</s>"], "temperature": 0.7, "top_k": 20, "num_ctx": 4096}',
            RecommendedSampling(temperature=0.7, top_k=20),
        ),
        ('{"stop": ["</s>"]}', None),
    ],
)
def test_find_stored_has_the_sampling_of_the_modelfile(
    tmp_path: Path, text: str, sampling: RecommendedSampling | None
):
    assert find_stored("tiny:1b", (parameters(tmp_path, text),)).sampling == sampling


def test_find_stored_names_what_an_mlx_folder_has_no_place_for(tmp_path: Path):
    stored = find_stored("tiny:1b", (parameters(tmp_path, '{"num_ctx": 8, "stop": ["User:"]}'),))
    assert stored.stops == ("User:",)
    assert stored.other_parts == ("TEMPLATE", "PARAMETER num_ctx")


def test_find_stored_raises_when_the_parameters_are_wrong(tmp_path: Path):
    root = parameters(tmp_path, '{"temperature": "hot"}')
    with pytest.raises(InvalidRequestError, match=r"parameters of 'tiny:1b'.*temperature"):
        find_stored("tiny:1b", (root,))


def test_find_stored_raises_when_the_manifest_is_malformed(tmp_path: Path):
    root = store(tmp_path, "registry.ollama.ai/library/tiny/1b", *LAYERS)
    (root / "manifests/registry.ollama.ai/library/tiny/1b").write_text('{"layers": 3}')
    with pytest.raises(InvalidRequestError, match="cannot be read"):
        find_stored("tiny:1b", (root,))


def test_store_folder_is_read_from_the_environment(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OLLAMA_MODELS", "/big/disk")
    assert store_folders() == (Path("/big/disk"),)
    monkeypatch.delenv("OLLAMA_MODELS")
    monkeypatch.setenv("HOME", "/home/ada")
    assert store_folders()[0] == Path("/home/ada/.ollama/models")

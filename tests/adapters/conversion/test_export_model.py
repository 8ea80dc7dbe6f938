"""`tandem export`: rejected models, and the result on a real Ollama."""

import asyncio
import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import aclosing, closing, contextmanager
from pathlib import Path
from typing import Any

import ollama
import pytest
from fakes.recorded_ollama import Reply, says_lines, stand_in
from fakes.tiny_decoders import decoder_gguf
from servers.ollama_server import OllamaProcess
from servers.server_process import command, write

from adapters.config import MLXConfig, OllamaConfig
from adapters.conversion.export_model import default_tag, export_model, find_folder
from adapters.errors import BackendUnavailableError, InvalidRequestError, ModelNotFoundError
from adapters.mlx.gguf import convert
from adapters.mlx.models.catalog import find_models
from adapters.mlx.to_gguf import write_gguf
from adapters.ollama.backend import OllamaBackend
from adapters.recommended_sampling import RecommendedSampling

TAG = "tandem-export-test:1"


def quiet(done: int, total: int) -> None:
    pass


@pytest.fixture
def mlx(tmp_path: Path) -> MLXConfig:
    """A cache with one imported model."""
    cache = tmp_path / "cache"
    folder = cache / "imported" / "tiny:1b"
    sampling = RecommendedSampling(temperature=0.5, top_k=30)
    convert(decoder_gguf(tmp_path, "llama"), folder, quiet, sampling=sampling)
    return MLXConfig(cache_folder=str(cache), huggingface_cache=False, embedded="never")


@pytest.fixture
def absent_ollama() -> OllamaConfig:
    return OllamaConfig(host="http://127.0.0.1:9", connect_timeout=0.5)


def test_model_is_found_by_name_or_folder(mlx: MLXConfig):
    name, folder = find_folder("mlx:tiny:1b", mlx)
    assert (name, folder.name) == ("tiny:1b", "tiny:1b")
    assert find_folder(str(folder), mlx) == (name, folder)


@pytest.mark.parametrize("named", ["mlx:other", "no/such/folder", "ollama:tiny", "mlx:../cache"])
def test_missing_model_is_an_error(mlx: MLXConfig, named: str):
    with pytest.raises(ModelNotFoundError):
        find_folder(named, mlx)


@pytest.mark.parametrize(
    ("name", "tag"),
    [
        ("mlx-community/Llama-3.2-3B-Instruct-4bit", "llama-3.2-3b-instruct-4bit"),
        ("smollm2:135m", "smollm2:135m"),
        ("My Model (2)", "my-model-2-"),
    ],
)
def test_default_tag_is_the_name_of_the_model(name: str, tag: str):
    assert default_tag(name) == tag


def test_absent_ollama_is_an_error_before_writing(mlx: MLXConfig, absent_ollama: OllamaConfig):
    with pytest.raises(BackendUnavailableError):
        export_model(find_folder("mlx:tiny:1b", mlx)[1], TAG, mlx, absent_ollama, never)


def test_wrong_recommendation_is_an_error_before_writing(
    mlx: MLXConfig, absent_ollama: OllamaConfig
):
    folder = find_folder("mlx:tiny:1b", mlx)[1]
    (folder / "generation_config.json").write_text('{"top_p": 2}')
    with pytest.raises(InvalidRequestError, match=r"generation_config.json is wrong.*top_p"):
        export_model(folder, TAG, mlx, absent_ollama, never)


def test_invalid_tag_is_an_error_before_writing(mlx: MLXConfig, absent_ollama: OllamaConfig):
    with pytest.raises(InvalidRequestError, match="not a valid name"):
        export_model(find_folder("mlx:tiny:1b", mlx)[1], "a b", mlx, absent_ollama, never)


def never(done: int, total: int) -> None:
    pytest.fail("something was written")


@pytest.mark.slow
async def test_file_that_ollama_has_is_not_sent_again(mlx: MLXConfig, tmp_path: Path):
    """Ollama closes the connection in the middle of such an upload."""
    folder = find_folder("mlx:tiny:1b", mlx)[1]
    origin = write_gguf(folder, tmp_path / "model.gguf", quiet).origin

    async def show(reply: Reply) -> None:
        words = b'{"error":"model not found"}'
        is_made = bool(standin.bodies("/api/create"))
        await reply.plain(*((200, b"{}") if is_made else (404, words)))

    async def find(reply: Reply) -> None:
        await reply.plain(200, b"")

    async with stand_in() as standin:
        standin.says("/api/show", show)
        standin.says(f"/api/blobs/{origin}", find)
        standin.says("/api/create", says_lines({"status": "success"}))
        config = OllamaConfig(host=standin.host, api_key="0123456789abcdef")
        done = await asyncio.to_thread(export_model, folder, TAG, mlx, config, quiet)
    assert done.written.origin == origin
    (made,) = standin.bodies("/api/create")
    assert made["files"] == {"model.gguf": origin}
    assert [seen.method for seen in standin.seen if "/blobs/" in seen.path] == ["HEAD"]
    assert {seen.headers["authorization"] for seen in standin.seen} == {"Bearer 0123456789abcdef"}


class Settings:
    def __init__(self, folder: Path, host: str) -> None:
        self.host = host
        self.path = write(
            folder,
            f"backends: {{ollama: {{host: '{host}'}}, mlx: {{cache_folder: '{folder / 'cache'}', "
            "huggingface_cache: false, embedded: never}}",
        )

    def tandem(self, *args: str) -> "subprocess.CompletedProcess[str]":
        arguments = command(*args, "--config", str(self.path))
        return subprocess.run(arguments, capture_output=True, text=True, timeout=100, check=False)


@pytest.mark.process
def test_unknown_model_is_an_error_with_the_next_step(mlx: MLXConfig, tmp_path: Path):
    done = Settings(tmp_path, "http://127.0.0.1:9").tandem("export", "nothing")
    assert done.returncode == 1
    assert "neither an MLX model 'nothing'" in done.stderr
    assert "`tandem models` lists all." in done.stderr


@pytest.mark.process
def test_unreachable_ollama_is_an_error_with_the_next_step(mlx: MLXConfig, tmp_path: Path):
    done = Settings(tmp_path, "http://127.0.0.1:9").tandem("export", "tiny:1b")
    assert done.returncode == 1
    assert "`tandem doctor` says what to do." in done.stderr


@pytest.mark.process
def test_unknown_model_of_a_measurement_is_an_error_with_the_next_step(
    mlx: MLXConfig, tmp_path: Path
):
    done = Settings(tmp_path, "http://127.0.0.1:9").tandem("bench", "nothing")
    assert done.returncode == 1
    assert "Model 'nothing' not found. `tandem models` lists all." in done.stderr


@pytest.fixture
def real(ollama_host: str, mlx: MLXConfig, tmp_path: Path) -> Iterator[Settings]:
    with exporting(Settings(tmp_path, ollama_host)) as settings:
        yield settings


@pytest.fixture
def own_ollama(ollama_process: OllamaProcess, mlx: MLXConfig, tmp_path: Path) -> Iterator[Settings]:
    """A separate Ollama: other tests count the loaded models of theirs."""
    with exporting(Settings(tmp_path, ollama_process.host)) as settings:
        yield settings


@contextmanager
def exporting(settings: Settings) -> Iterator[Settings]:
    """Settings with a real Ollama; the exported model is deleted afterwards."""
    yield settings
    with closing(ollama.Client(settings.host)) as official:
        if TAG in {model.model for model in official.list().models}:
            official.delete(TAG)


@pytest.mark.ollama
@pytest.mark.long
async def test_export_answers_on_ollama_and_has_the_origin_of_its_folder(
    own_ollama: Settings, mlx: MLXConfig, tmp_path: Path
):
    # As if its weights had come from elsewhere.
    (tmp_path / "cache" / "imported" / "tiny:1b" / "conversion.json").unlink()
    done = own_ollama.tandem("export", "mlx:tiny:1b", "--as", TAG)
    assert done.returncode == 0, done.stderr
    assert "20 of 20 tensors equal those of the source bit for bit" in done.stdout
    assert f"ollama: '{TAG}'" in done.stdout
    with closing(ollama.Client(own_ollama.host)) as official:
        shown = official.show(TAG)
        # With some seeds the first token is no whole text: Ollama answers 200 and an empty body.
        options = {"num_predict": 1, "seed": 1}
        answer = official.generate(TAG, "hello", raw=True, options=options)
    assert shown.details is not None
    assert shown.details.family == "llama"
    parameters = dict(line.split() for line in (shown.parameters or "").splitlines())
    assert parameters | {"temperature": "0.5", "top_k": "30"} == parameters
    assert answer.eval_count == 1
    assert list((tmp_path / "cache").glob(".export-*")) == []
    async with aclosing(OllamaBackend(OllamaConfig(host=own_ollama.host))) as there:
        exported = next(model for model in await there.list_models() if model.name == TAG)
    model = find_models(mlx)["tiny:1b"].model
    assert model.origin is not None
    assert (model.origin, model.exact) == (exported.origin, True)


@pytest.mark.ollama
@pytest.mark.long
def test_existing_model_of_ollama_is_not_replaced(real: Settings):
    done = real.tandem("export", "mlx:tiny:1b", "--as", "smollm2:135m")
    assert done.returncode == 1
    assert "already has a model 'smollm2:135m'; choose another name with --as" in done.stderr


@pytest.mark.ollama
@pytest.mark.long
def test_unsupported_model_is_rejected(real: Settings, tmp_path: Path):
    other = tmp_path / "other"
    shutil.copytree(tmp_path / "cache" / "imported" / "tiny:1b", other)
    config: dict[str, Any] = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"model_type": "mamba"}))
    done = real.tandem("export", str(other), "--as", TAG)
    assert done.returncode == 1
    assert "'mamba' is not supported" in done.stderr
    assert list((tmp_path / "cache").glob(".export-*")) == []

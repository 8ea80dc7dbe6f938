"""`tandem import` as a process, and the import of the bundled model."""

import json
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from fakes.tiny_gguf import tiny_gguf
from gguf import GGMLQuantizationType as GGML
from servers.ollama_server import OllamaProcess
from servers.server_process import command, write

from adapters.config import MLXConfig, OllamaConfig
from adapters.conversion.import_model import Imported, find_source, import_model
from adapters.conversion.parity import CHATS
from adapters.errors import InvalidRequestError
from adapters.mlx.models.catalog import find_models
from adapters.ollama.backend import OllamaBackend

pytestmark = [pytest.mark.process, pytest.mark.long]


def quiet(done: int, total: int) -> None:
    pass


def config(folder: Path, ollama: str = "null") -> Path:
    return write(
        folder,
        f"backends: {{ollama: {ollama}, mlx: {{cache_folder: '{folder / 'cache'}', "
        "huggingface_cache: false, embedded: never}}",
    )


def tandem(*args: str | Path) -> "subprocess.CompletedProcess[str]":
    arguments = command(*map(str, args))
    return subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=False)


def listed(folder: Path) -> list[str]:
    mlx = MLXConfig(cache_folder=str(folder / "cache"), huggingface_cache=False, embedded="never")
    return list(find_models(mlx))


def test_imported_gguf_is_listed_and_has_a_report(tmp_path: Path):
    done = tandem("import", tiny_gguf(tmp_path, GGML.Q8_0), "--config", config(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "8 of 11 tensors equal those of the source bit for bit" in done.stdout
    assert "8-bit groups of 32" in done.stdout
    assert "not compared: Ollama is switched off" in done.stdout
    assert listed(tmp_path) == ["tiny"]
    folder = tmp_path / "cache" / "imported" / "tiny"
    assert len(json.loads((folder / "conversion.json").read_text())["tensors"]) == 11
    assert "switched off" in json.loads((folder / "parity.json").read_text())["not_compared"]


def test_second_import_returns_the_first_report(tmp_path: Path):
    source, settings = tiny_gguf(tmp_path), config(tmp_path)
    first = tandem("import", source, "--config", settings)
    again = tandem("import", source, "--config", settings)
    assert (again.returncode, again.stdout) == (0, first.stdout)
    assert again.stderr == ""


def test_import_writes_to_the_folder_of_to(tmp_path: Path):
    target = tmp_path / "mine" / "small"
    source = tiny_gguf(tmp_path)
    done = tandem("import", source, "--to", target, "--config", config(tmp_path))
    assert done.returncode == 0, done.stderr
    assert (target / "model.safetensors").exists()
    assert listed(tmp_path) == []


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("ollama:no-such:1b", "no 'no-such:1b'"),
        ("no.gguf", "neither a file"),
        ("ollama:../x", "not a valid name"),
        ("no-such:1b", "`tandem models` lists all; `tandem pull no-such:1b` downloads"),
        ("./no.gguf", "Give the path of a GGUF file"),
    ],
)
def test_missing_source_is_an_error_of_one_line(tmp_path: Path, source: str, message: str):
    done = tandem("import", source, "--config", config(tmp_path))
    assert done.returncode == 1
    assert message in done.stderr
    assert "`tandem models`" in done.stderr
    assert done.stderr.count("\n") == 1
    assert listed(tmp_path) == []


def test_model_that_mlx_has_is_an_error_that_names_the_export(tmp_path: Path):
    source, settings = tiny_gguf(tmp_path), config(tmp_path)
    assert tandem("import", source, "--config", settings).returncode == 0
    done = tandem("import", "tiny", "--config", settings)
    assert done.returncode == 1
    assert "MLX has 'tiny': `tandem export tiny` converts it for Ollama." in done.stderr


def test_file_that_is_not_a_gguf_is_rejected(tmp_path: Path):
    (tmp_path / "a.gguf").write_bytes(b"not a model" * 100)
    done = tandem("import", tmp_path / "a.gguf", "--config", config(tmp_path))
    assert done.returncode == 1
    assert "cannot be read as GGUF" in done.stderr
    assert listed(tmp_path) == []


def test_other_folder_is_not_overwritten(tmp_path: Path):
    (tmp_path / "mine").mkdir()
    source = tiny_gguf(tmp_path)
    done = tandem("import", source, "--to", tmp_path / "mine", "--config", config(tmp_path))
    assert done.returncode == 1
    assert "was not made by this converter. Remove it, or choose another with --to" in done.stderr
    assert list((tmp_path / "mine").iterdir()) == []


def test_full_disk_is_an_error_before_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    source = find_source(str(tiny_gguf(tmp_path)), None)
    with pytest.raises(InvalidRequestError, match=r"0\.0 GB free.*--to"):
        import_model(source, tmp_path / "cache" / "imported" / "tiny", None, quiet)
    assert listed(tmp_path) == []


def test_interrupted_import_leaves_nothing(tmp_path: Path):
    source = tiny_gguf(tmp_path)
    lock = tmp_path / "cache" / "imported" / ".tiny.lock"
    arguments = command("import", str(source), "--config", str(config(tmp_path)))
    with subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True) as run:
        assert run.stderr is not None
        assert "0%" in run.stderr.readline()
        run.send_signal(signal.SIGINT)
        run.stderr.read()
    assert run.returncode in (0, 130)  # 0 if the conversion was faster than the signal.
    left = [path.name for path in lock.parent.iterdir() if path.name != lock.name]
    assert left == (["tiny"] if run.returncode == 0 else [])


@pytest.fixture(scope="module")
def imported(ollama_host: str, tmp_path_factory: pytest.TempPathFactory) -> Imported:
    """The bundled model, imported from an Ollama that has it."""
    ollama = OllamaConfig(host=ollama_host)
    source = find_source("ollama:smollm2:135m", ollama)
    folder = tmp_path_factory.mktemp("imported") / source.name
    return import_model(source, folder, ollama, quiet)


@pytest.mark.ollama
def test_import_is_identical_to_the_last_bit(imported: Imported):
    assert imported.folder.name == "smollm2:135m"
    assert imported.report.exact == len(imported.report.tensors) == 272


@pytest.mark.ollama
def test_ollama_has_the_same_ids_for_all_prompts(imported: Imported):
    prompts = imported.parity.prompts
    assert len(prompts) == len(CHATS)
    assert [prompt.same_ids for prompt in prompts] == [True] * len(prompts)
    assert all(prompt.ids > 10 for prompt in prompts)


@pytest.mark.ollama
def test_prompt_is_the_same_with_a_system_message(imported: Imported):
    # The GGUF's template adds a system message of its own where the chat has none.
    by_system: dict[bool, Any] = {p.chat[0][0] == "system": p for p in imported.parity.prompts}
    assert by_system[True].same_prompt is True
    assert by_system[False].same_prompt is False
    assert by_system[False].ollama == by_system[False].mlx.split("<|im_end|>\n", 1)[1]


@pytest.mark.ollama
@pytest.mark.anyio
async def test_import_and_its_source_have_the_same_origin(imported: Imported, ollama_host: str):
    backend = OllamaBackend(OllamaConfig(host=ollama_host))
    on_ollama = {model.name: model.origin for model in await backend.list_models()}
    await backend.aclose()
    root = str(imported.folder.parent)
    here = find_models(MLXConfig(folders=(root,), huggingface_cache=False, embedded="never"))
    assert here["smollm2:135m"].model.origin == on_ollama["smollm2:135m"] is not None


@pytest.mark.ollama
@pytest.mark.long
def test_alias_and_the_other_engine_are_known(ollama_process: OllamaProcess, tmp_path: Path):
    ollama_process.create("sprat:1b", f"FROM {tiny_gguf(tmp_path)}\n")
    settings = config(tmp_path, f"{{host: '{ollama_process.host}'}}")
    settings.write_text(f"{settings.read_text()}\nmodels: {{nick: {{ollama: 'sprat:1b'}}}}")
    wrong_way = tandem("export", "nick", "--config", settings)
    assert wrong_way.returncode == 1
    assert "`tandem import sprat:1b` converts it for MLX." in wrong_way.stderr
    done = tandem("import", "nick", "--config", settings)
    assert done.returncode == 0, done.stderr
    assert listed(tmp_path) == ["sprat:1b"]

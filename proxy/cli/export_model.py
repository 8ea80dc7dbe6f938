"""`tandem export`: convert an MLX model for Ollama."""

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING

from proxy.cli.command import Commands
from proxy.cli.conversion import prompt_lines, run_conversion, tensor_lines
from proxy.config import Config

if TYPE_CHECKING:
    from adapters.conversion.export_model import Exported


def add(commands: Commands) -> None:
    parser = commands.add("export", export, "convert an MLX model for Ollama")
    parser.add_argument("source", help="an MLX model, or the folder of a model", metavar="MODEL")
    parser.add_argument(
        "--as", dest="tag", metavar="TAG", help="name on Ollama (default: the model's name)"
    )


def export(config: Config, args: argparse.Namespace) -> int:
    """Convert the model and print a report. Returns the exit status of `run_conversion`."""
    interrupted = "interrupted; the files written here were removed"
    return run_conversion(args.source, interrupted, lambda: _export(config, args.source, args.tag))


def _export(config: Config, named: str, tag: str | None) -> None:
    from adapters.config import MLXConfig, OllamaConfig
    from adapters.conversion.export_model import default_tag, export_model, find_folder
    from adapters.gguf.conversion import Bar

    mlx = config.of_kind(MLXConfig) or MLXConfig()
    ollama = config.of_kind(OllamaConfig) or OllamaConfig()
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
    yield "  To use one name for both models, add to config.yaml:"
    yield f"    models: {{NAME: {{mlx: {name!r}, ollama: {exported.tag!r}}}}}"

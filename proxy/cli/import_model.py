"""`tandem import`: convert an Ollama model or a GGUF file for MLX."""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from proxy.cli.command import Commands
from proxy.cli.conversion import prompt_lines, run_conversion, tensor_lines
from proxy.config import Config

if TYPE_CHECKING:
    from adapters.conversion.import_model import Imported


def add(commands: Commands) -> None:
    parser = commands.add("import", import_, "convert an Ollama model for MLX")
    parser.add_argument(
        "source", help="an Ollama model, or the path of a GGUF file", metavar="MODEL"
    )
    parser.add_argument(
        "--to", type=Path, metavar="FOLDER", help="default: a folder where Tandem finds it"
    )


def import_(config: Config, args: argparse.Namespace) -> int:
    """Convert the model and print a report. Returns the exit status of `run_conversion`."""
    interrupted = "interrupted; the partial conversion was removed"
    return run_conversion(args.source, interrupted, lambda: _import(config, args.source, args.to))


def _import(config: Config, named: str, to: Path | None) -> None:
    from adapters.config import MLXConfig, OllamaConfig
    from adapters.conversion.import_model import default_target, find_source, import_model
    from adapters.gguf.conversion import Bar

    mlx = config.of_kind(MLXConfig) or MLXConfig()
    ollama = config.of_kind(OllamaConfig)
    source = find_source(named, ollama)
    bar = Bar(f"Converting {source.name} for MLX")
    for line in _lines(import_model(source, to or default_target(source, mlx), ollama, bar)):
        print(line)


def _lines(imported: "Imported") -> Iterator[str]:
    report = imported.report
    yield f"{imported.folder}"
    yield f"  {report.architecture}, from {report.origin}"
    source, weights = report.source_bytes / 1e6, report.weights_bytes / 1e6
    yield f"  {source:.1f} MB as GGUF, {weights:.1f} MB for MLX"
    yield from tensor_lines(report.tensors)
    yield ""
    yield from prompt_lines(imported.parity)

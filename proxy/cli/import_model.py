"""`tandem import`: an Ollama model, or a GGUF, for MLX."""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from proxy.cli.command import Commands
from proxy.cli.conversion import tell
from proxy.cli.reports import prompt_lines, tensor_lines
from proxy.config import Config

if TYPE_CHECKING:
    from adapters.conversion.import_model import Imported


def add(commands: Commands) -> None:
    parser = commands.add("import", import_, "make an MLX model of one that Ollama has")
    parser.add_argument("source", help="ollama:NAME, or the path of a GGUF", metavar="MODEL")
    parser.add_argument("--to", type=Path, metavar="FOLDER", help="by default where Tandem looks")


def import_(config: Config, args: argparse.Namespace) -> int:
    """Make it, print what became of it. 1 if it cannot be made."""
    stopped = "stopped; nothing of it is kept"
    return tell(args.source, stopped, lambda: _import(config, args.source, args.to))


def _import(config: Config, named: str, to: Path | None) -> None:
    from adapters.config import MLXConfig, OllamaConfig
    from adapters.conversion.import_model import default_target, find_source, import_model
    from adapters.gguf.conversion import Bar

    backends = config.backends
    mlx = backends.mlx if isinstance(backends.mlx, MLXConfig) else MLXConfig()
    ollama = backends.enabled().get("ollama")
    assert ollama is None or isinstance(ollama, OllamaConfig)  # noqa: S101 - its kind says so.
    source = find_source(named, ollama)
    bar = Bar(f"Converting {source.name} for MLX")
    for line in _lines(import_model(source, to or default_target(source, mlx), ollama, bar)):
        print(line)


def _lines(imported: "Imported") -> Iterator[str]:
    report = imported.report
    yield f"{imported.folder}"
    yield f"  {report.architecture}, from {report.origin}"
    yield f"  {report.source_bytes / 1e6:.1f} MB as GGUF, {report.weights_bytes / 1e6:.1f} MB here"
    yield from tensor_lines(report.tensors)
    yield ""
    yield from prompt_lines(imported.parity)

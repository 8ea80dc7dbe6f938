"""`tandem import`: an Ollama model, or a GGUF, for MLX."""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from proxy.cli.command import Commands, fail
from proxy.cli.reports import prompt_lines, tensor_lines
from proxy.config import Config

if TYPE_CHECKING:
    from adapters.exchange.importing import Imported


def add(commands: Commands) -> None:
    parser = commands.add("import", import_, "make an MLX model of one that Ollama has")
    parser.add_argument("source", help="ollama:NAME, or the path of a GGUF", metavar="MODEL")
    parser.add_argument("--to", type=Path, metavar="FOLDER", help="by default where Tandem looks")


def import_(config: Config, args: argparse.Namespace) -> int:
    """Make it, print what became of it. 1 if it cannot be made."""
    from adapters.config import MLXConfig, OllamaConfig
    from adapters.errors import BackendError
    from adapters.exchange.importing import default_target, find_source, import_model
    from adapters.gguf.errors import InexactGGUFError, UnsupportedGGUFError
    from adapters.gguf.progress import Bar

    backends = config.backends
    mlx = backends.mlx if isinstance(backends.mlx, MLXConfig) else MLXConfig()
    ollama = backends.enabled().get("ollama")
    assert ollama is None or isinstance(ollama, OllamaConfig)  # noqa: S101 - its kind says so.
    try:
        source = find_source(args.source, ollama)
        target = args.to or default_target(source, mlx)
        bar = Bar(f"Converting {source.name} for MLX")
        imported = import_model(source, target, ollama, bar)
    except (BackendError, UnsupportedGGUFError, InexactGGUFError) as exc:
        return fail(1, f"{args.source}: {exc}")
    except OSError as exc:
        return fail(1, f"{args.source}: {exc.strerror or exc}")
    except KeyboardInterrupt:
        return fail(130, "stopped; nothing of it is kept")
    for line in _lines(imported):
        print(line)
    return 0


def _lines(imported: "Imported") -> Iterator[str]:
    report = imported.report
    yield f"{imported.folder}"
    yield f"  {report.architecture}, from {report.origin}"
    yield f"  {report.source_bytes / 1e6:.1f} MB as GGUF, {report.weights_bytes / 1e6:.1f} MB here"
    yield from tensor_lines(report.tensors)
    yield ""
    yield from prompt_lines(imported.parity)

"""`tandem import`: an Ollama model, or a GGUF, for MLX."""

import argparse
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from proxy.cli.command import Commands, fail
from proxy.config import Config

if TYPE_CHECKING:
    from adapters.exchange.importing import Imported, Parity, Report


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
    yield f"  {report.exact} of {len(report.tensors)} tensors are the source's to the last bit"
    yield ""
    yield from _types(report)
    yield ""
    yield from _prompts(imported.parity)


def _types(report: "Report") -> Iterator[str]:
    """A line for each way in which tensors were stored."""
    groups: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
    for tensor in report.tensors:
        groups[tensor.source, tensor.stored].append(tensor.relative_l2)
    yield f"  {'in the GGUF':12} {'for MLX':20} {'tensors':>7} {'exact':>6} {'worst':>8}"
    for (source, stored), errors in sorted(groups.items()):
        exact = sum(error == 0 for error in errors)
        yield f"  {source:12} {stored:20} {len(errors):7} {exact:6} {max(errors):8.1e}"


def _prompts(parity: "Parity") -> Iterator[str]:
    if parity.not_compared is not None:
        yield f"  prompts were not compared: {parity.not_compared}"
        return
    total = len(parity.prompts)
    same = sum(prompt.same_prompt is True for prompt in parity.prompts)
    ids = sum(prompt.same_ids is True for prompt in parity.prompts)
    yield f"  {ids} of {total} prompts have the same token ids on both engines"
    yield f"  {same} of {total} conversations are the same prompt by both templates"
    different = [prompt for prompt in parity.prompts if prompt.same_prompt is False]
    for prompt in different[:1]:
        yield f"    by the template of the GGUF: {prompt.mlx!r}"
        yield f"    by Ollama's own:             {prompt.ollama!r}"

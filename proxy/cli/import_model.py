"""`tandem import`: convert an Ollama model or a GGUF file for MLX."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from proxy.cli.command import AsJson, ConfigFile, print_json, read_settings
from proxy.cli.conversion import conversion, prompt_lines, tensor_lines
from proxy.cli.progress import progress_bar

if TYPE_CHECKING:
    from adapters.conversion.import_model import Imported


def import_model(
    source: Annotated[
        str, typer.Argument(metavar="MODEL", help="An Ollama model, or the path of a GGUF file.")
    ],
    to: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="By default a folder where Tandem finds it.", show_default=False
        ),
    ] = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Convert an Ollama model, or a GGUF file, for MLX, and print a report.

    Raises:
        CommandError: as `conversion`.
    """
    settings = read_settings(config)
    import msgspec

    from adapters.config import MLXConfig, OllamaConfig
    from adapters.conversion.import_model import default_target, find_source
    from adapters.conversion.import_model import import_model as convert

    mlx = settings.of_kind(MLXConfig) or MLXConfig()
    ollama = settings.of_kind(OllamaConfig)
    with conversion(source, "interrupted; the partial conversion was removed"):
        stored = find_source(source, ollama)
        with progress_bar(f"Converting {stored.name} for MLX") as bar:
            imported = convert(stored, to or default_target(stored, mlx), ollama, bar)
    if as_json:
        print_json(msgspec.to_builtins(imported, enc_hook=str))
    else:
        print("\n".join(_lines(imported)))


def _lines(imported: "Imported") -> Iterator[str]:
    report = imported.report
    yield f"{imported.folder}"
    yield f"  {report.architecture}, from {report.origin}"
    source, weights = report.source_bytes / 1e6, report.weights_bytes / 1e6
    yield f"  {source:.1f} MB as GGUF, {weights:.1f} MB for MLX"
    yield from tensor_lines(report.tensors)
    if report.left_out:
        yield f"  left out: {len(report.left_out)} tensors that take no part in an answer"
    if imported.left_out:
        yield f"  not taken along from the Modelfile: {', '.join(imported.left_out)}"
    yield ""
    yield from prompt_lines(imported.parity)

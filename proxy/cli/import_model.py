"""`tandem import`: convert an Ollama model or a GGUF file for MLX."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from proxy.cli.command import AsJson, CommandError, ConfigFile, print_json, read_settings
from proxy.cli.conversion import conversion, name_on, prompt_lines, tensor_lines
from proxy.cli.names import complete_model
from proxy.cli.progress import progress_bar
from proxy.config import Config

if TYPE_CHECKING:
    from adapters.config import OllamaConfig
    from adapters.conversion.import_model import Imported
    from adapters.conversion.ollama_store import StoredModel


def import_model(
    source: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="An Ollama model, or the path of a GGUF file.",
            autocompletion=complete_model,
        ),
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
    from adapters.conversion.import_model import default_target
    from adapters.conversion.import_model import import_model as convert

    mlx = settings.of_kind(MLXConfig) or MLXConfig()
    ollama = settings.of_kind(OllamaConfig)
    with conversion(source, "interrupted; the partial conversion was removed"):
        stored = _find(source, ollama, settings)
        with progress_bar(f"Converting {stored.name} for MLX") as bar:
            imported = convert(stored, to or default_target(stored, mlx), ollama, bar)
    if as_json:
        print_json(msgspec.to_builtins(imported, enc_hook=str))
    else:
        print("\n".join(_lines(imported)))


def _find(source: str, ollama: "OllamaConfig | None", config: Config) -> "StoredModel":
    """The weights of the file or of the model called `source` by any of its names.

    Raises:
        CommandError: there are none; the message names the next step.
        BackendError: as `find_source`.
        OSError: a file cannot be read.
    """
    from adapters.config import OllamaConfig
    from adapters.conversion.import_model import find_source
    from adapters.errors import ModelNotFoundError

    try:
        return find_source(source, ollama)
    except ModelNotFoundError as exc:
        listed = asyncio.run(name_on(OllamaConfig, source.removeprefix("ollama:"), config))
        if listed is None:
            raise CommandError(f"{source}: {exc} {_next_step(source, config)}") from exc
    try:
        return find_source(f"ollama:{listed}", ollama)
    except ModelNotFoundError as exc:
        raise CommandError(
            f"{source}: Ollama lists '{listed}', but its files are not on this machine. Run "
            "`tandem import` where Ollama runs, or set OLLAMA_MODELS to the folder of its models."
        ) from exc


def _next_step(source: str, config: Config) -> str:
    from adapters.config import MLXConfig

    name = source.removeprefix("ollama:")
    if name.endswith(".gguf") or name.startswith(("/", ".", "~")):
        return "Give the path of a GGUF file, or a name listed by `tandem models`."
    if there := asyncio.run(name_on(MLXConfig, name, config)):
        return f"MLX has '{there}': `tandem export {there}` converts it for Ollama."
    return f"`tandem models` lists all; `tandem pull {name}` downloads one of Ollama's library."


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

"""`tandem export`: convert an MLX model for Ollama."""

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
    from adapters.config import MLXConfig
    from adapters.conversion.export_model import Exported


def export_model(
    source: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="An MLX model by any of its names, or the folder of a model.",
            autocompletion=complete_model,
        ),
    ],
    tag: Annotated[
        str | None,
        typer.Option(
            "--as",
            metavar="TAG",
            help="Name on Ollama; by default the model's name.",
            show_default=False,
        ),
    ] = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Convert an MLX model for Ollama, and print a report.

    Raises:
        CommandError: as `conversion`.
    """
    settings = read_settings(config)
    import msgspec

    from adapters.config import MLXConfig, OllamaConfig
    from adapters.conversion.export_model import default_tag
    from adapters.conversion.export_model import export_model as convert

    mlx = settings.of_kind(MLXConfig) or MLXConfig()
    ollama = settings.of_kind(OllamaConfig) or OllamaConfig()
    with conversion(source, "interrupted; the files written here were removed"):
        name, folder = _find(source, mlx, settings)
        with progress_bar(f"Writing {name} as GGUF") as bar:
            exported = convert(folder, tag or default_tag(name), mlx, ollama, bar)
    if as_json:
        print_json(msgspec.to_builtins(exported, enc_hook=str))
    else:
        print("\n".join(_lines(name, exported)))


def _find(source: str, mlx: "MLXConfig", config: Config) -> tuple[str, Path]:
    """Name and folder of the model called `source` by any of its names.

    Raises:
        CommandError: there is none; the message names the next step.
        BackendError: as `find_folder`.
    """
    from adapters.config import MLXConfig, OllamaConfig
    from adapters.conversion.export_model import find_folder
    from adapters.errors import ModelNotFoundError

    listed = asyncio.run(name_on(MLXConfig, source, config))
    try:
        return find_folder(listed or source, mlx)
    except ModelNotFoundError as exc:
        there = asyncio.run(name_on(OllamaConfig, source, config))
        step = (
            f"Ollama has '{there}': `tandem import {there}` converts it for MLX."
            if there
            else "`tandem models` lists all."
        )
        raise CommandError(f"{source}: {exc} {step}") from exc


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

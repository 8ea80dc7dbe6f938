"""`tandem export`: convert an MLX model for Ollama."""

import asyncio
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from proxy.cli.command import AsJson, ConfigFile, print_json, read_settings
from proxy.cli.conversion import conversion, prompt_lines, tensor_lines
from proxy.cli.names import complete_model
from proxy.cli.progress import progress_bar
from proxy.config import Config

if TYPE_CHECKING:
    from adapters.conversion.export_model import Exported

_LISTING_SECONDS = 2.0


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
    from adapters.conversion.export_model import default_tag, find_folder
    from adapters.conversion.export_model import export_model as convert

    mlx = settings.of_kind(MLXConfig) or MLXConfig()
    ollama = settings.of_kind(OllamaConfig) or OllamaConfig()
    with conversion(source, "interrupted; the files written here were removed"):
        listed = asyncio.run(_name_on_mlx(source, settings))
        name, folder = find_folder(listed or source, mlx)
        with progress_bar(f"Writing {name} as GGUF") as bar:
            exported = convert(folder, tag or default_tag(name), mlx, ollama, bar)
    if as_json:
        print_json(msgspec.to_builtins(exported, enc_hook=str))
    else:
        print("\n".join(_lines(name, exported)))


async def _name_on_mlx(source: str, config: Config) -> str | None:
    """The MLX backend's own name of the model called `source` by any of its names, as an alias."""
    from adapters.config import MLXConfig
    from adapters.errors import BackendError
    from proxy.models.registry import Registry
    from proxy.routing.lookup import ModelLookup

    configs = {
        name: backend
        for name, backend in config.backend_configs().items()
        if isinstance(backend, MLXConfig)
    }
    registry = Registry(config.models, config.server.refresh)
    async with registry.open(configs):
        await registry.refresh(_LISTING_SECONDS)
        try:
            entry = await ModelLookup(registry, None).find(source)
        except BackendError:  # A folder, or no model at all.
            return None
        return entry.deployments[0].name


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

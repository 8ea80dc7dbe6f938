"""`tandem config check | schema | path | reload`: the settings, before and while they are used."""

import os
import sys
from collections.abc import Iterator
from typing import Annotated

import typer

from adapters.config import MLXConfig
from proxy.cli.command import AsJson, ConfigFile, Url, print_json, read_settings
from proxy.config import Config, find_config

app = typer.Typer(help="Check and reload the settings (config.yaml).", no_args_is_help=True)
_File = Annotated[str | None, typer.Argument(metavar="FILE", help="By default the file in use.")]


@app.command("check")
def check(file: _File = None, config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Check the settings as `tandem serve` does: every problem, with file, line and key."""
    from proxy.access.keys import check_server
    from proxy.config import ConfigError

    path = find_config(file or config, os.environ)
    try:
        settings = read_settings(file or config)
        check_server(settings.server, os.environ)
    except ConfigError as exc:
        if not as_json:
            raise
        problems = [
            {"file": p.file, "line": p.line, "key": p.key.lstrip("$."), "message": p.message}
            for p in exc.problems
        ]
        print_json({"ok": False, "problems": problems})
        raise typer.Exit(2) from exc
    for remark in _remarks(settings):
        print(f"tandem: {remark}", file=sys.stderr)
    if as_json:
        print_json({"ok": True, "file": None if path is None else str(path), "problems": []})
        return
    backends = ", ".join(settings.enabled()) or "none"
    print(f"{path or 'The defaults, without a file,'} can be used.")
    print(f"Backends: {backends}. Aliases: {', '.join(settings.models) or 'none'}.")


def _remarks(settings: Config) -> Iterator[str]:
    """Yield what may keep an alias from its model, although the settings are valid."""
    for alias, model in settings.models.items():
        for name, backend in settings.enabled().items():
            withheld = backend.withheld() if isinstance(backend, MLXConfig) else {}
            if (reason := withheld.get(model.names.get(name, ""))) is not None:
                yield f"models.{alias}: '{model.names[name]}' is not always there: {reason}."


@app.command("schema")
def schema(as_json: AsJson = True) -> None:
    """Print the JSON schema of config.yaml, for editors."""
    from proxy.config_schema import to_schema

    del as_json  # It is JSON in any case; the option is there as on every command.
    print_json(to_schema())


@app.command("path")
def path(config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Print the path of the settings in use, or the one where Tandem looks for them."""
    from pathlib import Path

    found = find_config(config, os.environ)
    by_system = "Library/Application Support" if sys.platform == "darwin" else ".config"
    folder = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / by_system)
    usual = folder / "tandem" / "config.yaml"
    if as_json:
        print_json({"path": str(found or usual), "exists": found is not None and found.is_file()})
    else:
        print(found or f"{usual} (not there: the defaults are in use)")


@app.command("reload")
def reload(config: ConfigFile = None, as_json: AsJson = False, url: Url = None) -> None:
    """Let the running server read its settings again; a bad file changes nothing."""
    from proxy.cli.running_server import require_server

    result = require_server(read_settings(config), url).post("/api/config/reload", {})
    if as_json:
        print_json(result)
        return
    print(f"Changed: {', '.join(result['changed']) or 'nothing'}.")
    if result["needs_restart"]:
        print(f"A restart is needed for: {', '.join(result['needs_restart'])}.")

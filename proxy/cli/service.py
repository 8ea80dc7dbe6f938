"""`tandem service install | uninstall | status`: the server at login, by systemd or launchd."""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import typer

from adapters.config import OllamaConfig
from proxy.cli.command import AsJson, CommandError, ConfigFile, fail, print_json, read_settings
from proxy.config import VARIABLES, Config, ConfigError, state_folder
from proxy.service import (
    LABEL,
    UNIT,
    plist_path,
    serve_command,
    to_plist,
    to_unit,
    unit_path,
)

app = typer.Typer(
    help="Run the server as a service of this user, from login on.", no_args_is_help=True
)
_FOLDERS = ("XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME", "HF_HOME", "HF_HUB_CACHE")
_PATHS = ("TANDEM_CONFIG", "TANDEM_STATE_FOLDER", "SSL_CERT_FILE", *_FOLDERS)
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
_NETWORK = (*_PROXIES, *map(str.lower, _PROXIES), "HF_ENDPOINT", "HF_HUB_OFFLINE")
_TRACES = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_SERVICE_NAME")
_PASSED_ON = ("OLLAMA_HOST", *VARIABLES, *_PATHS, *_NETWORK, *_TRACES)
"""Variables of the shell that the service gets as well."""


_HUGGING_FACE = (
    "$HF_TOKEN is not passed on to the service, because its file is no place for a secret. "
    "`hf auth login` keeps the token where the service finds it."
)
_PRIVATE = 0o600
"""Mode of the file: the address of a proxy may contain a password."""


class _Manager(NamedTuple):
    """The program that runs services on this system."""

    name: str
    file: Path
    start: Sequence[Sequence[str]]
    stop: Sequence[Sequence[str]]
    state: Sequence[str]


def _environment() -> dict[str, str]:
    """Variables for the service, with full paths: its working directory is another."""
    given = {name: os.environ[name] for name in _PASSED_ON if os.environ.get(name)}
    paths = {name: Path(given[name]).expanduser() for name in _PATHS if name in given}
    return given | {name: str(path.absolute()) for name, path in paths.items()}


def _require_keys(config: Config) -> None:
    """
    Raises:
        CommandError: the settings read a key from the environment of this shell.
    """
    ollama = [each for each in config.enabled().values() if isinstance(each, OllamaConfig)]
    keys = [key.key for key in config.server.keys] + [each.api_key or "" for each in ollama]
    if names := sorted({f"${key[4:]}" for key in keys if key.startswith("env:")}):
        raise CommandError(
            f"The settings read keys from {', '.join(names)}, which a service does not have. Keep "
            "them in files that only you can read, as in `key: file:~/.config/tandem/key`."
        )


def _content(settings: Config, config: str | None) -> bytes:
    """The file of the service."""
    command, environment = serve_command(config), _environment()
    if sys.platform == "darwin":
        return to_plist(command, environment, state_folder(settings, os.environ))
    return to_unit(command, environment).encode()


def _manager() -> _Manager:
    home = Path.home()
    if sys.platform == "darwin":
        domain = f"gui/{os.getuid()}"
        file = plist_path(home)
        return _Manager(
            "launchctl",
            file,
            (("launchctl", "bootstrap", domain, str(file)),),
            (("launchctl", "bootout", f"{domain}/{LABEL}"),),
            ("launchctl", "print", f"{domain}/{LABEL}"),
        )
    user = ("systemctl", "--user")
    return _Manager(
        "systemctl",
        unit_path(home, os.environ),
        ((*user, "daemon-reload"), (*user, "enable", UNIT), (*user, "restart", UNIT)),
        ((*user, "disable", "--now", UNIT),),
        (*user, "is-active", UNIT),
    )


def _run(command: Sequence[str]) -> str | None:
    """Run a command; returns what it reports on failure, `None` on success."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    except OSError as exc:
        return f"{command[0]}: {exc.strerror}"
    return None if done.returncode == 0 else (done.stderr or done.stdout).strip() or "failed"


@app.command("install")
def install(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the file only.")] = False,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Write the file of the service, and start it."""
    settings = read_settings(config)
    _require_keys(settings)
    manager, content = _manager(), _content(settings, config)
    if os.environ.get("HF_TOKEN"):
        print(f"tandem: {_HUGGING_FACE}", file=sys.stderr)
    if dry_run:
        if as_json:
            print_json({"file": str(manager.file), "content": content.decode()})
        else:
            print(content.decode(), end="")
        return
    try:
        manager.file.parent.mkdir(parents=True, exist_ok=True)
        manager.file.touch(mode=_PRIVATE)
        manager.file.chmod(_PRIVATE)
        manager.file.write_bytes(content)
    except OSError as exc:
        raise CommandError(f"{manager.file} cannot be written: {exc.strerror}.") from exc
    if sys.platform == "darwin":
        for command in manager.stop:  # An agent that runs is not replaced.
            _run(command)
    for command in manager.start:
        if (reason := _run(command)) is not None:
            raise CommandError(
                f"{manager.file} is written, but `{' '.join(command)}` failed: {reason}. Without "
                f"{manager.name} of this user, start the server with `tandem serve`."
            )
    if as_json:
        print_json({"file": str(manager.file), "installed": True})
        return
    print(f"The service runs, and starts at login: {manager.file}")
    if sys.platform != "darwin":
        print("To run it without a login: `loginctl enable-linger`.")


@app.command("uninstall")
def uninstall(config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Stop the service, and remove its file."""
    del config  # All commands have it; settings that are not valid must not keep a service.
    manager = _manager()
    if not manager.file.exists():
        raise CommandError(f"No service is installed: {manager.file} does not exist.")
    for command in manager.stop:
        if (reason := _run(command)) is not None:
            print(f"tandem: `{' '.join(command)}` failed: {reason}", file=sys.stderr)
    try:
        manager.file.unlink()
    except OSError as exc:
        raise CommandError(f"{manager.file} cannot be deleted: {exc.strerror}.") from exc
    if as_json:
        print_json({"file": str(manager.file), "installed": False})
    else:
        print(f"{manager.file} is removed")


@app.command("status")
def status(config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Say whether the service is installed and runs; the exit status is 3 if it does not."""
    from proxy.cli.running_server import find_server

    manager = _manager()
    is_installed = manager.file.exists()
    runs = is_installed and shutil.which(manager.name) is not None and _run(manager.state) is None
    server = None
    try:
        server = find_server(read_settings(config))
    except ConfigError as exc:  # The reason why it does not run, most often.
        fail(2, str(exc))
    if as_json:
        url = None if server is None else server.url
        print_json({"file": str(manager.file), "installed": is_installed, "runs": runs, "url": url})
    else:
        print(f"Service: {'installed' if is_installed else 'not installed'} ({manager.file})")
        print(f"Runs:    {'yes' if runs else 'no'}")
        print(f"Server:  {server.url if server is not None else 'does not respond'}")
        if not is_installed:
            print("`tandem service install` installs it.")
    if not runs:
        raise typer.Exit(3)

"""Tandem as a service of the user: the unit for systemd, the agent for launchd."""

import plistlib
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

UNIT = "tandem.service"
LABEL = "dev.tandem.server"
_PLAIN = re.compile(r"[^\s\\\"';]+")
"""A word without quotes."""
_STOP_SECONDS = 20
"""Longer than `server.shutdown_grace` may be."""


def serve_command(config: str | None) -> list[str]:
    """The command of the service, by the path of the installed program."""
    program = shutil.which("tandem")
    # -P: not a folder named `proxy` in the working directory.
    start = [program] if program is not None else [sys.executable, "-P", "-m", "proxy"]
    named = ["--config", str(Path(config).expanduser().resolve())] if config is not None else []
    return [*start, "serve", *named]


def to_unit(command: Sequence[str], environment: Mapping[str, str]) -> str:
    """A unit of systemd's user manager, restricted by what needs neither root nor namespaces.

    Source: https://www.freedesktop.org/software/systemd/man/latest/systemd.service.html
    """
    pairs = (_quoted(f"{name}={value}") for name, value in environment.items())
    variables = "".join(f"Environment={pair}\n" for pair in pairs)
    return f"""\
[Unit]
Description=Tandem, a server for language models
After=network-online.target

[Service]
ExecStart={" ".join(_quoted(word).replace("$", "$$") for word in command)}
ExecReload=/bin/kill -HUP $MAINPID
{variables}Restart=on-failure
RestartSec=2
TimeoutStopSec={_STOP_SECONDS}
UMask=0077

NoNewPrivileges=yes
LockPersonality=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged
SystemCallErrorNumber=EPERM

[Install]
WantedBy=default.target
"""


def _quoted(word: str) -> str:
    """Write a word of a unit, in which `%` begins a specifier, and a backslash an escape.

    Source: https://www.freedesktop.org/software/systemd/man/latest/systemd.syntax.html#Quoting
    """
    word = word.replace("%", "%%").replace("\\", "\\\\").replace('"', '\\"')
    return word if _PLAIN.fullmatch(word) else f'"{word}"'


def to_plist(command: Sequence[str], environment: Mapping[str, str], logs: Path) -> bytes:
    """An agent of launchd.

    Source: `man launchd.plist`
    """
    return plistlib.dumps(
        {
            "Label": LABEL,
            "ProgramArguments": list(command),
            "EnvironmentVariables": dict(environment),
            "RunAtLoad": True,
            # Not after an end without an error, such as that by `launchctl bootout`.
            "KeepAlive": {"SuccessfulExit": False},
            "ThrottleInterval": 5,
            "ExitTimeOut": _STOP_SECONDS,
            "ProcessType": "Interactive",
            "StandardOutPath": str(logs / "tandem.out.log"),
            "StandardErrorPath": str(logs / "tandem.err.log"),
        },
        sort_keys=False,
    )


def unit_path(home: Path, environ: Mapping[str, str]) -> Path:
    folder = Path(environ.get("XDG_CONFIG_HOME") or home / ".config")
    return folder / "systemd" / "user" / UNIT


def plist_path(home: Path) -> Path:
    return home / "Library" / "LaunchAgents" / f"{LABEL}.plist"

"""Tandem as a service of the user: the unit for systemd, the agent for launchd."""

import plistlib
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

UNIT = "tandem.service"
LABEL = "dev.tandem.server"
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
    variables = "".join(f'Environment="{name}={value}"\n' for name, value in environment.items())
    return f"""\
[Unit]
Description=Tandem, a server for language models
After=network-online.target

[Service]
ExecStart={" ".join(map(_quoted, command))}
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
    """A word of `ExecStart`, in which % and $ have a meaning."""
    word = word.replace("%", "%%").replace("$", "$$")
    return f'"{word}"' if " " in word else word


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

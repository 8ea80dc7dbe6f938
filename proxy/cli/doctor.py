"""`tandem doctor`: what works on this machine, what does not, and what to do."""

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from proxy.cli.command import AsJson, ConfigFile, print_json, takes_all
from proxy.cli.names import complete_model
from proxy.cli.progress import steps_bar

if TYPE_CHECKING:
    from proxy.bench.results import Report
    from proxy.doctor.machine import Examined
    from proxy.doctor.report import Check, Checks

_PLAIN = str.maketrans({"✓": "+", "✗": "x", "→": ">"})
"""Marks for a terminal without these characters, which would all be `?`, as what is unknown."""
_SELFTEST = "Also prove this machine with a model: parity, seeds, grammar, memory, speed."


def doctor(
    selftest: Annotated[bool, typer.Option("--selftest", help=_SELFTEST)] = False,
    model: Annotated[
        str | None,
        typer.Option(
            help="The model of the selftest; by default the smallest of each engine.",
            autocompletion=complete_model,
        ),
    ] = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Check this machine on one screen; the exit status is 1 if something does not work."""
    from proxy.config import state_folder
    from proxy.doctor import machine
    from proxy.doctor.report import to_json, to_lines, to_report

    examined = machine.examine_config(config, os.environ)
    settings = examined.config
    groups = _groups(examined)
    hidden: dict[str, str] = {}
    if selftest:
        from proxy.doctor.selftest import selftests

        file = None if examined.file is None else str(examined.file)
        groups.append(partial(_with_bar, partial(selftests, settings, file, model)))
        # A report to share has no paths: they contain names of users.
        folder = str(state_folder(settings, os.environ))
        hidden = {folder: "STATE", **({file: "config.yaml"} if file else {}), str(Path.home()): "~"}
    report = asyncio.run(to_report(groups))
    shown = to_json(report, hidden)
    if as_json:
        print_json(shown)
    else:
        for line in to_lines(report):
            for path, name in hidden.items():
                line = line.replace(path, name)
            print(line if takes_all() else line.translate(_PLAIN))
    if report.overall_status == "fail":
        sys.stdout.flush()
        raise typer.Exit(1)


def _groups(examined: "Examined") -> "list[Checks]":
    """List the checks that need no model, in the order of the report."""
    from proxy.doctor import engines, machine

    async def configuration() -> "dict[str, Check]":
        return examined.checks

    settings = examined.config
    return [
        configuration,
        machine.check_versions,
        partial(machine.check_device, settings),
        partial(machine.check_disk, settings),
        machine.check_proxy_variables,
        partial(machine.check_port, settings),
        partial(engines.check_ollama, settings),
        partial(engines.check_models, settings),
    ]


async def _with_bar(tests: "Callable[[Report], Awaitable[dict[str, Check]]]") -> "dict[str, Check]":
    with steps_bar() as report:
        return await tests(report)

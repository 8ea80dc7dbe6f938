"""Every recorded chat template against the conversations that clients have."""

from pathlib import Path

import pytest
from probes.template_sweep import NONE, OK, TEMPLATES, sweep, templates

FEW = ("mistralai-Mistral-Nemo-Instruct-2407",)
"""The template that refuses most."""
FAULTS: dict[str, set[str]] = {}
"""Checks that a template is known to fail."""


async def check_all(name: str, folder: Path) -> None:
    text = (TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8")
    outcomes = await sweep(text, folder)
    wrong = {check: fault for check, fault in outcomes.items() if fault not in (OK, NONE)}
    assert wrong.keys() == FAULTS.get(name, set()), wrong


@pytest.mark.slow
@pytest.mark.parametrize("name", FEW)
async def test_template_takes_the_conversations_of_clients(name: str, tmp_path: Path):
    await check_all(name, tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("name", [name for name, _ in templates()])
async def test_every_template_takes_the_conversations_of_clients(name: str, tmp_path: Path):
    await check_all(name, tmp_path)

"""Every recorded chat template against the conversations that clients have."""

from pathlib import Path

import pytest
from probes.template_sweep import NONE, OK, TEMPLATES, sweep, templates

FEW = ("mistralai-Mistral-Nemo-Instruct-2407",)
"""The template that refuses most."""
INVENTED = Path(__file__).parents[3] / "data" / "invented-templates"
FAULTS: dict[str, set[str]] = {
    # Its tools follow the messages.
    "odd-always": {"tools"},
    # Its own notation of calls cannot be read, so that it is told another one in words.
    "odd-late": {"call is read"},
    "odd-yaml": {"call is read"},
}
"""Checks that a template is known to fail."""


async def check_all(name: str, folder: Path, templates: Path = TEMPLATES) -> None:
    text = (templates / f"{name}.jinja").read_text(encoding="utf-8")
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


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(file.stem for file in INVENTED.glob("*.jinja")))
async def test_invented_template_takes_the_conversations_of_clients(name: str, tmp_path: Path):
    await check_all(name, tmp_path, INVENTED)

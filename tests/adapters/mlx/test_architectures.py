"""Every architecture of mlx-lm gives the answers of the bare engine; minutes in all."""

from pathlib import Path

import pytest
from fakes.tiny_architectures import UNTESTED, modules
from probes.architecture_sweep import sweep, variations

pytestmark = [pytest.mark.long, pytest.mark.timeout(300)]


@pytest.mark.parametrize("name", variations())
async def test_answers_are_those_of_the_bare_engine(name: str, tmp_path: Path) -> None:
    outcome = await sweep(name, tmp_path)
    assert outcome.is_right, outcome.faults


def test_untested_architectures_exist() -> None:
    assert set(modules()) >= set(UNTESTED)

"""The comparison with Ollama's own /v1 in docs/parameters.md is complete and true."""

import json
from collections.abc import Iterator

import pytest
from probes.ollama_probes import PROBES, Probe, verdict
from probes.ollama_side import Side

from tools.ollama_comparison import PAGE, ROOT, both_sides, rows

TABLE = PAGE.read_text(encoding="utf-8")
FIELDS = ROOT / "tests" / "data" / "openai-chat-completion-fields.json"
WITHOUT_EFFECT = {
    "metadata",
    "prediction",
    "prompt_cache_key",
    "prompt_cache_options",
    "prompt_cache_retention",
    "safety_identifier",
    "service_tier",
    "store",
    "user",
}
"""On an answer, at OpenAI as well: there is nothing to look at."""


def test_the_table_has_a_row_for_every_probe():
    assert list(rows(TABLE)) == [probe.parameter for probe in PROBES]


def test_every_parameter_of_openai_is_probed():
    probed = {word.strip(",:") for probe in PROBES for word in probe.parameter.split()}
    assert set(json.loads(FIELDS.read_text())) - WITHOUT_EFFECT - {"model"} <= probed


def test_only_verbosity_is_without_effect_and_the_page_says_it_is_named():
    without_effect = [name for name, (_, ours) in rows(TABLE).items() if ours == "ignored"]
    assert without_effect == ["verbosity"]
    assert {ours for _, ours in rows(TABLE).values()} == {"yes", "400", "ignored"}
    assert "named in `x-tandem-ignored`: `verbosity`" in TABLE
    assert "ignored" in {theirs for theirs, _ in rows(TABLE).values()}


@pytest.fixture(scope="module")
def sides(ollama_host: str) -> Iterator[tuple[Side, Side]]:
    with both_sides(ollama_host) as both:
        yield both


@pytest.mark.ollama
@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("probe", PROBES, ids=lambda probe: probe.parameter)
def test_both_do_what_the_table_says(sides: tuple[Side, Side], probe: Probe):
    theirs, ours = (verdict(probe, side) for side in sides)
    assert (theirs, ours) == rows(TABLE)[probe.parameter]

"""The Ollama of today answers as recorded; where it differs, renew the recordings."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from fakes.recorded_ollama import recording
from servers.ollama_server import OllamaProcess, own_ollama

from tools.record_ollama import faults, record, requests_recorded, with_short_names

pytestmark = [pytest.mark.ollama, pytest.mark.long, pytest.mark.timeout(300)]

LISTS = frozenset({"ps", "tags"})
"""Recordings that depend on the installed models."""


@pytest.fixture(scope="module")
def server() -> Iterator[OllamaProcess]:
    with own_ollama() as server:
        with_short_names(server.host)
        yield server


def shape(response: dict[str, Any]) -> Any:
    """Status, end, and what the first and the last line consist of; the words of an error too."""
    lines = "".join(response["chunks"]).strip().split("\n")
    ends = [_keys(lines[0]), _keys(lines[-1])] if response["ended"] == "complete" else []
    return response["status"], response["ended"], ends


def _keys(line: str) -> Any:
    try:
        told = json.loads(line)
    except ValueError:
        return line
    return told["error"] if "error" in told else sorted(told)


@pytest.mark.parametrize("name", sorted(set(requests_recorded()) - LISTS))
def test_answer_is_still_the_recorded_one(server: OllamaProcess, name: str):
    now = record(server.host, str(server.models), name)
    assert shape(now["response"]) == shape(recording(name)["response"])


def test_faults_are_still_the_recorded_ones(server: OllamaProcess):
    for name, now in faults(server):
        assert shape(now["response"]) == shape(recording(name)["response"]), name

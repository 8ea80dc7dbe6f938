"""Pytest plugin: every JSON body and event of OpenAI's routes is checked against OpenAI's schema.

`TANDEM_OPENAI_SCHEMA` is the path of OpenAI's openapi.yaml; without it nothing is recorded. A
violation fails the test that caused it. Server processes write to a file, which is read after each
test, and at the end what they had not finished.
"""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from recorder.journal import Answer, Entry, answers, read_file
from recorder.openai_schema import OpenAISchema, check
from recorder.recorded_app import recorded
from recorder.serve import JOURNAL_VARIABLE

import proxy.app
from proxy.http.dispatch import Dispatch


class Recorder:
    def __init__(self, schema: Path, journal: Path) -> None:
        self._path = schema
        self._schema: OpenAISchema | None = None
        self.journal = journal
        self.entries: list[Entry] = []
        """Entries of applications in this process."""
        self._read = 0
        self._unfinished: dict[str, Answer] = {}
        self.counts: Counter[str] = Counter()
        """Bodies and events that were checked, by operation."""

    @property
    def schema(self) -> OpenAISchema:
        if self._schema is None:
            self._schema = OpenAISchema(self._path)
        return self._schema

    def violations(self) -> list[str]:
        """Check the answers that have ended since the last call."""
        written, self._read = read_file(self.journal, self._read)
        entries, self.entries[:] = [*self.entries, *written], []
        return self._check(answers(entries, self._unfinished))

    def violations_of_unfinished(self) -> list[str]:
        """Check the events of streams that never ended."""
        return self._check(iter(list(self._unfinished.values())))

    def _check(self, found: Iterator[Answer]) -> list[str]:
        wrong: list[str] = []
        for answer in found:
            checked = check(answer, self.schema)
            path = checked.operation.path if checked.operation else "errors of other paths"
            self.counts[f"{path}: bodies"] += checked.bodies
            self.counts[f"{path}: events"] += checked.events
            wrong += checked.violations
        return wrong


@pytest.fixture(scope="session")
def recorder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recorder | None]:
    """Record all applications and server processes; `None` without OpenAI's document."""
    schema = os.environ.get("TANDEM_OPENAI_SCHEMA")
    if not schema:
        yield None
        return
    made = Recorder(Path(schema), tmp_path_factory.mktemp("journal") / "answers.jsonl")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(JOURNAL_VARIABLE, str(made.journal))
        patch.setattr(proxy.app, "Dispatch", recorded(made.entries.append))
        yield made


@pytest.fixture(scope="session", autouse=True)
def every_answer_is_checked(
    request: pytest.FixtureRequest, recorder: Recorder | None
) -> Iterator[None]:
    yield
    if recorder is None:
        return
    wrong = [*recorder.violations(), *recorder.violations_of_unfinished()]
    counts = {name: count for name, count in recorder.counts.items() if count}
    if (output := getattr(request.config, "workeroutput", None)) is not None:
        output["schema_counts"] = counts
    else:
        request.config.stash[COUNTS] = Counter(counts)
    assert not wrong, "\n".join(wrong)


@pytest.fixture(autouse=True)
def answers_keep_to_openais_schema(recorder: Recorder | None) -> Iterator[None]:
    yield
    if recorder is not None:
        wrong = recorder.violations()
        assert not wrong, "OpenAI's schema is violated:\n" + "\n".join(wrong)


@pytest.fixture(scope="module")
def unrecorded(recorder: Recorder | None) -> Iterator[None]:
    """Applications without the recorder, for tests that count calls."""
    if recorder is None:
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(proxy.app, "Dispatch", Dispatch)
        yield


COUNTS = pytest.StashKey[Counter[str]]()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """Add the counts of a worker process of pytest-xdist."""
    counts = Counter(getattr(node, "workeroutput", {}).get("schema_counts", {}))
    node.config.stash[COUNTS] = node.config.stash.get(COUNTS, Counter()) + counts


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    counts = terminalreporter.config.stash.get(COUNTS, Counter())
    if counts:
        terminalreporter.section("checked against OpenAI's schema")
        for name, count in sorted(counts.items()):
            terminalreporter.line(f"{count:7} {name}")

"""Requests made from our own OpenAPI document: none is a defect of the server."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tools.faults.processes import Tandem, running

pytestmark = [pytest.mark.long, pytest.mark.process, pytest.mark.timeout(1800)]

_EXAMPLES = 5
"""Requests to each operation."""
_DEFECTS = (500, 502, 504)
_ADMINISTRATION = ("/api/pull", "/api/create")
"""They would work for minutes: the upstream is a script."""


@contextmanager
def _server() -> Iterator[Tandem]:
    with running() as (tandem, _):
        yield tandem


@pytest.mark.filterwarnings("ignore")
def test_requests_of_the_document_are_no_defects() -> None:
    import schemathesis
    from hypothesis import HealthCheck, Phase, given, settings
    from schemathesis.core.result import Ok

    with _server() as tandem:
        base = f"http://127.0.0.1:{tandem.port}"
        schema = schemathesis.openapi.from_url(f"{base}/openapi.json")
        bad: list[str] = []
        seen = 0
        for found in schema.get_all_operations():
            assert isinstance(found, Ok), found
            operation: Any = found.ok()
            if operation.path in _ADMINISTRATION:
                continue
            limits = settings(
                max_examples=_EXAMPLES,
                deadline=None,
                database=None,
                derandomize=True,
                phases=[Phase.generate],
                suppress_health_check=[*HealthCheck.__members__.values()],
            )

            @limits
            @given(case=operation.as_strategy())
            def call(case: schemathesis.Case) -> None:
                nonlocal seen
                seen += 1
                response = case.call(base_url=base, timeout=20)
                if response.status_code in _DEFECTS:
                    bad.append(f"{case.method} {case.path}: {case.body!r}"[:500])

            call()
        assert tandem.process.poll() is None
        assert seen > 100
        assert not bad, bad[:10]

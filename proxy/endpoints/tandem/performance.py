"""`GET /api/performance/comparison`: the speed of each backend with the same model."""

import asyncio
from collections.abc import Sequence

from litestar import get
from litestar.params import FromQuery
from msgspec import Struct
from msgspec.structs import asdict

from proxy.bench.results import Contestant, Result, to_contestant
from proxy.bench.speed_verdicts import Verdict, benched_verdicts, live_verdicts
from proxy.endpoints.openai.models import LISTING_SECONDS
from proxy.endpoints.server_request import ServerRequest
from proxy.models.registry import RegisteredModel
from proxy.openapi import Operation
from proxy.routing.measurements import Measurements, Row


class Benched(Result, frozen=True, kw_only=True):
    """A stored result of `tandem bench MODEL`."""

    stale: bool
    """The model has changed since on one of the backends: other weights, or another tag."""


class ModelComparison(Struct, kw_only=True):
    model_id: str
    backends: list[Contestant]
    same_weights: bool | None
    """See `RegisteredModel.same_weights`; different weights give different answers."""
    live: list[Row]
    """The answers since the server started."""
    benched: list[Benched]
    """The newest first."""
    summary: list[Verdict]
    """The fastest backend of each bucket with several measured; of benchmarks, the newest."""


class Comparison(Struct):
    models: list[ModelComparison]
    """The models with answers or benchmarks."""


@get(
    "/api/performance/comparison",
    operation=Operation(summary="Speed of each backend with the same model", answers=(Comparison,)),
)
async def get_comparison(request: ServerRequest, model: FromQuery[str | None] = None) -> Comparison:
    """Compare all models with measurements, or `model` alone, with or without measurements."""
    await request.registry.refresh(LISTING_SECONDS, only_new=True)
    entries = request.entries() if model is None else [await request.router.find(model)]
    results = await asyncio.to_thread(request.archive.results)
    comparisons = [to_comparison(entry, request.measurements, results) for entry in entries]
    return Comparison(
        [comparison for comparison in comparisons if model or comparison.live or comparison.benched]
    )


def to_comparison(
    entry: RegisteredModel, measurements: Measurements, results: Sequence[Result]
) -> ModelComparison:
    now = [to_contestant(deployment) for deployment in entry.deployments]
    live = measurements.comparison(entry.deployments)
    # By the backends' own names: aliases may have changed since.
    here = {(contestant.backend, contestant.name) for contestant in now}
    benched = [
        _to_benched(result, now)
        for result in results
        if all((one.backend, one.name) in here for one in result.contestants)
    ]
    newest = [benched_verdicts(result) for result in benched if not result.stale][:1]
    return ModelComparison(
        model_id=entry.id,
        backends=now,
        same_weights=entry.same_weights,
        live=live,
        benched=benched,
        summary=[*live_verdicts(live), *(verdict for verdicts in newest for verdict in verdicts)],
    )


def _to_benched(result: Result, now: Sequence[Contestant]) -> Benched:
    current = {contestant.backend: contestant for contestant in now}
    pairs = [
        pair
        for then in result.contestants
        for pair in zip(_identity(then), _identity(current[then.backend]), strict=True)
    ]
    # Only facts that were known then and are known now can differ.
    stale = any(one != other for one, other in pairs if one and other)
    return Benched(**asdict(result), stale=stale)


def _identity(contestant: Contestant) -> tuple[str | int | None, ...]:
    """Size included: MLX folders have no digest, and a new version rarely has the same size."""
    return contestant.digest, contestant.origin, contestant.quantization, contestant.size_bytes

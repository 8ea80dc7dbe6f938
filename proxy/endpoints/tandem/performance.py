"""`GET /api/performance/comparison`: what each backend did with the same model, side by side."""

import asyncio
from collections.abc import Sequence

from litestar import get
from litestar.params import FromQuery
from msgspec import Struct
from msgspec.structs import asdict

from proxy.bench.results import Contestant, Result, to_contestant
from proxy.bench.speed_verdicts import Verdict, benched_verdicts, live_verdicts
from proxy.endpoints.openai.models import PATIENCE
from proxy.endpoints.server_request import ServerRequest
from proxy.models.registry import RegisteredModel
from proxy.openapi import Operation
from proxy.routing.measurements import Measurements, Row


class Benched(Result, frozen=True, kw_only=True):
    """What `tandem bench MODEL` found, some time or other."""

    stale: bool
    """The model is another one now on one of the backends: other weights, or another tag."""


class ModelComparison(Struct, kw_only=True):
    model_id: str
    backends: list[Contestant]
    same_weights: bool | None
    """As `RegisteredModel.same_weights`. Other weights answer otherwise, however fast."""
    live: list[Row]
    """What the answers were like since the server started."""
    benched: list[Benched]
    """The newest first."""
    summary: list[Verdict]
    """Who is faster, where several were measured at the same; of what was benched the newest."""


class Comparison(Struct):
    models: list[ModelComparison]
    """Those that have answered, or were benched."""


@get(
    "/api/performance/comparison",
    operation=Operation(summary="What each engine did with the same model", answers=(Comparison,)),
)
async def get_comparison(request: ServerRequest, model: FromQuery[str | None] = None) -> Comparison:
    """Of all models, or of `model` alone, which is then there even if nothing is known of it."""
    registry = request.registry
    await registry.refresh(PATIENCE, only_new=True)
    entries = registry.entries() if model is None else [await request.router.find(model)]
    results = await asyncio.to_thread(request.archive.results)
    models = [to_comparison(entry, request.measurements, results) for entry in entries]
    return Comparison([each for each in models if model or each.live or each.benched])


def to_comparison(
    entry: RegisteredModel, measurements: Measurements, results: Sequence[Result]
) -> ModelComparison:
    now = [to_contestant(deployment) for deployment in entry.deployments]
    live = measurements.comparison(entry.deployments)
    benched = [_to_benched(result, now) for result in results if _is_of(result, now)]
    newest = [benched_verdicts(each) for each in benched if not each.stale][:1]
    return ModelComparison(
        model_id=entry.id,
        backends=now,
        same_weights=entry.same_weights,
        live=live,
        benched=benched,
        summary=[*live_verdicts(live), *(verdict for found in newest for verdict in found)],
    )


def _is_of(result: Result, now: Sequence[Contestant]) -> bool:
    """By what the backends call it: the names of the user's own may have changed since."""
    here = {(each.backend, each.name) for each in now}
    return all((each.backend, each.name) in here for each in result.contestants)


def _to_benched(result: Result, now: Sequence[Contestant]) -> Benched:
    here = {each.backend: each for each in now}
    stale = any(_has_changed(each, here[each.backend]) for each in result.contestants)
    return Benched(**asdict(result), stale=stale)


def _has_changed(then: Contestant, now: Contestant) -> bool:
    """What was not known then, or is not now, has not changed."""
    pairs = zip(_identity(then), _identity(now), strict=True)
    return any(one != other for one, other in pairs if one and other)


def _identity(contestant: Contestant) -> tuple[str | int | None, ...]:
    """MLX's folders have no digest; few are made anew in just as many bytes."""
    told = contestant
    return told.digest, told.origin, told.quantization, told.size_bytes

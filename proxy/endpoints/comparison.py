"""`GET /api/performance/comparison`: what each backend did with the same model, side by side."""

from litestar import get
from litestar.di import NamedDependency
from msgspec import Struct

from proxy.measurements import Measurements, Row
from proxy.operation import Operation
from proxy.registry import Entry, Registry


class Contestant(Struct, kw_only=True):
    backend: str
    name: str
    """The backend's own, of the model."""
    quantization: str | None
    """Weights of other bits are other weights: their answers differ, not their speed alone."""
    digest: str | None


class ModelComparison(Struct, kw_only=True):
    model_id: str
    backends: list[Contestant]
    live: list[Row]
    """What the answers were like since the server started."""


class Comparison(Struct):
    models: list[ModelComparison]
    """Those that have answered."""


def to_comparison(entry: Entry, measurements: Measurements) -> ModelComparison:
    return ModelComparison(
        model_id=entry.id,
        backends=[
            Contestant(
                backend=place.kind,
                name=place.name,
                quantization=place.model.quantization if place.model else None,
                digest=place.model.digest if place.model else None,
            )
            for place in entry.places
        ],
        live=measurements.comparison(entry.places),
    )


@get(
    "/api/performance/comparison",
    operation=Operation(summary="What each engine did with the same model", answers=(Comparison,)),
)
async def get_comparison(
    registry: NamedDependency[Registry], measurements: NamedDependency[Measurements]
) -> Comparison:
    models = [to_comparison(entry, measurements) for entry in registry.entries()]
    return Comparison([model for model in models if model.live])

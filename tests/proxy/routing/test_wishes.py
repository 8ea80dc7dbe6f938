"""Features that a request wishes for: granted where they can be, named where they cannot."""

import pytest
from fakes.scripted_backend import EVERYTHING, ScriptedBackend

from adapters.backend import Model
from adapters.errors import UnsupportedParameterError
from adapters.request import Feature, GenerationRequest, Message, TextPart, needs
from proxy.models.registry import Registry
from proxy.record import Record
from proxy.routing.measurements import Measurements
from proxy.routing.router import Router
from proxy.sinks import Collector

BOTH: frozenset[Feature] = frozenset({"reasoning_effort", "reasoning_budget"})
REQUEST = GenerationRequest(
    model="m",
    prompt=(Message(role="user", content=(TextPart("Hi"),)),),
    reasoning_effort="high",
    reasoning_budget=100,
)


async def answered(backend: ScriptedBackend, request: GenerationRequest) -> Record:
    record = Record()
    registry = Registry({}, period=60)
    async with registry.open({}, {backend.kind: backend}):
        await registry.refresh(0.05)
        await Router(registry, Measurements()).generate(request, Collector(), record)
    return record


def wishing(*features: Feature) -> GenerationRequest:
    return GenerationRequest(
        model=REQUEST.model,
        prompt=REQUEST.prompt,
        reasoning_effort=REQUEST.reasoning_effort,
        reasoning_budget=REQUEST.reasoning_budget,
        wishes=frozenset(features),
    )


async def test_wish_that_the_backend_honours_reaches_it():
    backend = ScriptedBackend()
    record = await answered(backend, wishing(*BOTH))
    assert needs(backend.requests[0]) == BOTH
    assert record.ignored == ()


async def test_wish_that_the_backend_lacks_is_named():
    backend = ScriptedBackend(honours=EVERYTHING - {"reasoning_budget"})
    record = await answered(backend, wishing(*BOTH))
    assert needs(backend.requests[0]) == {"reasoning_effort"}
    assert record.ignored == ("reasoning_budget",)


async def test_wish_that_the_model_lacks_is_named():
    backend = ScriptedBackend(models=[Model(name="m", lacks=BOTH)])
    record = await answered(backend, wishing(*BOTH))
    assert needs(backend.requests[0]) == frozenset()
    assert record.ignored == ("reasoning_budget", "reasoning_effort")


async def test_feature_that_is_no_wish_is_refused():
    backend = ScriptedBackend(models=[Model(name="m", lacks=BOTH)])
    with pytest.raises(UnsupportedParameterError) as caught:
        await answered(backend, wishing("reasoning_effort"))
    assert caught.value.param == "reasoning_budget"

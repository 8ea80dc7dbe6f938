"""Names resolve to models, and requirements to backends."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from fakes.scripted_backend import EVERYTHING, HANG, ScriptedBackend
from fakes.waiting import until

from adapters.backend import Model
from adapters.errors import (
    BackendError,
    BackendUnavailableError,
    InvalidRequestError,
    ModelNotFoundError,
    UnsupportedParameterError,
)
from adapters.features import OLLAMA
from adapters.request import Feature, GenerationRequest
from proxy.config import ModelConfig
from proxy.models.registry import Registry
from proxy.routing.measurements import Measurements
from proxy.routing.router import Router
from proxy.sinks import Collector

ALIASES = {
    "fast": ModelConfig(names={"mlx": "/models/llama", "ollama": "llama3.2:3b"}),
    "slow": ModelConfig(names={"mlx": "/models/llama", "ollama": "llama3.2:3b"}, prefer="ollama"),
    "mine": ModelConfig(names={"ollama": "unlisted:1b"}),
    "qwen2.5:7b": ModelConfig(names={"mlx": "another"}),
}


def mlx(**more: Any) -> ScriptedBackend:
    names = ["mlx-community/Llama-3.2-1B-4bit", "both", "org-a/twin", "org-b/twin"]
    return ScriptedBackend(kind="mlx", models=[Model(name=name) for name in names], **more)


def ollama(**more: Any) -> ScriptedBackend:
    names = ["llama3.2:3b", "tiny:latest", "hf.co/x/Y-GGUF:Q4_K_M", "both", "qwen2.5:7b"]
    return ScriptedBackend(kind="ollama", models=[Model(name=name) for name in names], **more)


@asynccontextmanager
async def a_registry(*backends: ScriptedBackend) -> AsyncIterator[Registry]:
    registry = Registry(ALIASES, period=60)
    async with registry.open({}, {backend.kind: backend for backend in backends}):
        await registry.refresh(0.05)
        yield registry


@asynccontextmanager
async def a_router(*backends: ScriptedBackend) -> AsyncIterator[Router]:
    async with a_registry(*backends) as registry:
        yield Router(registry, Measurements())


@pytest.mark.parametrize(
    ("name", "kind", "own"),
    [
        ("llama3.2:3b", "ollama", "llama3.2:3b"),
        ("mlx-community/Llama-3.2-1B-4bit", "mlx", "mlx-community/Llama-3.2-1B-4bit"),
        ("Llama-3.2-1B-4bit", "mlx", "mlx-community/Llama-3.2-1B-4bit"),
        ("llama-3.2-1b-4BIT", "mlx", "mlx-community/Llama-3.2-1B-4bit"),
        ("tiny", "ollama", "tiny:latest"),
        ("TINY", "ollama", "tiny:latest"),
        ("Y-GGUF:Q4_K_M", "ollama", "hf.co/x/Y-GGUF:Q4_K_M"),
        ("both", "mlx", "both"),
        ("mlx/both", "mlx", "both"),
        ("ollama/both", "ollama", "both"),
        ("ollama/tiny", "ollama", "tiny:latest"),
        ("ollama/hf.co/x/Y-GGUF:Q4_K_M", "ollama", "hf.co/x/Y-GGUF:Q4_K_M"),
        ("fast", "mlx", "/models/llama"),
        ("slow", "ollama", "llama3.2:3b"),
        ("mlx/slow", "mlx", "/models/llama"),
        ("ollama/fast", "ollama", "llama3.2:3b"),
        ("mine", "ollama", "unlisted:1b"),
        ("qwen2.5:7b", "ollama", "qwen2.5:7b"),  # an exact id is stronger than a name of one's own
        ("org-a/twin", "mlx", "org-a/twin"),
    ],
)
async def test_name_resolves_to_a_model(name: str, kind: str, own: str):
    async with a_router(mlx(), ollama()) as router:
        route = await router.resolve(name, frozenset())
    assert (route.backend.kind, route.name) == (kind, own)


@pytest.mark.parametrize(
    "name",
    [
        "unknown",
        "llama3.2",
        "mlx/tiny",
        "mlx/mine",
        "ollama/Llama-3.2-1B-4bit",
        "echo/both",
        "../both",
        "/models/llama",
        "mlx/../both",
        "mlx//models/llama",
        "both/",
        "mlx/",
        "/",
        "..",
        "both:other",
        "C:\\both",
        "%2e%2e",
    ],
)
async def test_unknown_name_is_not_found(name: str):
    async with a_router(mlx(), ollama()) as router:
        with pytest.raises(ModelNotFoundError) as caught:
            await router.resolve(name, frozenset())
    assert caught.value.param == "model"


@pytest.mark.parametrize("name", ["", "a\x00b", "a\nb", "x" * 201, "\ud800", "a\u202eb"])
async def test_name_that_cannot_be_one_is_invalid(name: str):
    async with a_router(mlx()) as router:
        with pytest.raises(InvalidRequestError):
            await router.resolve(name, frozenset())


async def test_unknown_name_error_suggests_the_nearest():
    async with a_router(mlx(), ollama()) as router:
        with pytest.raises(ModelNotFoundError, match=r"Did you mean 'llama3.2:3b'"):
            await router.resolve("llama3.2:4b", frozenset())


async def test_ambiguous_short_name_error_lists_the_full_ones():
    async with a_router(mlx()) as router:
        with pytest.raises(ModelNotFoundError, match=r"'mlx/org-a/twin', 'mlx/org-b/twin'"):
            await router.resolve("twin", frozenset())


async def test_feature_selects_the_backend_that_honours_it():
    async with a_router(mlx(honours=EVERYTHING - {"seed"}), ollama()) as router:
        assert (await router.resolve("both", frozenset({"seed"}))).backend.kind == "ollama"
        assert (await router.resolve("both", frozenset({"stop"}))).backend.kind == "mlx"


async def test_feature_that_the_forced_backend_lacks_is_refused_with_a_hint():
    async with a_router(mlx(honours=EVERYTHING - {"seed"}), ollama()) as router:
        with pytest.raises(UnsupportedParameterError, match=r"on ollama could") as caught:
            await router.resolve("mlx/both", frozenset({"seed", "stop"}))
    assert caught.value.param == "seed"


async def test_model_that_lacks_a_feature_is_skipped():
    one = ScriptedBackend(
        kind="mlx", models=[Model(name="a", lacks=frozenset({"tools"})), Model(name="b")]
    )
    two = ScriptedBackend(kind="ollama", models=[Model(name="a")])
    async with a_router(one, two) as router:
        assert (await router.resolve("a", frozenset({"tools"}))).backend.kind == "ollama"
        assert (await router.resolve("a", frozenset({"images"}))).backend.kind == "mlx"
        assert (await router.resolve("b", frozenset({"tools"}))).backend.kind == "mlx"
        with pytest.raises(UnsupportedParameterError):
            await router.resolve("mlx/a", frozenset({"tools"}))


async def test_unreachable_backend_is_skipped():
    first, second = mlx(), ollama()
    async with a_registry(first, second) as registry:
        router = Router(registry, Measurements())
        first.models = BackendUnavailableError("gone")
        await registry.refresh(1)
        assert (await router.resolve("both", frozenset())).backend.kind == "ollama"
        assert (await router.resolve("fast", frozenset())).backend.kind == "ollama"


@pytest.mark.parametrize("fault", [BackendUnavailableError("gone"), KeyError("defect")])
async def test_model_of_an_unreachable_backend_is_not_listed_but_tried(fault: Exception):
    backend = ollama()
    async with a_registry(backend) as registry:
        router = Router(registry, Measurements())
        backend.models = fault
        await registry.refresh(1)
        assert registry.entries() == []
        assert (await router.resolve("tiny", frozenset())).name == "tiny:latest"
        backend.models = [Model(name="tiny:latest")]
        await registry.refresh(1)
        assert (await router.resolve("tiny", frozenset())).name == "tiny:latest"


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("ollama/anything", BackendUnavailableError),
        ("mistral:7b", BackendUnavailableError),
        ("hf.co/org/model:Q4_K_M", BackendUnavailableError),
        ("gpt-5", ModelNotFoundError),
        ("org/model", ModelNotFoundError),
        ("mlx/mistral:7b", ModelNotFoundError),
    ],
)
async def test_name_of_an_unreachable_backend_is_unavailable(name: str, error: type[BackendError]):
    backend = ollama()
    backend.models = BackendUnavailableError("gone")
    async with a_router(backend, ScriptedBackend(kind="mlx")) as router:
        with pytest.raises(error):
            await router.resolve(name, frozenset())


@pytest.mark.parametrize(
    ("feature", "message"),
    [
        ("logit_bias", "'logit_bias' is not supported for 'tiny:latest' on ollama. A model on mlx"),
        ("tokens", "Text as token ids is not supported for 'tiny:latest' on ollama. A model on"),
        ("tools", "'tiny:latest' does not support tools on ollama. This model lacks it"),
    ],
)
@pytest.mark.parametrize("others", [[], [ScriptedBackend(kind="mlx")]], ids=["alone", "both"])
async def test_refusal_names_the_engine_that_could_even_if_it_is_off_or_blames_the_model(
    feature: Feature, message: str, others: list[ScriptedBackend]
):
    backend = ollama(honours=OLLAMA)
    backend.models = [Model(name="tiny:latest", lacks=frozenset({"tools"}))]
    async with a_router(backend, *others) as router:
        with pytest.raises(UnsupportedParameterError, match=f"^{message}"):
            await router.resolve("tiny", frozenset({feature}))


@pytest.mark.parametrize("kind", ["mlx", "ollama"])
@pytest.mark.parametrize("max_tokens", [None, 5])
async def test_text_from_a_model_of_vectors_is_refused_alike_on_each_engine(
    kind: str, max_tokens: int | None
):
    model = Model(
        name="vectors",
        capabilities=frozenset({"embedding"}),
        lacks=frozenset({"max_tokens"}) if kind == "mlx" else frozenset(),
    )
    async with a_router(ScriptedBackend(kind=kind, models=[model])) as router:
        request = GenerationRequest(model="vectors", prompt="Hi", max_tokens=max_tokens)
        with pytest.raises(InvalidRequestError, match="writes no text") as caught:
            await router.generate(request, Collector())
        assert caught.value.param == "model"
        # It is loaded, unloaded and deleted like any other.
        assert await router.routes("vectors")
        assert await router.resolve("vectors", frozenset({"embeddings"}))


@pytest.mark.parametrize(
    "models", [BackendUnavailableError("gone"), pytest.param(HANG, marks=pytest.mark.long)]
)
async def test_name_is_unavailable_before_the_first_listing(models: Exception | str):
    backend = ollama()
    backend.models = models
    async with a_router(backend) as router:
        with pytest.raises(BackendUnavailableError):
            await router.resolve("llama3.2", frozenset())


async def test_new_model_is_found_at_once():
    backend = ollama()
    async with a_router(backend) as router:
        backend.models = [Model(name="new:latest")]
        assert (await router.resolve("new", frozenset())).name == "new:latest"


@pytest.mark.slow
async def test_unknown_names_share_one_listing():
    backend = ollama()
    async with a_router(backend) as router:
        backend.models, backend.listed = HANG, 0
        tasks = [router.resolve(f"x{at}", frozenset()) for at in range(20)]
        errors = await asyncio.gather(*tasks, return_exceptions=True)
    assert {type(each) for each in errors} == {ModelNotFoundError}
    assert backend.listed == 1


async def test_backend_that_starts_later_is_noticed():
    backend = ollama()
    backend.models = BackendUnavailableError("not yet")
    registry = Registry({}, period=0.01)
    async with registry.open({}, {"ollama": backend}):
        await registry.refresh(1)
        assert registry.entries() == []
        backend.models = [Model(name="a")]
        listed = backend.listed
        await until(lambda: backend.listed > listed + 1)
        assert [entry.id for entry in registry.entries()] == ["a"]


async def test_opening_does_not_wait_and_closing_leaves_no_task():
    backend = ollama()
    backend.models = HANG
    before = asyncio.all_tasks()
    async with Registry({}, period=60).open({}, {"ollama": backend}):
        await asyncio.sleep(0)  # Its task begins to list.
    assert asyncio.all_tasks() == before
    assert not backend.aclosed  # It was opened by the test.

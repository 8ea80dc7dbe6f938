"""One model on two backends: one entry, and all names that resolve to it."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import pytest
from fakes.scripted_backend import ScriptedBackend

from adapters.backend import Model
from adapters.errors import BackendUnavailableError, ModelNotFoundError
from proxy.config import ModelConfig
from proxy.models.registry import RegisteredModel, Registry
from proxy.routing.measurements import Measurements
from proxy.routing.router import Router

Shelves = Mapping[str, list[Model]]


@asynccontextmanager
async def routing(
    mlx: list[Model], ollama: list[Model], own: Mapping[str, ModelConfig] | None = None
) -> AsyncIterator[tuple[Router, Registry, ScriptedBackend]]:
    """A router, its registry, and the backend of kind `ollama`."""
    backends = [ScriptedBackend(kind=k, models=m) for k, m in (("mlx", mlx), ("ollama", ollama))]
    registry = Registry(own or {}, period=60)
    async with registry.open({}, {backend.kind: backend for backend in backends}):
        await registry.refresh(1)
        yield Router(registry, Measurements()), registry, backends[1]


def deployments(entry: RegisteredModel) -> list[str]:
    return [f"{deployment.backend}/{deployment.name}" for deployment in entry.deployments]


def made(name: str, origin: str, digest: str | None = None) -> Model:
    return Model(name=name, origin=origin, digest=digest)


class Listed(ScriptedBackend):
    """Signals its third listing, after which the warnings of the first two are logged."""

    def __init__(self, name: str) -> None:
        super().__init__(kind="ollama", models=[Model(name=name)])
        self.listed_thrice = asyncio.Event()

    async def list_models(self) -> list[Model]:
        if self.listed == 2:
            self.listed_thrice.set()
        return await super().list_models()


PAIR = {"fast": ModelConfig(names={"mlx": "org/a", "ollama": "a:7b"})}


@pytest.mark.parametrize("name", ["fast", "org/a", "a:7b", "a"])
async def test_alias_pair_is_one_entry_by_each_of_its_names(name: str):
    async with routing([Model(name="org/a")], [Model(name="a:7b")], PAIR) as (router, registry, _):
        (entry,) = registry.entries()
        entry = await router.find(name)
    assert (entry.id, entry.names) == ("fast", ("fast", "org/a", "a:7b"))
    assert (entry.id, deployments(entry)) == ("fast", ["mlx/org/a", "ollama/a:7b"])


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("fast", ["mlx", "ollama"]),
        ("org/a", ["mlx", "ollama"]),
        ("a:7b", ["ollama", "mlx"]),  # Named as Ollama does, its weights come first.
        ("mlx/a:7b", ["mlx"]),
        ("mlx/fast", ["mlx"]),
        ("ollama/org/a", ["ollama"]),
        ("ollama/a:7b", ["ollama"]),
    ],
)
async def test_own_name_of_a_backend_prefers_it_and_a_prefix_forces_it(name: str, kinds: list[str]):
    async with routing([Model(name="org/a")], [Model(name="a:7b")], PAIR) as (router, _, _):
        routes = await router.routes(name)
    assert [route.backend.kind for route in routes] == kinds


async def test_models_of_one_origin_are_one_entry():
    mlx, ollama = [made("org/a", "sha256:1")], [made("b:7b", "sha256:1"), made("c", "sha256:2")]
    async with routing(mlx, ollama) as (router, registry, _):
        entries = registry.entries()
        assert deployments(await router.find("b:7b")) == ["mlx/org/a", "ollama/b:7b"]
    assert {entry.names for entry in entries} == {("org/a", "b:7b"), ("c",)}


@pytest.mark.parametrize(
    ("mlx", "ollama"),
    [
        # Two tags of one file differ in their template, or in their system prompt.
        ([made("a", "1")], [made("b", "1", "x"), made("c", "1", "y")]),
        ([made("a", "1"), made("d", "1")], [made("b", "1")]),
        ([made("a", "1")], [Model(name="pirate", origin="1", primed=True)]),
        ([Model(name="org/a-7b")], [Model(name="a:7b")]),
        ([Model(name="org/a")], [Model(name="a:latest")]),
        ([made("a", "1")], [made("b", "2")]),
    ],
)
async def test_similar_models_stay_apart(mlx: list[Model], ollama: list[Model]):
    async with routing(mlx, ollama) as (_, registry, _):
        entries = registry.entries()
    assert all(len(entry.deployments) == 1 for entry in entries)
    assert len(entries) == len(mlx) + len(ollama)


async def test_two_tags_of_one_digest_are_one_model_beside_its_import():
    tags = [made("a:7b", "1", "x"), made("a:latest", "1", "x")]
    async with routing([made("imported", "1")], tags) as (router, registry, _):
        (entry,) = registry.entries()
        assert entry.names == ("imported", "a:7b", "a:latest")
        assert deployments(await router.find("a")) == ["mlx/imported", "ollama/a:latest"]
        assert deployments(await router.find("imported")) == ["mlx/imported", "ollama/a:7b"]


async def test_short_name_of_both_halves_of_a_pair_is_not_ambiguous():
    mlx, ollama = [made("org/tiny", "1")], [made("tiny:latest", "1")]
    async with routing(mlx, ollama) as (router, _, _):
        assert deployments(await router.find("tiny")) == ["mlx/org/tiny", "ollama/tiny:latest"]


@pytest.mark.parametrize(
    "name",
    ["library/a", "library/a:latest", "registry.ollama.ai/library/a", "ollama/library/a:latest"],
)
async def test_the_registry_and_owner_that_ollama_adds_may_be_written(name: str):
    async with routing([], [Model(name="a:latest"), Model(name="org/a:latest")]) as (router, _, _):
        assert deployments(await router.find(name)) == ["ollama/a:latest"]
        own = await router.find("registry.ollama.ai/org/a")
        assert deployments(own) == ["ollama/org/a:latest"]


async def test_ambiguous_short_name_error_names_both():
    async with routing([Model(name="org/tiny")], [Model(name="tiny:latest")]) as (router, _, _):
        with pytest.raises(ModelNotFoundError, match="'mlx/org/tiny', 'ollama/tiny:latest'"):
            await router.find("tiny")
        assert deployments(await router.find("mlx/tiny")) == ["mlx/org/tiny"]


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        (ModelConfig(names={"ollama": "a:7b"}), ["ollama/a:7b"]),
        (ModelConfig(names={"ollama": "a:7b", "mlx": "org/a"}), ["mlx/org/a", "ollama/a:7b"]),
        (
            ModelConfig(names={"mlx": "org/a"}),
            ["ollama/a:7b"],
        ),  # Another model: a tag is what it is.
    ],
)
async def test_alias_may_be_a_tag(own: ModelConfig, expected: list[str]):
    aliases = {"a:7b": own}
    async with routing([Model(name="org/a")], [Model(name="a:7b")], aliases) as (
        router,
        registry,
        _,
    ):
        entry = await router.find("a:7b")
        listed = {name: deployments(each) for each in registry.entries() for name in each.names}
    assert (entry.id, deployments(entry)) == ("a:7b", expected)
    assert listed["a:7b"] == expected


async def test_alias_that_is_a_tag_keeps_its_preference():
    own = {"a:7b": ModelConfig(names={"ollama": "a:7b", "mlx": "org/a"}, prefer="mlx")}
    async with routing([Model(name="org/a")], [Model(name="a:7b")], own) as (router, _, _):
        assert (await router.find("a:7b")).prefer == "mlx"


async def test_config_may_omit_latest():
    own = {"fast": ModelConfig(names={"mlx": "org/a", "ollama": "a"})}
    tag = Model(name="a:latest", context_length=9)
    async with routing([Model(name="org/a")], [tag], own) as (router, registry, _):
        (entry,) = registry.entries()
        assert entry.deployments[1].model == tag
        assert deployments(await router.find("org/a")) == ["mlx/org/a", "ollama/a:latest"]
        assert (await router.find("a:latest")).id == "fast"


async def test_alias_is_found_with_the_default_tag_where_no_model_has_that_name():
    tags = [Model(name="a:7b"), Model(name="slow:latest")]
    own = PAIR | {"slow": ModelConfig(names={"ollama": "a:7b"})}
    async with routing([Model(name="org/a")], tags, own) as (router, _, _):
        assert (await router.find("fast:latest")).id == "fast"
        assert deployments(await router.find("ollama/fast:latest")) == ["ollama/a:7b"]
        assert deployments(await router.find("slow:latest")) == ["ollama/slow:latest"]


async def test_alias_with_the_default_tag_is_found_without_it():
    own = {"fast:latest": ModelConfig(names={"mlx": "org/a"})}
    async with routing([Model(name="org/a")], [], own) as (router, _, _):
        assert (await router.find("fast")).id == "fast:latest"
        with pytest.raises(ModelNotFoundError):
            await router.find("fast:7b")


async def test_two_aliases_of_one_pair_are_two_entries():
    own = PAIR | {"slow": ModelConfig(names={"mlx": "org/a", "ollama": "a:7b"}, prefer="ollama")}
    async with routing([Model(name="org/a")], [Model(name="a:7b")], own) as (router, registry, _):
        assert [entry.names for entry in registry.entries()] == [
            ("fast", "org/a", "a:7b"),
            ("slow",),
        ]
        assert ((await router.find("slow")).id, (await router.find("org/a")).id) == ("slow", "fast")


async def test_model_paired_with_two_others_has_no_counterpart():
    own = PAIR | {"other": ModelConfig(names={"mlx": "org/a", "ollama": "b:7b"})}
    tags = [Model(name="a:7b"), Model(name="b:7b")]
    async with routing([Model(name="org/a")], tags, own) as (router, _, _):
        for name in ("org/a", "a:7b", "b:7b"):
            assert len((await router.find(name)).deployments) == 1
        assert deployments(await router.find("other")) == ["mlx/org/a", "ollama/b:7b"]


async def test_missing_half_of_a_pair_is_used_only_if_forced():
    async with routing([], [Model(name="a:7b")], PAIR) as (router, _, _):
        assert deployments(await router.find("fast")) == ["ollama/a:7b"]
        forced = await router.find("mlx/fast")  # MLX itself reports that it has no such model.
        assert (deployments(forced), forced.names) == (["mlx/org/a"], ("fast", "a:7b"))


async def test_alias_of_a_missing_model_is_logged_once(caplog: pytest.LogCaptureFixture):
    own = {
        "fast": ModelConfig(names={"mlx": "org/a", "ollama": "b:7b"}),
        "fine": ModelConfig(names={"ollama": "a"}),
    }
    backend = Listed("a:latest")
    registry = Registry(own, period=0.01)
    async with registry.open({}, {"ollama": backend}):
        await backend.listed_thrice.wait()
    assert caplog.messages == ["models: 'fast' names 'b:7b', which ollama does not have."]


async def test_defect_of_a_listing_is_logged_once_with_its_traceback(
    caplog: pytest.LogCaptureFixture,
):
    class Broken(ScriptedBackend):
        async def list_models(self) -> list[Model]:
            raise KeyError("size")

    registry = Registry({}, period=60)
    async with registry.open({}, {"ollama": Broken(kind="ollama")}):
        for _ in range(2):
            await registry.refresh(20)
    assert caplog.messages == ["The models of ollama cannot be listed."]
    assert "KeyError: 'size'" in caplog.text


async def test_alias_shadowed_by_a_model_is_logged_once(caplog: pytest.LogCaptureFixture):
    own = {"a:7b": ModelConfig(names={"mlx": "org/a"}), "fine": ModelConfig(names={"mlx": "org/a"})}
    backend = Listed("a:7b")
    registry = Registry(own, period=0.01)
    async with registry.open({}, {"ollama": backend}):
        await backend.listed_thrice.wait()
    assert caplog.messages == [
        "models: 'a:7b' is the name of a model on ollama, which is used instead of the alias; "
        "rename the alias."
    ]


async def test_folder_of_a_pair_need_not_be_listed():
    own = {"fast": ModelConfig(names={"mlx": "~/models/a", "ollama": "a:7b"})}
    async with routing([], [Model(name="a:7b")], own) as (router, _, _):
        assert deployments(await router.find("fast")) == ["mlx/~/models/a", "ollama/a:7b"]


async def test_pair_with_an_unreachable_half_lists_the_other():
    async with routing([Model(name="org/a")], [Model(name="a:7b")], PAIR) as (_, registry, ollama):
        ollama.models = BackendUnavailableError("gone")
        await registry.refresh(1)
        (entry,) = registry.entries()
    assert (entry.id, deployments(entry)) == ("fast", ["mlx/org/a"])


async def test_known_name_resolves_anew_after_a_listing():
    async with routing([Model(name="org/a")], [Model(name="a:7b")], PAIR) as (router, registry, it):
        assert deployments(await router.find("fast")) == ["mlx/org/a", "ollama/a:7b"]
        it.models = [Model(name="a:7b", context_length=2048)]
        await registry.refresh(1)
        entry = await router.find("fast")
        assert [
            deployment.model and deployment.model.context_length for deployment in entry.deployments
        ][1] == 2048
        it.models = [Model(name="b:7b")]
        await registry.refresh(1)
        assert deployments(await router.find("fast")) == ["mlx/org/a"]


class Slow(ScriptedBackend):
    """Lists once `permitted` is set."""

    def __init__(self) -> None:
        super().__init__(models=[Model(name="a")])
        self.permitted = asyncio.Event()

    async def list_models(self) -> list[Model]:
        await self.permitted.wait()
        return await super().list_models()


async def test_first_listing_is_waited_for_beyond_the_time_of_later_ones():
    slow, registry = Slow(), Registry({}, period=60)
    async with registry.open({}, {"mlx": slow}):
        asyncio.get_running_loop().call_later(0.05, slow.permitted.set)
        await registry.refresh(0, only_new=True)
        assert [entry.id for entry in registry.entries()] == ["a"]
        slow.permitted.clear()
        await registry.refresh(0)


class DescribedLater(Slow):
    """Lists `a` at once, and once `permitted` is set with its context."""

    def __init__(self) -> None:
        super().__init__()
        self.models = [Model(name="a", context_length=2048)]

    async def list_known(self) -> tuple[list[Model], bool]:
        return [Model(name="a"), Model(name="odd")], False


async def test_model_is_found_before_all_models_are_described():
    slow, never = DescribedLater(), Slow()
    registry = Registry({}, period=60)
    async with registry.open({}, {"mlx": slow, "ollama": never}):
        entry = await Router(registry, Measurements()).find("odd")
        assert deployments(entry) == ["mlx/odd"]
        assert not registry.backends["mlx"].is_listed
        slow.permitted.set()
        await registry.backends["mlx"].refresh()
        (entry,) = registry.entries()
        assert [d.model and d.model.context_length for d in entry.deployments] == [2048]

"""Reservations, evictions and refusals of the shared budget, with engines that only count."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from fakes.scripted_backend import ScriptedBackend, http_client

from adapters.errors import BackendBusyError, GenerationError, InsufficientMemoryError
from adapters.memory import Footprint, MemoryBudget, Resident
from proxy.config import Config, ModelConfig, ServerConfig
from proxy.memory.budget import SharedBudget


class Engine:
    """A memory user with models of fixed sizes. Loading one reserves memory."""

    def __init__(self, sizes: dict[str, int] | None = None, *, elastic: bool = False) -> None:
        self.elastic = elastic
        self.sizes = sizes or {}
        self.loaded: dict[str, Resident] = {}
        self.cache = 0
        self.limit: int | None = None
        self.recommendation: int | None = None
        self.stubborn: set[str] = set()
        self.broken: set[str] = set()
        self.events: list[str] = []
        self.room: MemoryBudget | None = None
        self.clock = 0.0

    def share_budget(self, room: MemoryBudget) -> None:
        self.room = room

    async def recommended(self) -> int | None:
        return self.recommendation

    async def footprint(self, model: str) -> Footprint | None:
        size = self.sizes.get(model)
        return None if size is None else Footprint(weights=size, context=10)

    async def resident(self, *, fresh: bool = False) -> list[Resident]:
        return list(self.loaded.values())

    async def unload_for_memory(self, model: str) -> None:
        await asyncio.sleep(0)
        if model in self.stubborn:
            raise BackendBusyError(f"{model} is busy.")
        self.events.append(f"-{model}")
        del self.loaded[model]

    async def confine(self, nbytes: int) -> int:
        self.limit = nbytes
        rows = sum(each.footprint.context or 0 for each in self.loaded.values())
        self.cache = max(min(self.cache, nbytes - rows), 0)
        return rows + self.cache

    def use(self, model: str, *, busy: bool = False, also: Sequence[str] = ()) -> None:
        self.clock += 1
        footprint = Footprint(weights=self.sizes[model], context=10)
        self.loaded[model] = Resident(
            name=model,
            also=frozenset(also),
            footprint=footprint,
            busy=busy,
            used_at=self.clock,
        )

    async def load(self, model: str) -> None:
        assert self.room is not None
        footprint = await self.footprint(model)
        assert footprint is not None
        async with self.room.hold(model, footprint):
            await asyncio.sleep(0)
            if model in self.broken:
                raise GenerationError("This is no model.")
            self.events.append(f"+{model}")
            self.use(model)


def pins(**names: str) -> frozenset[tuple[str, str]]:
    """The keys of one pinned model, by its names on each backend."""
    return Config(models={"pinned": ModelConfig(names=names, pin=True)}).pinned()


@asynccontextmanager
async def shared(
    budget: int | None, pinned: frozenset[tuple[str, str]] = frozenset(), **engines: Engine
) -> AsyncGenerator[SharedBudget]:
    memory = SharedBudget(budget, pinned, 60.0)
    async with memory.open(engines):
        yield memory


async def test_model_that_fits_evicts_nothing():
    mlx, ollama = Engine({"a": 50}, elastic=True), Engine({"b": 30})
    async with shared(100, mlx=mlx, ollama=ollama) as memory:
        await mlx.load("a")
        await ollama.load("b")
        assert (await memory.snapshot()).used == 100
    assert [*mlx.loaded, *ollama.loaded] == ["a", "b"]


async def test_least_recently_used_model_is_evicted_first_on_any_engine():
    mlx, ollama = Engine({"a": 30, "new": 30}, elastic=True), Engine({"b": 30})
    async with shared(100, mlx=mlx, ollama=ollama):
        await mlx.load("a")
        await ollama.load("b")
        ollama.clock = mlx.clock  # One clock for both, in life.
        mlx.use("a")
        await mlx.load("new")
    assert (mlx.events, ollama.events) == (["+a", "+new"], ["+b", "-b"])


async def test_no_more_models_are_evicted_than_needed():
    engine = Engine({"a": 20, "b": 20, "c": 20, "new": 40})
    async with shared(100, mlx=engine):
        for name in "abc":
            await engine.load(name)
        await engine.load("new")
    assert sorted(engine.loaded) == ["c", "new"]


async def test_caches_are_trimmed_before_models_are_evicted():
    engine = Engine({"a": 30, "new": 30}, elastic=True)
    async with shared(100, mlx=engine) as memory:
        await engine.load("a")
        engine.cache = 50
        await engine.load("new")
        assert sorted(engine.loaded) == ["a", "new"]
        assert engine.cache == 20
        assert (await memory.snapshot()).used <= 100


async def test_busy_model_stays_and_the_refusal_has_both_numbers():
    engine = Engine({"a": 60, "new": 40})
    async with shared(100, mlx=engine):
        engine.use("a", busy=True)
        with pytest.raises(InsufficientMemoryError) as caught:
            await engine.load("new")
    assert (caught.value.lasting, caught.value.retry_after) == (False, 5.0)
    assert "'new' needs 50 bytes of memory; 30 of 100 are free" in caught.value.message
    assert list(engine.loaded) == ["a"]


async def test_resident_that_answers_for_a_pinned_model_stays():
    ollama = Engine({"a": 60, "new": 60})
    async with shared(100, pins(ollama="b"), ollama=ollama) as memory:
        ollama.use("a", also=("b:latest",))
        with pytest.raises(InsufficientMemoryError) as caught:
            await ollama.load("new")
        assert (caught.value.lasting, caught.value.retry_after) == (True, None)
        assert [model.pinned for model in (await memory.snapshot()).models] == [True]


async def test_model_that_another_resident_answers_for_is_loaded():
    ollama = Engine({"a": 60, "b": 60, "new": 60})
    async with shared(100, ollama=ollama) as memory:
        ollama.use("a", also=("b",))
        assert await memory.footprint("ollama", "b") == 70
        assert memory.fit(("ollama", "new"), 60) == "fits"  # As was seen last.
        await memory.snapshot()
        assert memory.fit(("ollama", "new"), 60) == "evicts"
        assert memory.fit(("ollama", "b"), 60) == "loaded"
        assert memory.last_footprint("ollama", "b") == 70


async def test_pinned_model_stays():
    engine = Engine({"a:latest": 60, "new": 40})
    async with shared(100, pins(ollama="a"), ollama=engine) as memory:
        await engine.load("a:latest")
        with pytest.raises(InsufficientMemoryError):
            await engine.load("new")
        assert [model.pinned for model in (await memory.snapshot()).models] == [True]
    assert list(engine.loaded) == ["a:latest"]


async def test_nothing_is_evicted_for_a_model_that_would_not_fit():
    engine = Engine({"a": 20, "b": 20, "giant": 95}, elastic=True)
    async with shared(100, mlx=engine):
        await engine.load("a")
        await engine.load("b")
        engine.cache = 40
        with pytest.raises(InsufficientMemoryError, match="'giant' needs 105 bytes"):
            await engine.load("giant")
    assert sorted(engine.loaded) == ["a", "b"]
    assert engine.cache == 40


async def test_model_that_became_busy_stays_and_the_next_is_evicted():
    engine = Engine({"a": 30, "b": 30, "new": 40})
    async with shared(100, mlx=engine):
        await engine.load("a")
        await engine.load("b")
        engine.stubborn = {"a"}
        await engine.load("new")
    assert sorted(engine.loaded) == ["a", "new"]


async def test_load_is_refused_when_all_idle_models_became_busy():
    engine = Engine({"a": 60, "new": 40})
    async with shared(100, mlx=engine):
        await engine.load("a")
        engine.stubborn = {"a"}
        with pytest.raises(InsufficientMemoryError):
            await engine.load("new")


async def test_concurrent_loads_never_exceed_the_budget():
    engine = Engine({f"m{at}": 35 for at in range(6)})
    async with shared(100, mlx=engine) as memory:
        most = 0

        async def look() -> None:
            nonlocal most
            most = max(most, (await memory.snapshot()).used)

        async def watch() -> None:
            while True:
                await look()
                await asyncio.sleep(0)

        watching = asyncio.create_task(watch())
        loads = (engine.load(name) for name in engine.sizes)
        outcomes = await asyncio.gather(*loads, return_exceptions=True)
        await look()
        watching.cancel()
    assert 80 < most <= 100
    assert any(outcome is None for outcome in outcomes)
    assert all(isinstance(each, InsufficientMemoryError) for each in outcomes if each is not None)


async def test_evicted_and_new_model_are_never_counted_together():
    class Slow(Engine):
        """Delays loads, and reports that need not be fresh."""

        reported = asyncio.Event()
        reserved = asyncio.Event()
        loads = asyncio.Event()

        async def resident(self, *, fresh: bool = False) -> list[Resident]:
            residents = await super().resident(fresh=fresh)
            if not fresh:
                await self.reported.wait()
            return residents

        async def load(self, model: str) -> None:
            assert self.room is not None
            async with self.room.hold(model, Footprint(weights=self.sizes[model], context=10)):
                self.reserved.set()
                await self.loads.wait()

    engine = Slow({"old": 30, "new": 40})
    async with shared(50, mlx=engine) as memory:
        engine.use("old")
        looking = asyncio.create_task(memory.snapshot())
        await asyncio.sleep(0)
        loading = asyncio.create_task(engine.load("new"))
        await engine.reserved.wait()
        engine.reported.set()
        assert (await looking).used <= 50
        engine.loads.set()
        await loading
    assert engine.events == ["-old"]


async def test_snapshot_with_old_reports_changes_nothing():
    class Slow(Engine):
        """Reports an unloaded model unless the report has to be fresh."""

        async def resident(self, *, fresh: bool = False) -> list[Resident]:
            ghost = Resident(name="ghost", footprint=Footprint(weights=90))
            return await super().resident() if fresh else [ghost]

        async def confine(self, nbytes: int) -> int:
            await memory.snapshot()
            return await super().confine(nbytes)

    mlx, ollama = Engine({"a": 30}, elastic=True), Slow(elastic=True)
    async with shared(100, ollama=ollama, mlx=mlx) as memory:
        await mlx.load("a")
        assert mlx.limit == 70


async def test_load_that_ends_during_a_look_is_counted():
    promised, looked = asyncio.Event(), asyncio.Event()

    class Slow(Engine):
        """Reports its models once the other engine has loaded its own."""

        async def resident(self, *, fresh: bool = False) -> list[Resident]:
            if promised.is_set():
                looked.set()
                await loading
            return await super().resident()

    mlx, ollama = Engine({"a": 60}), Slow({"b": 60})

    async def load() -> None:
        async with memory.hold(("mlx", "a"), Footprint(weights=60, context=10)):
            promised.set()
            await looked.wait()
            mlx.use("a")

    async with shared(100, mlx=mlx, ollama=ollama) as memory:
        loading = asyncio.create_task(load())
        await promised.wait()
        await ollama.load("b")
    assert mlx.events == ["-a"]


async def test_failed_load_releases_its_reservation():
    engine = Engine({"a": 80})
    async with shared(100, mlx=engine) as memory:
        engine.broken = {"a"}
        with pytest.raises(GenerationError):
            await engine.load("a")
        assert (await memory.snapshot()).used == 0
        engine.broken = set()
        await engine.load("a")


async def test_growing_model_is_counted_once():
    engine = Engine({"a": 50})
    async with shared(100, ollama=engine) as memory, AsyncExitStack() as stack:
        await engine.load("a")
        room = engine.room
        assert room is not None
        await stack.enter_async_context(room.hold("a", Footprint(weights=50, context=40)))
        assert (await memory.snapshot()).used == 90
        with pytest.raises(InsufficientMemoryError, match=r"needs 110 bytes .* 100 of 100"):
            await stack.enter_async_context(room.hold("a", Footprint(weights=50, context=60)))


async def test_model_of_unknown_size_is_loaded():
    engine = Engine({"a": 90})
    async with shared(100, mlx=engine):
        await engine.load("a")
        room = engine.room
        assert room is not None
        async with room.hold("unknown", Footprint()):
            assert list(engine.loaded) == ["a"]


async def test_models_loaded_by_others_leave_less_for_caches():
    trimmed = asyncio.Event()

    class Elastic(Engine):
        async def confine(self, nbytes: int) -> int:
            taken = await super().confine(nbytes)
            if nbytes <= 20:
                trimmed.set()
            return taken

    mlx, ollama = Elastic({"a": 30}, elastic=True), Engine({"b": 40})
    memory = SharedBudget(100, frozenset(), 0.01)
    async with memory.open({"mlx": mlx, "ollama": ollama}):
        await mlx.load("a")
        mlx.cache = 60
        ollama.use("b", busy=True)
        await trimmed.wait()
        assert mlx.cache == 10
        assert (await memory.snapshot()).used <= 100


async def test_budget_is_the_devices_recommendation_or_a_share_of_the_memory():
    vocal, silent = Engine(), Engine()
    vocal.recommendation = 5000
    async with shared(None, mlx=vocal, ollama=silent) as memory:
        assert memory.budget == 5000
    async with shared(70, mlx=vocal) as memory:
        assert memory.budget == 70
    async with shared(None, ollama=silent) as memory:
        assert memory.budget > 0
        assert (await memory.snapshot()).models == ()


async def test_health_has_the_memory_of_each_model():
    engine, backend = Engine({"a": 30}), ScriptedBackend(kind="mlx")
    backend.memory_user = engine
    async with http_client(backend, config=Config(server=ServerConfig(memory_bytes=100))) as client:
        await engine.load("a")
        body = (await client.get("/health")).json()
    model = {"backend": "mlx", "model": "a", "weights": 30, "context": 10, "cache": 0}
    state = {"busy": False, "pinned": False}
    assert body["memory"] == {"budget": 100, "used": 40, "models": [{**model, **state}]}


async def test_footprint_is_estimated_before_and_reported_after_a_load():
    engine = Engine({"a": 30})
    async with shared(100, mlx=engine) as memory:
        assert await memory.footprint("mlx", "a") == 40
        engine.sizes["a"] = 20
        engine.use("a")
        assert await memory.footprint("mlx", "a") == 30
        assert await memory.footprint("mlx", "b") is None
        assert await memory.footprint("echo", "a") is None


def test_alias_sets_keep_alive_on_its_backends():
    config = Config(
        models={
            "short": ModelConfig(names={"mlx": "org/a", "ollama": "a:1b"}, keep_alive=300),
            "mine": ModelConfig(names={"ollama": "b"}, pin=True),
            "lent": ModelConfig(names={"mlx": "c"}, pin=True, ttl=60),
            "plain": ModelConfig(names={"mlx": "d"}),
        }
    )
    times = {
        kind: getattr(each, "keep_alive_of", None)
        for kind, each in config.backend_configs().items()
    }
    assert times == {"mlx": {"org/a": 300.0, "c": 60}, "ollama": {"a:1b": 300.0, "b": -1.0}}
    assert config.pinned() == {
        ("ollama", "b"),
        ("ollama", "b:latest"),
        ("mlx", "c"),
        ("mlx", "c:latest"),
    }


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize(
    ("one", "other", "seconds"),
    [
        (
            ModelConfig(names={"ollama": "a"}, keep_alive=300),
            ModelConfig(names={"ollama": "a"}),
            300.0,
        ),
        (
            ModelConfig(names={"ollama": "a"}, keep_alive=300),
            ModelConfig(names={"ollama": "a:latest"}, ttl=300),
            300.0,
        ),
        (ModelConfig(names={"ollama": "a"}, pin=True), ModelConfig(names={"ollama": "a"}), -1.0),
        (
            ModelConfig(names={"ollama": "a"}, pin=True),
            ModelConfig(names={"ollama": "a"}, keep_alive=300),
            300.0,
        ),
    ],
)
def test_explicit_keep_alive_wins_between_two_aliases_of_one_model(
    one: ModelConfig, other: ModelConfig, seconds: float, order: int
):
    first, second = (one, other)[::order]
    ollama = Config(models={"x": first, "y": second}).backend_configs()["ollama"]
    assert getattr(ollama, "keep_alive_of", None) == {"a": seconds}


@pytest.mark.parametrize("fields", [{"keep_alive": "soon"}, {"keep_alive": 5, "ttl": 6}])
def test_alias_with_an_invalid_duration_is_refused(fields: dict[str, object]):
    with pytest.raises(ValueError, match=r"keep_alive"):
        ModelConfig(names={"mlx": "a"}, **fields)  # type: ignore[arg-type]

"""The memory of the models in an Ollama of this machine, loaded by us or by others."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from fakes.clock import Clock
from fakes.recorded_ollama import Reply, StandIn, recording
from fakes.waiting import until

from adapters import sink
from adapters.config import OllamaConfig
from adapters.errors import InsufficientMemoryError
from adapters.memory import Footprint, Resident
from adapters.ollama.backend import OllamaBackend
from adapters.ollama.context.kv_size import KeyValues
from adapters.ollama.memory import has_gpu_memory, to_footprint
from adapters.ollama.model_info import ModelInfo
from adapters.ollama.wire import Tag
from adapters.request import EmbeddingRequest, GenerationRequest, Message, TextPart
from adapters.upstream.limits import Limits
from proxy.memory.budget import SharedBudget

PLAIN, TOOLS = "smollm2:135m", "smollm2-tools:latest"
PER_TOKEN = 2 * 3 * 64 * 2 * 30
"""Keys and values of SmolLM2-135M in float16."""
CONTEXT = 4096 * PER_TOKEN


class Shop:
    """A stand-in that keeps the books: what is loaded, with which context, until when."""

    def __init__(self, standin: StandIn) -> None:
        for name in ("tags", "version"):
            standin.replays(name)
        self.loaded: dict[str, int] = {}
        self.moment = 0
        self.done: list[str] = []
        self.hangs = asyncio.Event()
        self.hangs.set()
        self.loads = asyncio.Event()
        self.loads.set()
        self.of_one_file = False
        """Both models are, so that one runner does for both."""
        self._standin = standin
        standin.says("/api/show", self._show)
        standin.says("/api/ps", self.tell)
        standin.says("/api/chat", self._chat)
        standin.says("/api/embed", self._embed)

    def load(self, model: str, context: int = 4096) -> None:
        self.moment += 1
        if self.of_one_file and context in self.loaded.values():
            return  # What is loaded keeps its name.
        if self.of_one_file:
            self.loaded.clear()
        self.loaded[model] = context

    async def tell(self, reply: Reply) -> None:
        lines = [
            {"name": m, "size": 0, "context_length": c, "expires_at": f"{self.moment}"}
            for m, c in self.loaded.items()
        ]
        await reply.plain(200, json.dumps({"models": lines}).encode())

    async def _show(self, reply: Reply) -> None:
        model = self._standin.bodies("/api/show")[-1]["model"]
        shown = "".join(recording("show-llama")["response"]["chunks"])
        if model == TOOLS and not self.of_one_file:
            shown = shown.replace("sha256-b179c952", "sha256-aaaaaaaa")
        await reply.plain(200, shown.encode())

    async def _chat(self, reply: Reply) -> None:
        body = self._standin.bodies("/api/chat")[-1]
        if body.get("keep_alive") == 0:
            self.done.append(f"-{body['model']}")
            del self.loaded[body["model"]]
            await reply.plain(200, b'{"done": true}')
        else:
            self.done.append(f"+{body['model']}")
            self.load(body["model"], body["options"]["num_ctx"])
            await self.loads.wait()
            await self._answer(reply)

    async def _answer(self, reply: Reply) -> None:
        await reply.head()
        await reply.chunk(b'{"message": {"content": "A"}}\n')
        await self.hangs.wait()
        await reply.chunk(b'{"message": {}, "done": true, "prompt_eval_count": 9}\n')
        await reply.end()

    async def _embed(self, reply: Reply) -> None:
        self.load(self._standin.bodies("/api/embed")[-1]["model"])
        await reply.plain(200, b'{"embeddings": [[1.0]], "prompt_eval_count": 1}')


@pytest.fixture
def shop(standin: StandIn) -> Shop:
    return Shop(standin)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def backend(standin: StandIn, shop: Shop, clock: Clock) -> AsyncIterator[OllamaBackend]:
    backend = OllamaBackend(OllamaConfig(host=standin.host, refresh=0.001), Limits(clock=clock))
    await backend.list_models()
    yield backend
    shop.hangs.set()
    await backend.aclose()


def chat(model: str = PLAIN, **fields: Any) -> GenerationRequest:
    message = Message(role="user", content=(TextPart("Hi"),))
    return GenerationRequest(model=model, prompt=(message,), **fields)


async def ask(backend: OllamaBackend, model: str = PLAIN, **fields: Any) -> None:
    async for _ in sink.events(backend, chat(model, **fields)):
        pass


async def weights(backend: OllamaBackend, model: str = PLAIN) -> int:
    return next(each.size_bytes or 0 for each in await backend.list_models() if each.name == model)


FACTS = ModelInfo(size=1000, cost=KeyValues(2))


@pytest.mark.parametrize(
    ("tag", "own_gpu_memory", "known"),
    [
        # Without a GPU: nothing is reported, or the weights alone.
        ({"size": 0, "context_length": 100}, False, 1200),
        ({"size": 1010, "size_vram": 1010, "context_length": 100}, False, 1200),
        # A Mac reports all of it.
        ({"size": 1500, "size_vram": 1500, "context_length": 100}, False, 1500),
        # What is in a GPU's own memory is not in this machine's.
        ({"size": 1500, "size_vram": 1400, "context_length": 100}, True, 100),
        ({"size": 0, "context_length": 100}, True, 1200),
        ({}, False, 1000),
    ],
)
def test_what_a_loaded_model_takes(tag: dict[str, Any], own_gpu_memory: bool, known: int):
    seen = to_footprint(Tag(name="m", **tag), FACTS, own_gpu_memory=own_gpu_memory)
    assert seen.known == known


def test_nothing_is_made_up_where_nothing_is_known():
    assert to_footprint(Tag(name="m"), ModelInfo(), own_gpu_memory=False) == Footprint()


def test_a_gpu_with_its_own_memory_is_known_by_its_device(tmp_path: Path):
    assert not has_gpu_memory(tmp_path)
    (tmp_path / "nvidia0").touch()
    assert has_gpu_memory(tmp_path)


async def test_what_a_load_will_take_is_the_file_and_the_least_context(backend: OllamaBackend):
    expected = Footprint(weights=await weights(backend), context=CONTEXT)
    assert await backend.memory_user.footprint(PLAIN) == expected
    assert await backend.memory_user.footprint("none") is None


async def test_a_model_that_others_have_loaded_is_seen(backend: OllamaBackend, shop: Shop):
    shop.load(PLAIN, 8192)
    [resident] = await backend.memory_user.resident(fresh=True)
    expected = Footprint(weights=await weights(backend), context=2 * CONTEXT)
    assert (resident.name, resident.footprint, resident.busy) == (PLAIN, expected, False)


async def test_use_by_others_is_seen(backend: OllamaBackend, shop: Shop):
    async def used() -> float:
        [resident] = await backend.memory_user.resident(fresh=True)
        return resident.used_at

    shop.load(PLAIN)
    first = await used()
    assert await used() == first
    shop.moment += 1
    assert await used() > first


async def test_an_ollama_elsewhere_takes_nothing_here(standin: StandIn):
    config = OllamaConfig(hosts=("http://192.0.2.1:11434", standin.host))
    backend = OllamaBackend(config)
    assert [host.address for host in backend.memory_user.servers] == [standin.host]
    await backend.aclose()


async def test_one_that_does_not_answer_has_nothing():
    backend = OllamaBackend(OllamaConfig(host="http://127.0.0.1:9"))
    assert await backend.memory_user.resident(fresh=True) == []
    await backend.aclose()


async def test_models_make_way_for_each_other(backend: OllamaBackend, shop: Shop):
    memory = SharedBudget(await weights(backend) + 2 * CONTEXT, frozenset(), 60.0)
    async with memory.open({"ollama": backend.memory_user}):
        for model in (PLAIN, TOOLS, PLAIN):
            await ask(backend, model)
            assert list(shop.loaded) == [model]
            assert (await memory.snapshot()).used <= memory.budget
    assert shop.done == [f"+{PLAIN}", f"-{PLAIN}", f"+{TOOLS}", f"-{TOOLS}", f"+{PLAIN}"]


async def test_model_that_is_answering_stays_loaded_and_the_other_is_refused(
    backend: OllamaBackend, shop: Shop
):
    memory = SharedBudget(await weights(backend) + 2 * CONTEXT, frozenset(), 60.0)
    async with memory.open({"ollama": backend.memory_user}):
        shop.hangs.clear()
        answering = asyncio.create_task(ask(backend))
        await until_busy(backend)
        with pytest.raises(InsufficientMemoryError) as caught:
            await ask(backend, TOOLS)
        needed = await weights(backend, TOOLS) + CONTEXT
        assert f"'{TOOLS}' needs {needed} bytes" in caught.value.message
        assert f"of {memory.budget} are free" in caught.value.message
        shop.hangs.set()
        await answering
    assert shop.done == [f"+{PLAIN}"]


async def until_busy(backend: OllamaBackend) -> Resident:
    busy: list[Resident] = []

    async def is_busy() -> bool:
        busy.extend(r for r in await backend.memory_user.resident(fresh=True) if r.busy)
        return bool(busy)

    await until(is_busy)
    return busy[0]


async def test_a_longer_context_is_asked_for_before_it_is_loaded(
    backend: OllamaBackend, shop: Shop
):
    memory = SharedBudget(await weights(backend) + 2 * CONTEXT, frozenset(), 60.0)
    async with memory.open({"ollama": backend.memory_user}):
        await ask(backend)
        await ask(backend, max_tokens=5000)
        assert shop.loaded == {PLAIN: 8192}
        assert (await memory.snapshot()).used == memory.budget


async def test_models_of_one_file_take_the_memory_once(standin: StandIn, shop: Shop):
    shop.of_one_file = True
    backend = OllamaBackend(OllamaConfig(host=standin.host, refresh=0.001))
    memory = SharedBudget(await weights(backend, TOOLS) + 2 * CONTEXT, frozenset(), 60.0)
    async with memory.open({"ollama": backend.memory_user}):
        await ask(backend)
        shop.hangs.clear()
        answering = asyncio.create_task(ask(backend))
        await until_busy(backend)
        await asyncio.wait_for(_first_of(backend, chat(TOOLS)), 5)
        await asyncio.wait_for(_first_of(backend, chat(TOOLS, max_tokens=5000)), 5)
        shop.hangs.set()
        await answering
    await backend.aclose()


async def test_loaded_model_lists_the_models_that_share_its_runner(standin: StandIn, shop: Shop):
    shop.of_one_file = True
    shop.load(PLAIN)
    backend = OllamaBackend(OllamaConfig(host=standin.host, refresh=0.001))
    await backend.list_models()
    (resident,) = await backend.memory_user.resident(fresh=True)
    assert (resident.name, TOOLS in resident.also) == (PLAIN, True)
    assert resident.name not in resident.also
    await backend.aclose()


async def test_models_of_one_file_that_are_loaded_at_once_take_the_memory_once(
    standin: StandIn, shop: Shop
):
    shop.of_one_file = True
    shop.loads.clear()
    backend = OllamaBackend(OllamaConfig(host=standin.host, refresh=60))
    memory = SharedBudget(await weights(backend, TOOLS) + CONTEXT, frozenset(), 60.0)
    async with memory.open({"ollama": backend.memory_user}):
        first = asyncio.create_task(ask(backend))
        await until(lambda: bool(shop.loaded), seconds=5)
        second = asyncio.create_task(ask(backend, TOOLS))
        await until(lambda: len(shop.done) == 2 or second.done(), seconds=5)
        shop.loads.set()
        await asyncio.gather(first, second)
    await backend.aclose()


async def _first_of(backend: OllamaBackend, request: GenerationRequest) -> None:
    answer = sink.events(backend, request)
    await anext(answer)
    await answer.aclose()


async def test_a_context_ends_where_the_budget_does(backend: OllamaBackend, shop: Shop):
    memory = SharedBudget(await weights(backend) + 6000 * PER_TOKEN, frozenset(), 60.0)
    async with memory.open({"ollama": backend.memory_user}):
        await ask(backend, max_tokens=7000)
    assert shop.loaded == {PLAIN: 6000}


async def test_a_load_and_an_embedding_ask_for_room_too(backend: OllamaBackend, shop: Shop):
    memory = SharedBudget(await weights(backend) + 2 * CONTEXT, frozenset(), 60.0)
    async with memory.open({"ollama": backend.memory_user}):
        await ask(backend)
        shop.hangs.clear()
        answering = asyncio.create_task(ask(backend))
        await until_busy(backend)
        memory.budget = await weights(backend) + CONTEXT
        with pytest.raises(InsufficientMemoryError):
            await backend.load(TOOLS)
        with pytest.raises(InsufficientMemoryError):
            await backend.embed(EmbeddingRequest(model=TOOLS, inputs=("a",)))
        assert list(shop.loaded) == [PLAIN]
        shop.hangs.set()
        await answering
        await backend.embed(EmbeddingRequest(model=TOOLS, inputs=("a",)))
        assert list(shop.loaded) == [TOOLS]


async def test_nothing_is_asked_for_where_it_is_loaded_already(
    backend: OllamaBackend, shop: Shop, clock: Clock
):
    memory = SharedBudget(await weights(backend, TOOLS) + CONTEXT, frozenset(), 60.0)
    async with memory.open({"ollama": backend.memory_user}):
        shop.load(PLAIN)
        shop.load(TOOLS)  # By others, and more than the budget.
        clock.advance()
        await ask(backend)
        await ask(backend, TOOLS)
    assert shop.done == [f"+{PLAIN}", f"+{TOOLS}"]


async def test_a_look_from_before_an_unload_is_ignored(
    standin: StandIn, backend: OllamaBackend, shop: Shop
):
    asked, told = asyncio.Event(), asyncio.Event()

    async def late(reply: Reply) -> None:
        standin.says("/api/ps", shop.tell)
        asked.set()
        await told.wait()
        await reply.plain(200, json.dumps({"models": [{"name": PLAIN}]}).encode())

    shop.load(PLAIN)
    standin.says("/api/ps", late)
    looking = asyncio.create_task(backend.memory_user.resident(fresh=True))
    await asked.wait()
    await backend.unload(PLAIN)
    assert await backend.memory_user.resident(fresh=True) == []
    told.set()
    assert await looking == []
    assert await backend.memory_user.resident() == []


async def test_a_model_is_seen_in_full_before_the_first_list(standin: StandIn, shop: Shop):
    backend = OllamaBackend(OllamaConfig(host=standin.host))
    shop.load(PLAIN)
    [resident] = await backend.memory_user.resident(fresh=True)
    assert resident.footprint == Footprint(weights=await weights(backend), context=CONTEXT)
    await backend.aclose()


async def test_footprint_of_a_request_is_known_before_the_first_list(standin: StandIn, shop: Shop):
    backend = OllamaBackend(OllamaConfig(host=standin.host))
    memory = SharedBudget(CONTEXT + 1000, frozenset(), 60.0)
    async with memory.open({"ollama": backend.memory_user}):
        with pytest.raises(InsufficientMemoryError):
            await ask(backend)
    assert shop.done == []
    await backend.aclose()

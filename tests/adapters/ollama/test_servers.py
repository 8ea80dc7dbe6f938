"""Several Ollama servers: choice, failover, circuit breakers and recovery."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import msgspec
import pytest
from fakes.clock import Clock
from fakes.recorded_ollama import Reply, Script, StandIn, says_lines, stand_in
from fakes.waiting import until
from msgspec.structs import replace

from adapters import sink
from adapters.backend import Model
from adapters.config import OllamaConfig
from adapters.errors import (
    BackendError,
    BackendUnavailableError,
    BadUpstreamError,
    InvalidRequestError,
    ModelNotFoundError,
)
from adapters.events import Finished, Restarted, TextDelta
from adapters.ollama.backend import OllamaBackend
from adapters.request import EmbeddingRequest, GenerationRequest, Message, TextPart
from adapters.upstream.limits import Limits

CHAT = GenerationRequest(
    model="smollm2:135m", prompt=(Message(role="user", content=(TextPart("Hi"),)),)
)
LOADED = {"name": "smollm2:135m", "context_length": 4096}
DONE = {"message": {}, "done": True}


QUICK = Limits(look_every=0.05, look=2.0, first_probe=0.05, lookup=0.1)


def says_json(standin: StandIn, path: str, body: Any) -> None:
    async def script(reply: Reply) -> None:
        await reply.plain(200, json.dumps(body).encode())

    standin.says(path, script)


def says(standin: StandIn, text: str) -> None:
    standin.says("/api/chat", says_lines({"message": {"content": text}}, DONE))


@pytest.fixture
async def pair() -> AsyncIterator[tuple[StandIn, StandIn]]:
    """Two servers with the recorded models, one of them loaded; they say A and B."""
    async with stand_in() as one, stand_in() as two:
        for server, text in ((one, "A"), (two, "B")):
            for name in ("tags", "version", "show-llama"):
                server.replays(name)
            says_json(server, "/api/ps", {"models": [LOADED]})
            says(server, text)
            says_json(server, "/api/generate", {"response": "1", "done": True})
        yield one, two


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def backend(pair: tuple[StandIn, StandIn], clock: Clock) -> AsyncIterator[OllamaBackend]:
    config = OllamaConfig(
        hosts=tuple(server.host for server in pair),
        first_token_timeout=0.3,
        token_timeout=0.3,
        refresh=0.02,
    )
    backend = OllamaBackend(config, replace(QUICK, clock=clock))
    yield backend
    await backend.aclose()


async def text_of(backend: OllamaBackend, request: GenerationRequest = CHAT) -> str:
    """Return the texts of all choices, one after the other."""
    texts = [""] * request.n
    async for event in sink.events(backend, request):
        if isinstance(event, Restarted):
            texts[event.choice] = ""
        elif isinstance(event, TextDelta):
            texts[event.choice] += event.text
    return "".join(texts)


async def says_text(backend: OllamaBackend, text: str) -> bool:
    return await text_of(backend) == text


async def is_well(backend: OllamaBackend) -> bool:
    return (await backend.health()).ok


async def dies(reply: Reply) -> None:
    reply.cut()


async def hangs(reply: Reply) -> None:
    await reply.gone()


async def page(reply: Reply) -> None:
    await reply.plain(500, b"<html>", Content_Type="text/html")


async def full(reply: Reply) -> None:
    await reply.plain(503, b'{"error":"server busy"}')


async def one_word(reply: Reply) -> None:
    await reply.head()
    await reply.chunk(b'{"message":{"content":"A"}}\n')
    await reply.gone()


def test_host_and_hosts_together_are_a_mistake():
    with pytest.raises(msgspec.ValidationError, match="`host` or `hosts`"):
        msgspec.convert({"kind": "ollama", "host": "http://a", "hosts": ["http://b"]}, OllamaConfig)


async def test_models_of_both_are_listed_once(
    pair: tuple[StandIn, StandIn], backend: OllamaBackend
):
    says_json(pair[1], "/api/tags", {"models": [{"name": "other:1b"}, {"name": "smollm2:135m"}]})
    says_json(pair[0], "/api/ps", {"models": []})
    models = {model.name: model for model in await backend.list_models()}
    assert len(models) == 5
    assert models["smollm2:135m"].context_length == 8192
    assert models["smollm2:135m"].loaded is True
    assert models["smollm2:135m"].loaded_context == 4096


async def test_request_goes_to_the_server_that_has_the_model(
    pair: tuple[StandIn, StandIn], backend: OllamaBackend
):
    says_json(pair[0], "/api/tags", {"models": [{"name": "other:1b"}]})
    assert await text_of(backend) == "B"
    assert pair[0].bodies("/api/chat") == []


async def test_model_of_no_server_is_not_found(backend: OllamaBackend):
    with pytest.raises(ModelNotFoundError):
        await text_of(backend, GenerationRequest(model="nope", prompt=CHAT.prompt))


async def test_busy_server_gets_no_request_when_another_is_idle(
    pair: tuple[StandIn, StandIn], backend: OllamaBackend
):
    pair[0].says("/api/chat", one_word)
    busy = sink.events(backend, CHAT)
    await anext(busy)
    assert await text_of(backend) == "B"
    await busy.aclose()


async def test_idle_server_with_the_model_loaded_goes_first(
    pair: tuple[StandIn, StandIn], backend: OllamaBackend
):
    says_json(pair[0], "/api/ps", {"models": []})
    assert await text_of(backend) == "B"


@pytest.mark.parametrize("script", [dies, hangs, page, full])
async def test_other_host_answers_when_one_fails_before_the_first_line(
    pair: tuple[StandIn, StandIn], backend: OllamaBackend, script: Any
):
    pair[0].says("/api/chat", script)
    events = [event async for event in sink.events(backend, CHAT)]
    assert [type(event).__name__ for event in events] == ["Started", "TextDelta", "Finished"]
    assert isinstance(events[1], TextDelta)
    assert events[1].text == "B"
    assert isinstance(events[-1], Finished)


async def test_other_server_is_not_tried_after_the_first_line(
    pair: tuple[StandIn, StandIn], backend: OllamaBackend
):
    async def breaks(reply: Reply) -> None:
        await reply.head()
        await reply.chunk(b'{"message":{"content":"A"}}\n')
        reply.cut()

    pair[0].says("/api/chat", breaks)
    with pytest.raises(BadUpstreamError):
        await text_of(backend)
    assert pair[1].bodies("/api/chat") == []


async def test_other_server_is_not_tried_when_the_request_is_wrong(
    pair: tuple[StandIn, StandIn], backend: OllamaBackend
):
    pair[0].replays("chat-schema-bad", "/api/chat")
    with pytest.raises(InvalidRequestError):
        await text_of(backend)
    assert pair[1].bodies("/api/chat") == []


async def test_each_host_is_tried_once(backend: OllamaBackend, pair: tuple[StandIn, StandIn]):
    for server in pair:
        server.says("/api/chat", dies)
    with pytest.raises(BackendUnavailableError):
        await text_of(backend)
    assert [len(server.bodies("/api/chat")) for server in pair] == [1, 1]


async def breaks_off(reply: Reply) -> None:
    await reply.head()
    await reply.chunk(b'{"message":{"content":"A"}}\n')
    reply.cut()


@asynccontextmanager
async def with_third(
    pair: tuple[StandIn, StandIn],
) -> AsyncIterator[tuple[OllamaBackend, StandIn]]:
    """The backend of three hosts, which has listed their models, and the third of them."""
    async with stand_in() as third:
        third.replays("tags")
        hosts = tuple(server.host for server in (*pair, third))
        async with aclosing(OllamaBackend(OllamaConfig(hosts=hosts), QUICK)) as backend:
            await backend.list_models()
            yield backend, third


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("n", [1, 2])
async def test_third_host_answers_when_two_die_at_once(
    pair: tuple[StandIn, StandIn], n: int, whole: bool
):
    async with with_third(pair) as (backend, third):
        says(third, "C")
        pair[0].says("/api/chat", breaks_off if whole else dies)
        pair[1].says("/api/chat", dies)
        text = await text_of(backend, replace(CHAT, n=n, whole=whole))
    assert text == "C" * n


async def test_vectors_come_from_the_third_host_when_two_die_at_once(
    pair: tuple[StandIn, StandIn],
):
    async with with_third(pair) as (backend, third):
        says_json(third, "/api/embed", {"embeddings": [[1.0]]})
        for server in pair:
            server.says("/api/embed", dies)
        made = await backend.embed(EmbeddingRequest(model="smollm2:135m", inputs=("a",)))
    assert made.vectors == ((1.0,),)


def has_weights(standin: StandIn, digest: str) -> None:
    says_json(standin, "/api/tags", {"models": [{"name": "smollm2:135m", "digest": digest}]})


async def vector_of(backend: OllamaBackend) -> float:
    made = await backend.embed(EmbeddingRequest(model="smollm2:135m", inputs=("a",)))
    return made.vectors[0][0]


@pytest.fixture
async def embedding(pair: tuple[StandIn, StandIn]) -> None:
    """The one has [1.0] for every input, the other [2.0]."""
    for server, value in zip(pair, (1.0, 2.0), strict=True):
        says_json(server, "/api/embed", {"embeddings": [[value]]})


@pytest.mark.usefixtures("embedding")
async def test_vectors_of_other_weights_are_never_mixed_with_those_of_the_first(
    pair: tuple[StandIn, StandIn], backend: OllamaBackend
):
    one, two = pair
    has_weights(one, "a")
    has_weights(two, "b")
    says_json(one, "/api/ps", {"models": []})  # Were it a chat, the other would go first.
    await backend.list_models()
    assert await vector_of(backend) == 1.0
    one.says("/api/embed", dies)
    for _ in range(4):  # Also once its breaker is open.
        with pytest.raises(BackendUnavailableError):
            await vector_of(backend)
    assert two.bodies("/api/embed") == []


@pytest.mark.usefixtures("embedding")
@pytest.mark.parametrize("digest", ["a", ""])
async def test_vectors_of_the_same_weights_come_from_a_server_that_is_well(
    pair: tuple[StandIn, StandIn], backend: OllamaBackend, digest: str
):
    has_weights(pair[0], "a")
    has_weights(pair[1], digest)
    await backend.list_models()
    pair[0].says("/api/embed", dies)
    assert await vector_of(backend) == 2.0


@pytest.mark.parametrize(
    ("script", "failure"), [(dies, BackendUnavailableError), (breaks_off, BadUpstreamError)]
)
async def test_failure_of_the_server_with_the_model_is_no_unknown_model(
    pair: tuple[StandIn, StandIn],
    backend: OllamaBackend,
    script: Script,
    failure: type[BackendError],
):
    await backend.list_models()
    pair[0].says("/api/chat", script)
    pair[1].replays("chat-missing", "/api/chat")
    with pytest.raises(failure):
        await text_of(backend, replace(CHAT, whole=True))


async def test_all_servers_are_tried_where_one_has_lost_the_model(
    pair: tuple[StandIn, StandIn],
):
    async with with_third(pair) as (backend, third):
        says(third, "C")
        pair[0].says("/api/chat", dies)
        pair[1].replays("chat-missing", "/api/chat")
        assert await text_of(backend) == "C"


async def missing(reply: Reply) -> None:
    await reply.plain(404, b'{"error":"model \'m\' not found"}')


@pytest.mark.parametrize("script", [dies, missing, breaks_off])
async def test_server_that_has_got_the_model_since_is_tried_when_the_first_fails(
    pair: tuple[StandIn, StandIn], backend: OllamaBackend, script: Script, clock: Clock
):
    one, two = pair
    says_json(one, "/api/tags", {"models": []})
    await backend.list_models()
    one.replays("tags")
    two.says("/api/chat", script)
    two.says("/api/embed", dies)
    says_json(one, "/api/embed", {"embeddings": [[1.0]]})
    clock.advance()
    assert await text_of(backend, replace(CHAT, whole=True)) == "A"
    assert len(two.bodies("/api/chat")) == 1
    says_json(one, "/api/tags", {"models": []})
    clock.advance()
    await backend.list_models()
    one.replays("tags")
    clock.advance()
    made = await backend.embed(EmbeddingRequest(model="smollm2:135m", inputs=("a",)))
    assert made.vectors == ((1.0,),)


async def test_no_server_is_tried_twice_when_no_other_has_got_the_model_since(
    pair: tuple[StandIn, StandIn], backend: OllamaBackend, clock: Clock
):
    one, two = pair
    says_json(one, "/api/tags", {"models": []})
    await backend.list_models()
    two.says("/api/chat", dies)
    clock.advance()
    with pytest.raises(BackendUnavailableError):
        await text_of(backend)
    assert [len(server.bodies("/api/chat")) for server in pair] == [0, 1]


async def test_failing_host_is_left_alone_after_three_and_used_after_a_real_token(
    pair: tuple[StandIn, StandIn], backend: OllamaBackend
):
    one, two = pair
    one.says("/api/chat", page)
    one.says("/api/generate", page)
    assert [await text_of(backend) for _ in range(6)] == ["B"] * 6
    assert len(one.bodies("/api/chat")) == 3
    health = await backend.health()
    assert health.ok
    assert health.detail == f"{one.host}: Ollama failed several times."
    says(one, "A")
    says_json(one, "/api/generate", {"response": "1", "done": True})
    await until(lambda: says_text(backend, "A"))
    probe = one.bodies("/api/generate")[-1]
    assert (probe["model"], probe["options"]["num_predict"]) == ("smollm2:135m", 1)
    assert two.bodies("/api/generate") == []


async def test_host_that_dies_under_eight_clients_is_taken_over_from(
    pair: tuple[StandIn, StandIn], backend: OllamaBackend
):
    one, _ = pair
    dead = asyncio.Event()

    async def dies_then(reply: Reply) -> None:
        await dead.wait()
        reply.cut()

    one.says("/api/chat", dies_then)
    asked = [asyncio.create_task(text_of(backend)) for _ in range(8)]
    await one.has_seen("/api/chat", 4)
    dead.set()
    assert await asyncio.gather(*asked) == ["B"] * 8
    assert [await text_of(backend) for _ in range(3)] == ["B"] * 3
    assert len(one.bodies("/api/chat")) >= 4


async def test_vectors_of_a_host_that_hangs_come_from_the_other(
    pair: tuple[StandIn, StandIn],
):
    one, two = pair
    config = OllamaConfig(hosts=(one.host, two.host), refresh=60)
    backend = OllamaBackend(config, replace(QUICK, look=0.05))
    await backend.list_models()
    for path in ("/api/version", "/api/embed", "/api/show", "/api/ps"):
        one.says(path, hangs)
    says_json(two, "/api/embed", {"embeddings": [[1.0]]})
    async with asyncio.timeout(20):
        made = await backend.embed(EmbeddingRequest(model="smollm2:135m", inputs=("a",)))
    assert made.vectors == ((1.0,),)
    await backend.aclose()


async def test_host_that_hangs_is_left_alone_and_the_other_is_not_touched(
    pair: tuple[StandIn, StandIn], backend: OllamaBackend
):
    one, _ = pair
    await backend.list_models()
    for path in ("/api/tags", "/api/ps", "/api/version", "/api/chat", "/api/generate"):
        one.says(path, hangs)
    for _ in range(3):
        assert await text_of(backend) == "B"
    asked = len(one.bodies("/api/chat"))
    assert [await text_of(backend) for _ in range(5)] == ["B"] * 5
    assert len(one.bodies("/api/chat")) == asked == 1


async def test_silent_server_is_tried_last_until_it_responds(
    pair: tuple[StandIn, StandIn], backend: OllamaBackend, clock: Clock
):
    one, _ = pair
    await backend.list_models()
    one.says("/api/chat", hangs)
    for _ in range(3):  # Only the first request waits for it.
        assert await text_of(backend) == "B"
    assert len(one.bodies("/api/chat")) == 1
    says(one, "A")
    clock.advance()
    await backend.list_models()
    assert await text_of(backend) == "A"


async def test_host_that_is_away_from_the_start_is_stepped_over(pair: tuple[StandIn, StandIn]):
    backend = OllamaBackend(OllamaConfig(hosts=("http://127.0.0.1:9", pair[1].host)), QUICK)
    assert await text_of(backend) == "B"
    assert len(await backend.list_models()) == 4
    health = await backend.health()
    assert (health.ok, health.counters["hosts"], health.counters["hosts_well"]) == (True, 2, 1)
    assert health.detail == "http://127.0.0.1:9: Ollama cannot be reached."
    await backend.aclose()


@pytest.mark.parametrize("fault", [page, dies])
async def test_model_of_a_host_that_fails_is_no_unknown_one(
    pair: tuple[StandIn, StandIn], backend: OllamaBackend, fault: Script, clock: Clock
):
    lonely = {"models": [{"name": "smollm2:135m"}, {"name": "lonely:1b"}]}
    says_json(pair[0], "/api/tags", lonely)
    says_json(pair[0], "/api/ps", lonely)
    assert "lonely:1b" in {model.name for model in await backend.list_models()}
    for path in ("/api/tags", "/api/chat", "/api/generate"):
        pair[0].says(path, fault)
    clock.advance()
    models: dict[str, Model] = {}
    for _ in range(4):  # Also once its breaker is open.
        models = {model.name: model for model in await backend.list_models()}
        clock.advance()
    assert models["lonely:1b"].loaded is None
    assert models["smollm2:135m"].loaded_context == 4096  # The other's.
    with pytest.raises(BackendError) as failure:
        await text_of(backend, GenerationRequest(model="lonely:1b", prompt=CHAT.prompt))
    assert not isinstance(failure.value, ModelNotFoundError)


async def test_list_fails_with_the_reason_when_no_server_responds():
    backend = OllamaBackend(
        OllamaConfig(hosts=("http://127.0.0.1:9", "http://127.0.0.1:19")), QUICK
    )
    with pytest.raises(BackendUnavailableError):
        await backend.list_models()
    assert not (await backend.health()).ok
    await backend.aclose()


@pytest.mark.slow
async def test_only_host_that_hangs_is_refused_at_once_after_three(
    pair: tuple[StandIn, StandIn],
):
    one, _ = pair
    one.says("/api/generate", hangs)
    one.says("/api/chat", hangs)
    backend = OllamaBackend(OllamaConfig(host=one.host, first_token_timeout=0.2), QUICK)
    for _ in range(3):
        with pytest.raises(BackendError):
            await text_of(backend)
    with pytest.raises(BackendUnavailableError, match="being tested"):
        await text_of(backend)
    assert len(one.bodies("/api/chat")) == 3
    says(one, "A")
    says_json(one, "/api/generate", {"response": "1", "done": True})
    await until(lambda: is_well(backend))
    assert await text_of(backend) == "A"
    await backend.aclose()


async def test_only_host_whose_one_model_breaks_still_answers_with_the_others(
    pair: tuple[StandIn, StandIn],
):
    one, _ = pair
    one.says("/api/chat", page)
    one.says("/api/generate", page)
    backend = OllamaBackend(OllamaConfig(host=one.host), Limits(look_every=60.0))
    for lasting in (False, False, True):
        with pytest.raises(BadUpstreamError) as failure:
            await text_of(backend)
        assert failure.value.lasting is lasting
    assert (await backend.health()).breaker == "open"
    for _ in range(5):
        with pytest.raises(BackendUnavailableError, match="being tested"):
            await text_of(backend)
    assert len(one.bodies("/api/chat")) == 3
    says(one, "A")
    assert await text_of(backend, GenerationRequest(model="b:1b", prompt=CHAT.prompt)) == "A"
    assert (await backend.health()).breaker == "closed"
    await backend.aclose()


async def test_only_host_that_fails_is_tried_by_one_request_at_a_time(
    pair: tuple[StandIn, StandIn],
):
    one, _ = pair
    one.says("/api/chat", dies)
    one.says("/api/generate", dies)
    backend = OllamaBackend(OllamaConfig(host=one.host), QUICK)
    for _ in range(3):
        with pytest.raises(BackendUnavailableError):
            await text_of(backend)
    one.says("/api/chat", hangs)
    trial = await _trial(backend, one)
    for _ in range(5):
        with pytest.raises(BackendUnavailableError, match="being tested"):
            await text_of(backend)
    assert len(one.bodies("/api/chat")) == 4
    trial.cancel()
    await asyncio.wait([trial])
    await backend.aclose()


async def test_trial_that_is_cancelled_makes_way_for_the_next(pair: tuple[StandIn, StandIn]):
    one, _ = pair
    backend = await _with_open_breaker(one)
    one.says("/api/chat", hangs)
    trial = await _trial(backend, one)
    trial.cancel()
    await asyncio.wait([trial])
    says(one, "A")
    assert await text_of(backend) == "A"
    await backend.aclose()


async def _with_open_breaker(server: StandIn) -> OllamaBackend:
    """A backend of `server` that has had three faults of it, and tests it soon by a request."""
    server.says("/api/chat", page)
    limits = Limits(look_every=0.05, first_probe=60)
    backend = OllamaBackend(OllamaConfig(host=server.host), limits)
    for _ in range(3):
        with pytest.raises(BadUpstreamError):
            await text_of(backend)
    return backend


async def _trial(backend: OllamaBackend, server: StandIn) -> asyncio.Task[str]:
    """The request that an open breaker lets through to `server`, which does not answer."""
    before = len(server.bodies("/api/chat"))
    task = asyncio.create_task(text_of(backend))
    async with asyncio.timeout(20):
        while len(server.bodies("/api/chat")) == before:
            await asyncio.wait([task], timeout=0.05)
            if task.done():
                assert isinstance(task.exception(), BackendUnavailableError)
                task = asyncio.create_task(text_of(backend))
    return task


async def test_trial_that_loads_makes_way_for_the_next(pair: tuple[StandIn, StandIn]):
    one, _ = pair
    backend = await _with_open_breaker(one)
    one.replays("load")
    await until(lambda: _loads(backend))
    says(one, "A")
    assert await text_of(backend) == "A"
    await backend.aclose()


async def _loads(backend: OllamaBackend) -> bool:
    try:
        await backend.load("smollm2:135m")
    except BackendUnavailableError:
        return False
    return True


async def test_response_that_is_nested_too_deeply_is_the_server_s_fault(
    pair: tuple[StandIn, StandIn],
):
    one, _ = pair
    nested = b'{"x":%b%b}' % (b"[" * 100_000, b"]" * 100_000)

    async def nests(reply: Reply) -> None:
        await reply.plain(200, nested)

    for path in ("/api/chat", "/api/version", "/api/tags"):
        one.says(path, nests)
    backend = OllamaBackend(OllamaConfig(host=one.host), QUICK)
    assert "Unexpected response from Ollama." in ((await backend.health()).detail or "")
    with pytest.raises(BadUpstreamError):
        await text_of(backend)
    with pytest.raises(BadUpstreamError):
        await backend.list_models()
    await backend.aclose()


async def test_server_is_probed_with_a_model_that_generates(pair: tuple[StandIn, StandIn]):
    one, _ = pair
    embedder = {"name": "minilm:1", "size": 1, "digest": "a", "capabilities": ["embedding"]}
    chatty = {"name": "smollm2:135m", "size": 9, "digest": "b", "capabilities": ["completion"]}
    tags = [each | {"details": {"context_length": 4096}} for each in (embedder, chatty)]
    says_json(one, "/api/tags", {"models": tags})
    says_json(one, "/api/show", {})
    says_json(one, "/api/ps", {"models": [{"name": "minilm:1"}]})
    one.says("/api/chat", page)
    backend = OllamaBackend(OllamaConfig(host=one.host), QUICK)
    for _ in range(3):
        with pytest.raises(BackendError):
            await text_of(backend)
    await until(lambda: is_well(backend))
    assert [body["model"] for body in one.bodies("/api/generate")] == ["smollm2:135m"]
    await backend.aclose()


async def test_full_queue_does_not_speak_against_a_host(
    pair: tuple[StandIn, StandIn], backend: OllamaBackend
):
    pair[0].says("/api/chat", full)
    for _ in range(5):
        await text_of(backend)
    assert len(pair[0].bodies("/api/chat")) == 5
    assert (await backend.health()).detail is None


async def test_unload_reaches_every_host_that_has_the_model(
    pair: tuple[StandIn, StandIn], backend: OllamaBackend
):
    await backend.list_models()
    for server in pair:
        server.replays("unload")
    await backend.unload("smollm2:135m")
    assert [server.bodies("/api/chat")[0]["keep_alive"] for server in pair] == [0, 0]


async def test_model_is_loaded_by_the_other_host_when_one_dies(
    pair: tuple[StandIn, StandIn], backend: OllamaBackend
):
    await backend.list_models()
    pair[0].says("/api/chat", dies)
    pair[1].replays("load")
    await backend.load("smollm2:135m")
    assert [len(server.bodies("/api/chat")) for server in pair] == [1, 1]


async def test_unload_reaches_the_hosts_behind_one_that_has_died(
    pair: tuple[StandIn, StandIn], backend: OllamaBackend
):
    await backend.list_models()
    pair[0].says("/api/chat", dies)
    pair[1].replays("unload")
    with pytest.raises(BackendUnavailableError):  # It may still be loaded there.
        await backend.unload("smollm2:135m")
    assert [server.bodies("/api/chat")[0]["keep_alive"] for server in pair] == [0, 0]

"""The models of an Ollama, its health, load and unload."""

import asyncio
import json
from contextlib import aclosing
from typing import Any

import pytest
from fakes.clock import Clock
from fakes.recorded_ollama import Reply, StandIn, recording, replay

from adapters import sink
from adapters.backend import Model
from adapters.config import OllamaConfig
from adapters.errors import (
    BackendBusyError,
    BackendTimeoutError,
    BackendUnavailableError,
    BadUpstreamError,
    ModelNotFoundError,
)
from adapters.ollama.backend import OllamaBackend
from adapters.ollama.server import OllamaServer
from adapters.request import GenerationRequest, Message, TextPart
from adapters.upstream.behind import SERVER_ID
from adapters.upstream.limits import Limits

CHAT = GenerationRequest(
    model="smollm2:135m", prompt=(Message(role="user", content=(TextPart("Hi"),)),)
)


@pytest.fixture
def full(standin: StandIn) -> StandIn:
    """The stand-in with the recorded models."""
    for name in ("tags", "ps", "version"):
        standin.replays(name)
    shows_by_name(standin)
    return standin


def shows_by_name(standin: StandIn) -> None:
    """The three chat models are of one file."""

    async def script(reply: Reply) -> None:
        model: str = standin.bodies("/api/show")[-1]["model"]
        name = "show-embed" if model == "all-minilm:latest" else "show-llama"
        await replay(recording(name)["response"])(reply)

    standin.says("/api/show", script)


def says_json(standin: StandIn, path: str, body: Any) -> None:
    async def script(reply: Reply) -> None:
        await reply.plain(200, json.dumps(body).encode())

    standin.says(path, script)


def paths(standin: StandIn) -> list[str]:
    return [seen.path for seen in standin.seen]


async def test_models_of_the_recording(full: StandIn, backend: OllamaBackend):
    think, tools, embed, plain = await backend.list_models()
    assert plain == Model(
        name="smollm2:135m",
        context_length=8192,
        capabilities=frozenset({"chat"}),
        lacks=frozenset({"embeddings", "images", "reasoning_effort", "reasoning_budget", "suffix"}),
        size_bytes=98362745,
        quantization="Q4_1",
        digest="765525e6017ab6ad369d812befc610782d2c43da14435f795b5922a44187b6aa",
        origin="sha256:b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        exact=True,
        created=1795459472,
        template=("tools-as-text",),
        loaded=True,
        loaded_context=4096,
        details=plain.details,
    )
    assert think.capabilities == {"chat", "tools", "reasoning"}
    assert tools.capabilities == {"chat", "tools"}
    assert (embed.capabilities, embed.context_length) == ({"embedding"}, 512)


async def test_model_with_its_template_in_the_gguf_has_what_show_reports(
    standin: StandIn, backend: OllamaBackend
):
    """`/api/tags` lists all of these as `["completion"]`."""
    for name in ("ps", "version"):
        standin.replays(name)
    standin.replays("jinja/tags")

    async def show(reply: Reply) -> None:
        name = standin.bodies("/api/show")[-1]["model"]
        kind = next((k for k in ("think", "tools") if k in name), "llama")
        await replay(recording(f"jinja/show-{kind}")["response"])(reply)

    standin.says("/api/show", show)
    listed = {model.name: model.capabilities for model in await backend.list_models()}
    assert listed["smollm2-jinja-think:latest"] == {"chat", "tools", "reasoning"}
    assert listed["smollm2-jinja-tools:latest"] == {"chat", "tools"}
    assert listed["smollm2-jinja:latest"] == {"chat"}


@pytest.mark.parametrize(
    ("listed", "shown", "believed"),
    [
        (["completion"], ["embedding"], {"embedding"}),
        (["completion"], ["completion", "tools"], {"chat", "tools"}),
        (["completion", "tools"], ["completion"], {"chat", "tools"}),
        (["completion", "tools"], [], {"chat", "tools"}),
        ([], ["completion", "vision"], {"chat", "vision"}),
    ],
)
async def test_more_of_what_tags_and_show_report_is_believed(
    full: StandIn,
    backend: OllamaBackend,
    listed: list[str],
    shown: list[str],
    believed: set[str],
):
    tag = {"name": "a:latest", "digest": "d", "capabilities": listed}
    says_json(full, "/api/tags", {"models": [tag]})
    says_json(full, "/api/show", {"capabilities": shown})
    (model,) = await backend.list_models()
    assert model.capabilities == believed


async def test_models_of_one_file_are_loaded_together(full: StandIn, backend: OllamaBackend):
    """Ollama has one runner for them; `/api/ps` names the model that it was started for."""
    models = {model.name: model for model in await backend.list_models()}
    loaded = {name: (model.loaded, model.loaded_context) for name, model in models.items()}
    assert loaded == {
        "smollm2-think:latest": (True, 4096),
        "smollm2-tools:latest": (True, 4096),
        "smollm2:135m": (True, 4096),
        "all-minilm:latest": (False, None),
    }


@pytest.mark.parametrize(
    ("part", "added"),
    [
        ("modelfile", f"ADAPTER /models/blobs/sha256-{'a' * 64}\n"),
        ("modelfile", f"FROM /models/blobs/sha256-{'b' * 64}\n"),
        ("parameters", "\nnum_thread                     4"),
    ],
    ids=["adapter", "projector", "option"],
)
async def test_models_of_one_file_are_not_loaded_together_where_their_runner_differs(
    full: StandIn, backend: OllamaBackend, part: str, added: str
):
    async def script(reply: Reply) -> None:
        shown = json.loads("".join(recording("show-llama")["response"]["chunks"]))
        if full.bodies("/api/show")[-1]["model"] == "smollm2-tools:latest":
            shown[part] += added
        await reply.plain(200, json.dumps(shown).encode())

    full.says("/api/show", script)
    models = {model.name: model.loaded for model in await backend.list_models()}
    assert (models["smollm2-think:latest"], models["smollm2-tools:latest"]) == (True, False)


async def test_nothing_is_unloaded_under_an_answer_of_another_model_of_its_file(
    full: StandIn, backend: OllamaBackend
):
    async def script(reply: Reply) -> None:
        await reply.head()
        await reply.chunk(b'{"message": {"content": "A"}}\n')
        await reply.gone()

    full.says("/api/chat", script)
    await backend.list_models()
    answer = sink.events(backend, CHAT)
    await anext(answer)
    with pytest.raises(BackendBusyError):
        await backend.unload("smollm2-tools:latest")
    await answer.aclose()


@pytest.mark.parametrize(
    "odd",
    [{"name": 5}, {}, {"name": "a:latest", "size": "large"}, {"name": "a:latest", "details": []}],
)
async def test_unreadable_entry_hides_no_other_model(
    full: StandIn, backend: OllamaBackend, odd: dict[str, Any]
):
    says_json(full, "/api/tags", {"models": [odd, {"name": "b:latest"}]})
    says_json(full, "/api/ps", {"models": [odd, {"name": "b:latest", "context_length": 4096}]})
    (model,) = await backend.list_models()
    assert (model.name, model.loaded, model.loaded_context) == ("b:latest", True, 4096)


async def test_model_may_be_named_as_the_official_client_reads_it(
    full: StandIn, backend: OllamaBackend
):
    details = dict.fromkeys(("format", "quantization_level", "context_length"))
    fields = dict.fromkeys(("name", "digest", "size", "modified_at", "capabilities"))
    says_json(full, "/api/tags", {"models": [{"model": "b:latest", "details": details, **fields}]})
    nulls = dict.fromkeys(("size_vram", "expires_at", "context_length"))
    says_json(full, "/api/ps", {"models": [{"model": "b:latest", **fields, **nulls}]})
    (model,) = await backend.list_models()
    assert (model.name, model.loaded, model.size_bytes) == ("b:latest", True, None)


@pytest.mark.parametrize("told", [0, -1, "8192", None])
async def test_context_length_that_is_none_is_not_known(
    full: StandIn, backend: OllamaBackend, told: object
):
    says_json(full, "/api/tags", {"models": [{"name": "b:latest"}]})
    says_json(full, "/api/show", {"model_info": {"llama.context_length": told}})
    assert [model.context_length for model in await backend.list_models()] == [None]


async def test_origin_comes_from_show_and_is_fetched_once(full: StandIn):
    clock = Clock()
    backend = OllamaBackend(OllamaConfig(host=full.host), Limits(clock=clock))
    models = await backend.list_models()
    clock.advance()
    assert await backend.list_models() == models
    chat, embed = (
        recording(name)["response"]["chunks"][0] for name in ("show-llama", "show-embed")
    )
    origins = {model.name: (model.origin or "").removeprefix("sha256:") for model in models}
    assert origins.pop("all-minilm:latest") in embed
    assert len({*origins.values()}) == 1
    assert origins["smollm2:135m"] in chat
    assert len(full.bodies("/api/show")) == len({model.digest for model in models})
    await backend.aclose()


async def test_origin_is_not_known_where_the_modelfile_names_no_file(
    full: StandIn, backend: OllamaBackend
):
    says_json(full, "/api/show", {"modelfile": "FROM llama3\n", "capabilities": ["completion"]})
    assert {model.origin for model in await backend.list_models()} == {None}


async def test_origin_of_a_model_with_an_adapter_is_not_its_bases(
    full: StandIn, backend: OllamaBackend
):
    modelfile = f"FROM /blobs/sha256-{'5' * 64}\nADAPTER /blobs/sha256-{'6' * 64}\n"
    says_json(full, "/api/show", {"modelfile": modelfile, "capabilities": ["completion"]})
    assert {(model.origin, model.exact) for model in await backend.list_models()} == {(None, None)}


@pytest.mark.parametrize(
    ("line", "primed"),
    [
        ("SYSTEM You are a pirate.", True),
        ('SYSTEM """You are\na pirate."""', True),
        ("MESSAGE user Ahoy", True),
        ('TEMPLATE """{{ .System }}"""', False),
        ("PARAMETER stop SYSTEM", False),
    ],
)
async def test_model_is_primed_by_what_its_modelfile_says_before_a_chat(
    full: StandIn, backend: OllamaBackend, line: str, primed: bool
):
    says_json(full, "/api/show", {"modelfile": f"FROM llama3\n{line}\n"})
    assert {model.primed for model in await backend.list_models()} == {primed}


async def test_show_of_an_old_server_is_fetched_once_for_each_digest(
    full: StandIn, standin: StandIn
):
    tags = json.loads(recording("tags")["response"]["chunks"][0])
    for tag in tags["models"]:
        del tag["capabilities"], tag["details"]["quantization_level"]
        tag["digest"] = "the same"
    says_json(full, "/api/tags", tags)
    full.replays("show-llama")
    clock = Clock()
    backend = OllamaBackend(OllamaConfig(host=standin.host), Limits(clock=clock))
    models = await backend.list_models()
    clock.advance()
    assert await backend.list_models() == models
    assert {model.capabilities for model in models} == {frozenset({"chat"})}
    assert {model.context_length for model in models} == {8192}
    assert paths(full).count("/api/show") == 1
    await backend.aclose()


async def test_model_that_cannot_be_shown_is_listed_and_fetched_again(full: StandIn):
    clock = Clock()
    backend = OllamaBackend(OllamaConfig(host=full.host), Limits(clock=clock))
    full.replays("show-missing", "/api/show")
    assert len(await backend.list_models()) == 4
    full.replays("show-embed")
    clock.advance()
    capabilities = {model.name: model.capabilities for model in await backend.list_models()}
    assert capabilities["all-minilm:latest"] == {"embedding"}
    await backend.aclose()


async def test_tags_of_no_detail_are_models_of_which_little_is_known(
    full: StandIn, backend: OllamaBackend
):
    says_json(full, "/api/tags", {"models": [{"name": "a", "modified_at": "yesterday"}]})
    full.replays("show-missing", "/api/show")
    assert await backend.list_models() == [Model(name="a", loaded=False)]


async def test_no_models_is_a_list_of_none(full: StandIn, backend: OllamaBackend):
    says_json(full, "/api/tags", {"models": None})
    assert await backend.list_models() == []


async def test_loaded_is_not_known_where_ps_fails(full: StandIn, backend: OllamaBackend):
    full.replays("not-found", "/api/ps")
    assert {model.loaded for model in await backend.list_models()} == {None}


async def test_callers_that_meet_share_one_question(full: StandIn, backend: OllamaBackend):
    lists = await asyncio.gather(*(backend.list_models() for _ in range(20)))
    assert all(models == lists[0] for models in lists)
    assert paths(full).count("/api/tags") == 1


async def test_list_is_valid_for_a_while_and_no_longer(full: StandIn):
    clock = Clock()
    ollama = OllamaServer(full.host, OllamaConfig(host=full.host, refresh=30), Limits(clock=clock))
    await ollama.models()
    await ollama.models()
    assert paths(full).count("/api/tags") == 1
    clock.advance(31)
    await ollama.models()
    assert paths(full).count("/api/tags") == 2
    await ollama.aclose()


async def test_tag_that_was_just_made_is_listed_at_once(full: StandIn, backend: OllamaBackend):
    """A request right after `ollama create` must find the model."""
    await backend.list_models()
    says_json(full, "/api/tags", {"models": [{"name": "made:1"}]})
    assert [model.name for model in await backend.list_models()] == ["made:1"]


async def test_caller_that_leaves_takes_nothing_from_the_other(
    full: StandIn, backend: OllamaBackend
):
    leaves = asyncio.create_task(backend.list_models())
    stays = asyncio.create_task(backend.list_models())
    await asyncio.sleep(0)
    leaves.cancel()
    assert len(await stays) == 4
    assert paths(full).count("/api/tags") == 1


async def test_failure_to_list_is_not_kept(standin: StandIn, backend: OllamaBackend):
    with pytest.raises(BadUpstreamError):
        await backend.list_models()
    standin.replays("tags")
    standin.replays("ps")
    assert len(await backend.list_models()) == 4


async def test_failure_after_all_callers_have_left_is_quiet(
    standin: StandIn, backend: OllamaBackend
):
    task = asyncio.create_task(backend.list_models())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    await standin.has_seen("/api/tags")
    await backend.aclose()
    assert paths(standin) == ["/api/tags"]


async def test_model_missing_upstream_makes_the_list_doubtful(full: StandIn):
    full.replays("chat-missing")
    ollama = OllamaServer(full.host, OllamaConfig(host=full.host, refresh=60))
    await ollama.models()
    with pytest.raises(ModelNotFoundError):
        await ollama.load("smollm2:135m", None)
    await ollama.models()
    assert paths(full).count("/api/tags") == 2
    await ollama.aclose()


async def test_absent_ollama_has_no_list():
    backend = OllamaBackend(OllamaConfig(host="http://127.0.0.1:9"))
    with pytest.raises(BackendUnavailableError):
        await backend.list_models()
    await backend.aclose()


async def test_health_when_it_is_there(full: StandIn, backend: OllamaBackend):
    health = await backend.health()
    assert (health.ok, health.version, health.detail) == (True, "0.33.0", None)


async def test_health_when_it_is_not():
    backend = OllamaBackend(OllamaConfig(host="http://127.0.0.1:9"))
    health = await backend.health()
    assert not health.ok
    assert health.detail == "http://127.0.0.1:9: Ollama cannot be reached."
    await backend.aclose()


@pytest.mark.slow
async def test_health_does_not_wait_for_one_that_hangs(standin: StandIn):
    async def hangs(reply: Reply) -> None:
        await reply.gone()

    standin.says("/api/version", hangs)
    backend = OllamaBackend(OllamaConfig(host=standin.host, connect_timeout=0.1))
    async with asyncio.timeout(60):  # Without a limit of its own it would never end.
        health = await backend.health()
    assert (health.ok, health.detail) == (
        False,
        f"{standin.host}: Ollama did not respond in time.",
    )
    await backend.aclose()


async def test_load_and_unload_send_what_was_recorded(full: StandIn, backend: OllamaBackend):
    full.replays("show-llama")
    full.replays("load")
    await backend.load("smollm2:135m")
    full.replays("unload")
    await backend.unload("smollm2:135m")
    assert full.bodies("/api/chat") == [
        recording("load")["request"]["body"] | {"options": {"num_ctx": 4096}, "shift": False},
        recording("unload")["request"]["body"],
    ]


async def test_load_of_a_model_that_only_embeds(full: StandIn, backend: OllamaBackend):
    full.replays("show-embed")
    full.replays("embed-empty-string")
    await backend.load("all-minilm", 300)
    assert full.bodies("/api/embed") == [
        {"model": "all-minilm", "input": [], "truncate": False, "keep_alive": 300}
    ]
    assert not full.bodies("/api/chat")


async def test_load_makes_the_list_doubtful(full: StandIn):
    full.replays("load")
    ollama = OllamaServer(full.host, OllamaConfig(host=full.host, refresh=60))
    await ollama.models()
    await ollama.load("smollm2:135m", None)
    await ollama.models()
    assert paths(full).count("/api/tags") == 2
    await ollama.aclose()


async def test_load_of_a_missing_model(full: StandIn, backend: OllamaBackend):
    full.replays("chat-missing")
    with pytest.raises(ModelNotFoundError):
        await backend.load("nope")


@pytest.mark.slow
async def test_load_that_takes_too_long(full: StandIn, backend: OllamaBackend):
    async def hangs(reply: Reply) -> None:
        await reply.gone()

    full.says("/api/chat", hangs)
    with pytest.raises(BackendTimeoutError):
        await backend.load("smollm2:135m")


async def test_unload_by_a_server_that_hangs_is_not_waited_for(
    full: StandIn,
):
    async def hangs(reply: Reply) -> None:
        await reply.gone()

    full.says("/api/chat", hangs)
    config = OllamaConfig(host=full.host, first_token_timeout=600)
    async with aclosing(OllamaBackend(config, Limits(unload=0.1))) as backend:
        with pytest.raises(BackendTimeoutError):
            await backend.unload("smollm2:135m")


async def test_unload_of_a_model_that_answers_is_busy(full: StandIn, backend: OllamaBackend):
    async def says_one_word(reply: Reply) -> None:
        await reply.head()
        await reply.chunk(b'{"message":{"content":"A"}}\n')
        await reply.gone()

    full.says("/api/chat", says_one_word)
    events = sink.events(backend, CHAT)
    await anext(events)
    with pytest.raises(BackendBusyError):
        await backend.unload("smollm2:135m")
    await events.aclose()
    full.replays("unload")
    await backend.unload("smollm2:135m")


async def test_closing_the_backend_stops_the_list_in_progress(standin: StandIn):
    async def hangs(reply: Reply) -> None:
        await reply.gone()

    standin.says("/api/tags", hangs)
    backend = OllamaBackend(OllamaConfig(host=standin.host))
    waiting = asyncio.create_task(backend.list_models())
    await standin.has_seen("/api/tags")
    await backend.aclose()
    with pytest.raises(BackendUnavailableError):
        await asyncio.wait_for(waiting, 20)


async def test_tandem_that_has_this_server_behind_it_is_no_ollama(
    full: StandIn, backend: OllamaBackend
):
    """Two servers that have one another as their Ollama waited for each other's lists."""
    says_json(full, "/api/tags", {"models": [], "servers": ["other", SERVER_ID]})
    with pytest.raises(BackendUnavailableError, match="in a circle"):
        await backend.list_models()
    health = await backend.health()
    assert not health.ok
    assert "in a circle" in (health.detail or "")
    assert backend.behind() == set()


async def test_other_tandems_behind_a_server_are_known(full: StandIn, backend: OllamaBackend):
    says_json(full, "/api/tags", {"models": [], "servers": ["other", "third"]})
    await backend.list_models()
    assert backend.behind() == {"other", "third"}


@pytest.mark.parametrize(("servers", "is_limited"), [([], True), (["other"], False)])
async def test_mlx_models_of_a_tandem_lack_nothing_that_those_of_ollama_lack(
    full: StandIn, backend: OllamaBackend, servers: list[str], is_limited: bool
):
    tag = {"name": "m:1b", "digest": "d", "details": {"format": "safetensors"}}
    says_json(full, "/api/tags", {"models": [tag], "servers": servers})
    (model,) = await backend.list_models()
    assert ("response_format" in model.lacks) is is_limited

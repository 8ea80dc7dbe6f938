"""The page in Chromium: what it shows, keyboard, axe, narrow screens, both themes."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import pytest
from fakes.bench_results import bench_result
from fakes.browser import fetch_axe, opened_page, violations
from fakes.pictures import png
from fakes.scripted_backend import HANG, HELLO, ScriptedBackend, chat
from fakes.waiting import until
from playwright.async_api import Page, Route, expect
from servers.served import served

from adapters.backend import Model, Progress
from adapters.errors import GenerationError
from adapters.events import (
    Finished,
    PromptProgress,
    ReasoningDelta,
    Started,
    TextDelta,
    ToolCallDelta,
    ToolCallStarted,
    Usage,
)
from adapters.request import GenerationRequest
from adapters.sink import Sink
from proxy.access.config import KeyConfig
from proxy.bench.archive import Archive
from proxy.config import Config, ModelConfig, ServerConfig

pytestmark = [pytest.mark.long, pytest.mark.process]

VIEWS = ("now", "history", "models", "compare", "playground", "logs", "connect")
USAGE = Usage(prompt_tokens=300, completion_tokens=2, cached_tokens=200)
ANSWER = (Started(), TextDelta("Hello "), TextDelta("there"), Finished("stop", USAGE))
BOTH = Config(models={"m": ModelConfig(names={"mlx": "m", "ollama": "m"})})


@pytest.fixture(scope="session")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    return fetch_axe(tmp_path_factory.mktemp("axe"))


class Loading(ScriptedBackend):
    """A backend that is loading a model, and has read 45 % of it."""

    def loading(self) -> dict[str, Progress]:
        return {"m": Progress(status="loading", completed=45, total=100)}


class Writing(ScriptedBackend):
    """Writes a word each time that it is allowed to, without end."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.may_write = asyncio.Semaphore(0)

    async def generate(self, request: GenerationRequest, sink: Sink) -> None:
        self.running += 1
        sink.write(Started())
        sink.write(PromptProgress(64, 128, 64))
        while await self.may_write.acquire():
            sink.write(TextDelta("word "))


@asynccontextmanager
async def asked(backend: ScriptedBackend, port: int, **fields: Any) -> AsyncIterator[None]:
    """While a client of the server waits for an answer."""
    async with httpx2.AsyncClient(
        base_url=f"http://127.0.0.1:{port}", headers={"user-agent": "Tester/1.0"}, timeout=60
    ) as client:
        task = asyncio.create_task(client.post("/v1/chat/completions", json=chat(**fields)))
        await until(lambda: backend.running > 0 or task.done())
        try:
            yield
        finally:
            task.cancel()


async def ask(port: int, **fields: Any) -> None:
    async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        await client.post("/v1/chat/completions", json=chat(**fields))


async def settle(page: Page) -> None:
    """Wait until the view has read what it shows."""
    await expect(page.locator("#connection")).to_have_text("Connected")
    await page.wait_for_load_state("domcontentloaded")
    await expect(page.locator("h1")).to_be_visible()


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1200, 360])
async def test_views_are_accessible_fit_and_stay_within_the_policy(
    axe: str, width: int, theme: str
):
    writing = ScriptedBackend([Started(), PromptProgress(128, 512, 64), HANG], kind="mlx")
    async with served(writing) as port, asked(writing, port):
        await ask(port, model="unknown")
        logging.getLogger("tandem").warning("Something happened.")
        async with opened_page(port, width=width, theme=theme) as (page, problems):
            for view in VIEWS:
                await page.goto(f"http://127.0.0.1:{port}/#{view}")
                await settle(page)
                assert await violations(page, axe) == [], view
                wider = await page.evaluate(
                    "document.documentElement.scrollWidth - document.documentElement.clientWidth"
                )
                assert wider == 0, view
            assert problems == []


@pytest.mark.parametrize(
    ("backend", "words"),
    [
        (ScriptedBackend([HANG], kind="mlx"), "Queued: waits for a place on the engine"),
        (Loading([HANG], kind="mlx"), "Loading the model: 45 %"),
        (ScriptedBackend([HANG], kind="ollama"), "Waiting for ollama"),
        (
            ScriptedBackend([Started(), PromptProgress(128, 512, 64), HANG], kind="mlx"),
            "Reading 128 of 512 tokens",
        ),
    ],
    ids=["queued", "loading", "waiting", "reading"],
)
async def test_now_says_what_a_request_waits_for(backend: ScriptedBackend, words: str):
    async with (
        served(backend) as port,
        asked(backend, port),
        opened_page(port, "now") as (page, _),
    ):
        card = page.locator("#main li.card", has_text="Tester/1.0")
        await expect(card).to_contain_text(words)
        await expect(card).to_contain_text(f"Only {backend.kind} has the model.")


async def test_now_shows_the_speed_and_the_cached_tokens_of_an_answer():
    backend = Writing(kind="mlx")
    async with (
        served(backend) as port,
        asked(backend, port, stream=True),
        opened_page(port, "now") as (page, _),
    ):
        card = page.locator("#main li.card", has_text="Tester/1.0")
        await expect(card).to_contain_text("prompt 128, of them 64 from the cache")
        for _ in range(5):
            backend.may_write.release()
        await expect(card).to_contain_text("about 5 written")
        await expect(card).to_contain_text("Writing at")


async def test_now_is_empty_again_when_the_request_has_ended():
    backend = ScriptedBackend([HANG])
    async with served(backend) as port, opened_page(port, "now") as (page, _):
        async with asked(backend, port):
            await expect(page.locator("#main")).to_contain_text("Tester/1.0")
        await expect(page.locator("#main")).to_contain_text("Nothing runs.")


async def test_history_names_failures_and_the_inspector_is_off():
    async with served(ScriptedBackend([GenerationError("no")])) as port:
        await ask(port)
        async with opened_page(port, "history") as (page, _):
            await expect(page.locator("tbody tr")).to_contain_text("error: generation_failed")
            await page.get_by_role("button", name="Details").click()
            await expect(page.get_by_role("dialog")).to_contain_text("Nothing is kept")
            await expect(page.get_by_role("checkbox")).not_to_be_checked()


async def test_inspector_shows_prompt_and_answer_once_it_is_on():
    async with (
        served(ScriptedBackend(ANSWER)) as port,
        opened_page(port, "history") as (page, _),
    ):
        await page.get_by_role("checkbox").check()
        await until_enabled(port)
        await ask(port, messages=[{"role": "user", "content": "A <b>secret</b> prompt"}])
        await page.get_by_role("button", name="Details").click()
        dialog = page.get_by_role("dialog")
        await expect(dialog).to_contain_text("A <b>secret</b> prompt")
        await expect(dialog).to_contain_text("Hello there")
        await expect(dialog).to_contain_text("300 read, 200 of them from the cache")
        await page.keyboard.press("Escape")
        await expect(page.get_by_role("button", name="Details")).to_be_focused()


async def until_enabled(port: int) -> None:
    """Wait until the server keeps prompts: the page has shown its own box first."""
    async with (
        httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as client,
        client.stream("GET", "/api/events") as response,
    ):
        async for line in response.aiter_lines():
            if '"inspecting":true' in line:
                return


async def test_models_are_listed_with_their_state():
    models = [Model(name="m", loaded=True, size_bytes=2**30), Model(name="n", loaded=False)]
    async with (
        served(ScriptedBackend(models=models)) as port,
        opened_page(port, "models") as (page, _),
    ):
        row = page.locator("tbody tr").first
        await expect(row).to_contain_text("1.0 GiB")
        await expect(
            row.get_by_role("button", name="Load m on", exact=False).first
        ).to_be_disabled()
        await page.get_by_role("searchbox").fill("n")
        await expect(page.locator("tbody tr")).to_have_count(1)


async def test_models_show_the_context_that_one_was_loaded_with():
    model = Model(name="m", loaded=False, context_length=8192)
    backend = ScriptedBackend(models=[model])
    async with served(backend) as port, opened_page(port, "models") as (page, _):
        row = page.locator("tbody tr").first
        await expect(row).to_contain_text("8,192")
        backend.models = [msgspec.structs.replace(model, loaded=True, loaded_context=4096)]
        await expect(row).to_contain_text("4,096")


@pytest.mark.parametrize("name", ["org/m", "a?b#c", "50% &amp; ü"])
async def test_model_of_any_name_is_loaded(name: str):
    backend = ScriptedBackend(models=[Model(name=name, loaded=False)])
    async with served(backend) as port, opened_page(port, "models") as (page, _):
        async with page.expect_response("**/load") as responding:
            await page.get_by_role("button", name=f"Load {name} on scripted", exact=True).click()
        assert (await responding.value).status == 200


async def test_models_say_that_the_server_is_away_until_it_is_back():
    async with served(ScriptedBackend()) as port, opened_page(port, "models") as (page, _):
        await settle(page)
        away = page.get_by_text("The server does not answer.", exact=True)
        await page.route("**/api/models", lambda route: route.abort())
        await expect(away).to_be_visible()
        await page.unroute("**/api/models")
        await expect(away).to_be_hidden()


async def test_comparison_is_drawn_after_answers_and_from_benchmarks(tmp_path: Path):
    Archive(tmp_path).save(bench_result())
    mlx = ScriptedBackend(ANSWER, kind="mlx")
    ollama = ScriptedBackend(ANSWER, kind="ollama", models=[Model(name="m:1")])
    config = Config(
        server=ServerConfig(state_folder=str(tmp_path)),
        models={"m": ModelConfig(names={"mlx": "m", "ollama": "m:1"}, prefer="mlx")},
    )
    async with served(mlx, config, others=[ollama]) as port:
        await ask(port)
        async with opened_page(port, "compare") as (page, problems):
            await expect(page.get_by_role("region", name="Measurements of m")).to_be_visible()
            await page.locator("summary", has_text="Benchmark of").click()
            await expect(page.locator("svg.plot")).to_have_count(4)
            await expect(page.locator("details svg.plot").first).to_contain_text("ollama")
    assert problems == []


async def send(page: Page, text: str) -> None:
    await expect(page.get_by_label("Model")).to_have_value("m")
    await page.get_by_label("Message").fill(text)
    await page.get_by_role("button", name="Send").click()


async def test_playground_streams_an_answer_and_continues_the_chat():
    backend = ScriptedBackend([Started(), ReasoningDelta("Hm."), *ANSWER[1:]])
    async with served(backend) as port, opened_page(port, "playground") as (page, _):
        await send(page, "Hi")
        await expect(page.locator("p.said:not(.user):not(.thought)")).to_have_text("Hello there")
        await expect(page.locator("section")).to_contain_text("300 tokens read, 200 from the cache")
        await expect(page.locator("section summary")).to_have_text("Reasoning")
        await expect(page.get_by_role("status").last).to_have_text("The answer is complete.")
        await send(page, "And now?")
        await until(lambda: len(backend.requests) == 2)
        prompt: Any = backend.requests[1].prompt
        assert [message.role for message in prompt] == [
            "user",
            "assistant",
            "user",
        ]


async def test_playground_asks_both_engines_side_by_side():
    mlx, ollama = ScriptedBackend(ANSWER, kind="mlx"), ScriptedBackend(ANSWER, kind="ollama")
    async with (
        served(mlx, BOTH, others=[ollama]) as port,
        opened_page(port, "playground") as (page, _),
    ):
        await page.get_by_label("Engine").select_option("*")
        await send(page, "Hi")
        for name in ("mlx", "ollama"):
            column = page.get_by_role("region", name=name)
            await expect(column).to_contain_text("Hello there")
            await expect(column).to_contain_text(f"on {name}")
    assert (len(mlx.requests), len(ollama.requests)) == (1, 1)


async def test_playground_shows_a_growing_answer_and_stops_it():
    backend = Writing()
    async with served(backend) as port, opened_page(port, "playground") as (page, _):
        await send(page, "Hi")
        for _ in range(3):
            backend.may_write.release()
        await expect(page.locator("p.said").last).to_have_text("word word word ")
        await page.get_by_role("button", name="Stop").click()
        await expect(page.locator("section")).to_contain_text("Stopped.")


async def test_playground_sends_nothing_more_while_it_waits():
    backend = Writing()
    async with served(backend) as port, opened_page(port, "playground") as (page, _):
        message = page.get_by_label("Message")
        await message.fill("Hello")
        await message.press("Control+Enter")
        await expect(page.get_by_role("button", name="Stop")).to_be_enabled()
        await message.press("Control+Enter")
        await until(lambda: backend.running == 1)
        await expect(page.locator(".said.user")).to_have_count(1)
        await page.get_by_role("button", name="Stop").click()
        await expect(page.get_by_role("button", name="Send")).to_be_enabled()


async def test_playground_keeps_its_chat_and_reads_models_again_when_it_is_shown_again():
    backend = Writing()
    async with served(backend) as port, opened_page(port, "playground") as (page, problems):
        await send(page, "Hi")
        backend.may_write.release()
        await expect(page.locator("p.said").last).to_have_text("word ")
        await page.get_by_label("Message").fill("A draft")
        await page.get_by_role("link", name="Now").click()
        await expect(page.locator("h1")).to_have_text("Now")
        backend.may_write.release()

        async def add_model(route: Route) -> None:
            cards = (await (await route.fetch()).json())["data"]
            new = {**cards[0], "id": "another", "root": "another"}
            await route.fulfill(json={"data": [new, *cards]})

        await page.route("**/v1/models", add_model)
        await page.get_by_role("link", name="Playground").click()
        await expect(page.get_by_label("Model").locator("option")).to_have_text(["another", "m"])
        await expect(page.get_by_label("Model")).to_have_value("m")
        await expect(page.get_by_label("Message")).to_have_value("A draft")
        await expect(page.locator("p.said.user")).to_have_text("Hi")
        await expect(page.locator("p.said").last).to_have_text("word word ")
        await page.get_by_role("button", name="Stop").click()
        await expect(page.locator("section")).to_contain_text("Stopped.")
        assert problems == []


async def test_playground_keeps_a_message_that_failed():
    failing = ScriptedBackend([Started(), GenerationError("Out of paper.")], kind="mlx")
    async with served(failing) as port, opened_page(port, "playground") as (page, _):
        await send(page, "Is anyone there?")
        await expect(page.get_by_text("The request failed.")).to_be_visible()
        await expect(page.get_by_label("Message")).to_have_value("Is anyone there?")


async def test_playground_sends_images_tools_and_a_schema(tmp_path: Path):
    script = [
        Started(),
        ToolCallStarted(0, "call_1", "get_weather"),
        ToolCallDelta(0, '{"city": "Rome"}'),
        Finished("tool_calls", USAGE),
    ]
    picture = tmp_path / "picture.png"
    picture.write_bytes(png(8, 8))
    backend = ScriptedBackend(script)
    async with served(backend) as port, opened_page(port, "playground") as (page, problems):
        await page.get_by_text("Images, tools, schema and options").click()
        await page.get_by_label("Images").set_input_files(picture)
        tools = page.get_by_label("Tools, as JSON")
        await tools.fill(await tools.get_attribute("placeholder") or "")
        schema = page.get_by_label("JSON schema")
        await schema.fill(await schema.get_attribute("placeholder") or "")
        await page.get_by_label("Seed").fill("7")
        await send(page, "What is this?")
        await expect(page.locator("section pre")).to_have_text('get_weather({"city": "Rome"})')
    (request,) = backend.requests
    assert request.sampling.seed == 7
    assert [tool.name for tool in request.tools] == ["get_weather"]
    assert request.response_format is not None
    assert "data:image/png" in repr(request.prompt)
    assert problems == []


async def test_playground_says_which_field_is_no_json():
    async with served(ScriptedBackend()) as port, opened_page(port, "playground") as (page, _):
        await page.get_by_text("Images, tools, schema and options").click()
        await page.get_by_label("Tools, as JSON").fill("[")
        await send(page, "Hi")
        await expect(page.get_by_role("alert").first).to_contain_text(
            "list of tools is not valid JSON"
        )


async def test_log_is_shown_and_filtered():
    async with served(ScriptedBackend(HELLO)) as port:
        logging.getLogger("tandem").warning("One thing.")
        logging.getLogger("tandem").warning("Another.")
        async with opened_page(port, "logs") as (page, _):
            await expect(page.get_by_text("One thing.")).to_be_visible()
            await page.get_by_role("searchbox").fill("another")
            await expect(page.get_by_text("One thing.")).to_be_hidden()


async def test_settings_have_the_key_as_it_is():
    async with served(ScriptedBackend()) as port, opened_page(port, "connect") as (page, _):
        await page.get_by_label("Key, if the server has keys").fill("a$&b$$c")
        settings = page.get_by_role("region", name="Claude Code")
        await expect(settings).to_contain_text('"ANTHROPIC_AUTH_TOKEN": "a$&b$$c"')


@pytest.mark.parametrize(
    ("key", "is_special"), [('a"b', True), ("a\\b", True), ("sk-a_b.c", False)]
)
async def test_key_that_must_be_escaped_in_settings_is_named(key: str, is_special: bool):
    async with served(ScriptedBackend()) as port, opened_page(port, "connect") as (page, _):
        await page.get_by_label("Key, if the server has keys").fill(key)
        await expect(page.get_by_role("region", name="Claude Code")).to_contain_text(key)
        remark = await page.get_by_role("alert").text_content() or ""
        assert ("This key has a character" in remark) is is_special


async def test_settings_have_the_address_and_the_model():
    async with (
        served(ScriptedBackend()) as port,
        opened_page(port, "connect", permissions=["clipboard-read", "clipboard-write"]) as (
            page,
            _,
        ),
    ):
        settings = page.get_by_role("region", name="Claude Code")
        await expect(settings).to_contain_text('"ANTHROPIC_MODEL": "m"')
        await page.get_by_role("button", name="Copy the settings of Claude Code").click()
        copied = await page.evaluate("navigator.clipboard.readText()")
    assert f'"ANTHROPIC_BASE_URL": "http://127.0.0.1:{port}"' in copied


async def test_keys_alone_reach_every_view():
    async with served(ScriptedBackend()) as port, opened_page(port) as (page, _):
        await settle(page)
        await page.keyboard.press("Tab")
        await expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
        for view in VIEWS:
            await page.keyboard.press("Tab")
            await expect(page.get_by_role("link", name=view.title())).to_be_focused()
        await page.keyboard.press("Enter")
        await expect(page.locator("h1")).to_have_text("Connect")
        await expect(page.locator("#main")).to_be_focused()


async def test_theme_is_chosen_and_kept():
    async with served(ScriptedBackend()) as port, opened_page(port) as (page, _):
        await page.get_by_role("button", name="Theme").click()
        await page.get_by_role("button", name="Theme: light").click()
        await page.reload()
        await expect(page.get_by_role("button", name="Theme: dark")).to_be_visible()
        ground = await page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert ground == "rgb(20, 23, 28)"


async def test_a_model_name_is_text_and_no_markup():
    name = '<img src=x onerror="alert(1)">'
    backend = ScriptedBackend(ANSWER, models=[Model(name=name)])
    async with served(backend) as port:
        await ask(port, model=name)
        async with opened_page(port, "history") as (page, problems):
            await expect(page.locator("tbody th")).to_have_text(name)
            assert await page.locator("main img").count() == 0
    assert problems == []


async def lock(page: Page) -> None:
    """Refuse requests without the key `sesame`, as a server with keys does."""

    async def check(route: Route) -> None:
        if route.request.headers.get("authorization") == "Bearer sesame":
            await route.continue_()
        else:
            message = "Incorrect API key provided."
            await route.fulfill(status=401, json={"error": {"message": message}})

    await page.route("**/api/**", check)
    await page.route("**/health", check)
    await page.route("**/v1/**", check)


async def test_key_is_asked_for_once_and_kept_for_the_tab():
    async with served(ScriptedBackend(ANSWER)) as port, opened_page(port) as (page, problems):
        await settle(page)
        await lock(page)
        await page.reload()
        dialog = page.get_by_role("dialog", name="API key")
        await page.get_by_label("Key", exact=True).fill("wrong")
        await page.keyboard.press("Enter")
        await expect(dialog).to_contain_text("Incorrect API key provided.")
        await page.get_by_label("Key", exact=True).fill("sesame")
        await page.keyboard.press("Enter")
        await expect(page.locator("#connection")).to_have_text("Connected")
        await page.reload()
        await expect(page.locator("#connection")).to_have_text("Connected")
        await expect(dialog).to_be_hidden()
        stores = "[sessionStorage.length, document.cookie, localStorage['tandem-key'] ?? '']"
        kept = await page.evaluate(stores)
    assert kept == [1, "", ""]
    assert problems == []


USE, ADMIN = "use-key-0123456789", "admin-key-0123456789"
KEYED = Config(
    server=ServerConfig(
        keys=(
            KeyConfig(name="laptop", key=USE),
            KeyConfig(name="owner", key=ADMIN, role="admin"),
        )
    )
)


class Keeping(ScriptedBackend):
    """Knows whether its model is loaded, and pinned."""

    pinned = False

    async def load(self, model: str, keep_alive: float | None = None) -> None:
        self.models = [Model(name=model, loaded=True)]

    async def unload(self, model: str) -> None:
        self.models = [Model(name=model, loaded=False)]

    async def set_pinned(self, model: str, pinned: bool) -> None:
        self.pinned = pinned


async def enter_key(page: Page, key: str) -> None:
    await page.get_by_label("Key", exact=True).fill(key)
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("dialog", name="API key")).to_be_hidden()


async def visit(page: Page, view: str) -> None:
    await page.get_by_role("link", name=view, exact=True).click()
    await expect(page.locator("h1")).to_have_text(view)


async def test_a_key_without_the_role_sees_why_and_may_chat():
    backend = Keeping(script=ANSWER, models=[Model(name="m", loaded=False)])
    refused = "requires the role 'admin'"
    async with served(backend, KEYED) as port, opened_page(port) as (page, problems):
        await enter_key(page, USE)
        main = page.locator("#main")
        await expect(page.locator("#connection")).to_have_text("Not allowed")
        for view in ("Now", "History", "Logs"):
            await visit(page, view)
            await expect(main).to_contain_text(refused)
            await expect(main.get_by_text("since the server started")).to_be_hidden()
            await expect(main.get_by_text("Nothing runs")).to_be_hidden()
        await visit(page, "Models")
        for action in ("Load", "Pin"):
            await page.get_by_role("button", name=f"{action} m on", exact=False).first.click()
            await expect(page.get_by_role("alert").first).to_contain_text(refused)
        await visit(page, "Connect")
        await expect(page.get_by_role("region", name="curl")).to_contain_text('"model": "m"')
        await visit(page, "Playground")
        await send(page, "Hi")
        await expect(page.locator("section")).to_contain_text("Hello there")
    assert (backend.models, backend.pinned) == ([Model(name="m", loaded=False)], False)
    assert problems == []


async def test_a_key_of_an_administrator_loads_pins_and_unloads():
    backend = Keeping(models=[Model(name="m", loaded=False)])
    async with served(backend, KEYED) as port, opened_page(port, "models") as (page, problems):
        await enter_key(page, ADMIN)
        await expect(page.locator("#connection")).to_have_text("Connected")
        row = page.locator("tbody tr")
        await row.get_by_role("button", name="Load m on", exact=False).first.click()
        await expect(row).to_contain_text("loaded")
        await row.get_by_role("button", name="Pin m on", exact=False).click()
        await until(lambda: backend.pinned)
        unload = row.get_by_role("button", name="Unload m on", exact=False)
        await expect(unload).to_be_enabled()
        await unload.click()
        await expect(row).to_contain_text("not loaded")
        await expect(page.get_by_role("alert").first).to_have_text("")
    assert problems == []

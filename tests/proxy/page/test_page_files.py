"""The page without a browser: its files, their headers, and the routes that it reads."""

import asyncio
import json
import logging
import re
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest
from fakes.scripted_backend import HANG, HELLO, ScriptedBackend, chat, http_client
from fakes.waiting import until
from servers.served import own_server, served

from adapters.events import Finished, PromptProgress, Started, TextDelta, Usage
from proxy.page import load_page

HTML = {"accept": "text/html,application/xhtml+xml;q=0.9,*/*;q=0.8"}
URL = "/v1/chat/completions"
PAGE = load_page()
MODULES = {name: file.content.decode() for name, file in PAGE.files.items() if name.endswith(".js")}


async def test_browsers_get_the_page_and_others_json():
    async with http_client(ScriptedBackend()) as client:
        page = await client.get("/", headers=HTML)
        other = await client.get("/")
        head = await client.head("/", headers=HTML)
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert other.json()["name"] == "Tandem"
    assert (head.status_code, head.content) == (200, b"")
    assert page.headers["vary"] == other.headers["vary"] == "Accept"


async def test_policy_allows_the_server_alone_and_nothing_inline():
    async with http_client(ScriptedBackend()) as client:
        page = await client.get("/", headers=HTML)
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self'" in policy
    assert "unsafe" not in policy
    assert page.headers["x-content-type-options"] == "nosniff"
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", page.text)


async def test_every_file_of_the_document_is_served_to_be_kept():
    async with http_client(ScriptedBackend()) as client:
        page = await client.get("/", headers=HTML)
        for path in re.findall(r'(?:src|href)="(/page/[^"]+)"', page.text):
            file = await client.get(path)
            assert (file.status_code, bool(file.content)) == (200, True), path
            assert file.headers["cache-control"] == "public, max-age=31536000, immutable"


async def test_a_file_that_the_browser_has_is_not_sent_again():
    async with http_client(ScriptedBackend()) as client:
        page = await client.get("/", headers=HTML)
        etag = page.headers["etag"]
        again = await client.get("/", headers={**HTML, "if-none-match": etag})
    assert page.headers["cache-control"] == "no-cache"
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", etag)


async def test_a_file_of_another_edition_is_checked_each_time():
    async with http_client(ScriptedBackend()) as client:
        file = await client.get("/page/0123456789abcdef/app.js")
        missing = await client.get("/page/0123456789abcdef/none.js")
        outside = await client.get("/page/0123456789abcdef/../../__init__.py")
    assert (file.status_code, file.headers["cache-control"]) == (200, "no-cache")
    assert missing.status_code == outside.status_code == 404


@pytest.mark.parametrize("name", sorted(MODULES))
def test_modules_import_files_of_the_page_and_name_no_other_host(name: str):
    folder = name.rpartition("/")[0]
    for path in re.findall(r'from "([^"]+)"', MODULES[name]):
        if path.startswith("."):
            parts = [*folder.split("/")] if folder else []
            for part in path.split("/"):
                if part == "..":
                    parts.pop()
                elif part != ".":
                    parts.append(part)
            assert "/".join(parts) in PAGE.files, path
    hosts = re.findall(r"https?://[^\s\"'`$]+", MODULES[name])
    assert hosts in ([], ["http://www.w3.org/2000/svg"])
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|eval\(|document\.write", MODULES[name]
    )


@asynccontextmanager
async def events(port: int) -> AsyncIterator[AsyncIterator[dict[str, Any]]]:
    """Yield the events of `GET /api/events`."""

    async def read(lines: AsyncIterator[str]) -> AsyncIterator[dict[str, Any]]:
        async for line in lines:
            if line.startswith("data: "):
                yield json.loads(line.removeprefix("data: "))

    base = f"http://127.0.0.1:{port}"
    async with (
        httpx2.AsyncClient(base_url=base, timeout=30) as client,
        client.stream("GET", "/api/events") as response,
    ):
        yield read(response.aiter_lines())


async def ask(port: int, **fields: Any) -> httpx2.Response:
    headers = {"user-agent": "Tester/1.0"}
    async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", headers=headers) as client:
        return await client.post(URL, json=chat(**fields))


async def test_events_show_what_a_request_waits_for():
    backend = ScriptedBackend([Started(), PromptProgress(128, 512, 64), HANG], kind="mlx")
    async with served(backend) as port:
        asking = asyncio.create_task(ask(port, stream=True))
        await until(lambda: backend.running == 1)
        async with events(port) as shown:
            (run,) = (await anext(shown))["running"]
        asking.cancel()
    assert (run["model"], run["backend"], run["client"]) == ("m", "mlx", "Tester/1.0")
    assert (run["state"], run["why"]) == ("reading", ["Only mlx has the model."])
    assert (run["prompt_read"], run["prompt_tokens"], run["cached_tokens"]) == (128, 512, 64)
    assert run["address"] == "127.0.0.1"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "script", "state"),
    [
        ("mlx", [HANG], "queued"),
        ("ollama", [HANG], "waiting"),
        ("mlx", [Started(), HANG], "reading"),
        ("mlx", [Started(), TextDelta("a"), TextDelta("b"), HANG], "writing"),
    ],
)
async def test_events_tell_states_apart(kind: str, script: Any, state: str):
    backend = ScriptedBackend(script, kind=kind)
    async with served(backend) as port:
        asking = asyncio.create_task(ask(port))
        await until(lambda: backend.running == 1)
        async with events(port) as shown:
            (run,) = (await anext(shown))["running"]
        asking.cancel()
    assert run["state"] == state
    assert run["written"] == sum(isinstance(step, TextDelta) for step in script)


@pytest.mark.slow
async def test_events_begin_with_the_history_and_go_on_with_what_ends():
    async with served(ScriptedBackend()) as port:
        await ask(port)
        async with events(port) as shown:
            first = await anext(shown)
            await ask(port, model="unknown")
            later = [await anext(shown)]
            while not later[-1]["ended"]:
                later.append(await anext(shown))
    assert [(each["model"], each["outcome"]) for each in first["ended"]] == [("m", "ok")]
    assert [each["error"] for each in later[-1]["ended"]] == ["model_not_found"]


@pytest.mark.slow
async def test_a_stream_of_events_ends_with_its_client():
    async with served(ScriptedBackend()) as port:
        async with events(port) as shown:
            await anext(shown)
        async with events(port) as shown:
            assert (await anext(shown))["running"] == []


async def test_an_open_page_does_not_delay_the_end_of_the_server():
    async with own_server(ScriptedBackend()) as (server, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /api/events HTTP/1.1\r\nhost: localhost\r\n\r\n")
        await reader.readuntil(b"data: ")
        server.handle_exit(signal.SIGTERM, None)
        rest = await reader.read(-1)
        writer.close()
    assert rest.endswith(b"0\r\n\r\n")


async def test_inspector_keeps_nothing_until_it_is_on():
    usage = Usage(prompt_tokens=3, completion_tokens=2)
    script = [Started(), TextDelta("Hello "), TextDelta("there"), Finished("stop", usage)]
    async with http_client(ScriptedBackend(script)) as client:
        before = await client.post(URL, json=chat())
        assert (await client.post("/api/inspector", json={"enabled": True})).json() == {
            "enabled": True
        }
        after = await client.post(URL, json=chat())
        ids = [answer.headers["x-request-id"] for answer in (before, after)]
        nothing, kept = [await client.get(f"/api/requests/{each}") for each in ids]
        await client.post("/api/inspector", json={"enabled": False})
        forgotten = await client.get(f"/api/requests/{ids[1]}")
    assert nothing.status_code == forgotten.status_code == 404
    assert json.loads(kept.json()["body"]) == chat()
    assert kept.json()["text"] == "Hello there"


async def test_log_lines_are_numbered_and_come_once():
    async with http_client(ScriptedBackend(HELLO)) as client:
        logging.getLogger("tandem").warning("A %s happened.", "thing")
        (line,) = (await client.get("/api/logs")).json()["lines"]
        rest = (await client.get(f"/api/logs?after={line['number']}")).json()["lines"]
    assert (line["level"], line["logger"], line["text"]) == (
        "warning",
        "tandem",
        "A thing happened.",
    )
    assert rest == []

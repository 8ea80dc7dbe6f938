"""Images of a chat, through the endpoint."""

import asyncio
from typing import Any

import pytest
from fakes.pictures import data_url, gif, png
from fakes.scripted_backend import ScriptedBackend, chat, http_client

from adapters.errors import InvalidRequestError
from adapters.request import ImagePart, Message, TextPart
from proxy.config import Config, ImagesConfig, ServerConfig
from proxy.images import Fetch, fetch_image

SMALL = data_url(png(3, 5))


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def image(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


DEFAULTS = ImagesConfig()


async def post(
    *parts: dict[str, Any], images: ImagesConfig = DEFAULTS, fetch: Fetch = fetch_image
) -> tuple[int, dict[str, Any], ScriptedBackend]:
    backend = ScriptedBackend()
    config = Config(server=ServerConfig(images=images))
    async with http_client(backend, config=config, fetch_image=fetch) as client:
        body = chat(messages=[{"role": "user", "content": list(parts)}])
        answer = await client.post("/v1/chat/completions", json=body)
    return answer.status_code, answer.json(), backend


async def test_images_and_texts_stay_one_message_in_order():
    other = data_url(gif(4, 4), "image/gif")
    parts = [text("one"), image(SMALL), text("two"), image(other), text("three")]
    status, _, backend = await post(*parts)
    assert status == 200
    content = (
        TextPart("one"),
        ImagePart(SMALL),
        TextPart("two"),
        ImagePart(other),
        TextPart("three"),
    )
    assert backend.requests[0].prompt == (Message(role="user", content=content),)


async def test_wrapped_base64_reaches_the_backend_in_one_line():
    head, _, data = SMALL.partition(",")
    wrapped = f"{head}, " + "\r\n".join(data[at : at + 19] for at in range(0, len(data), 19)) + "\n"
    status, _, backend = await post(text("Look:"), image(wrapped))
    assert status == 200
    content = (TextPart("Look:"), ImagePart(SMALL))
    assert backend.requests[0].prompt == (Message(role="user", content=content),)


@pytest.mark.parametrize("broken", ["\n", " ", "\r\n", "\n" * 3])
async def test_few_breaks_in_base64_do_not_reach_the_backend(broken: str):
    status, _, backend = await post(text("Look:"), image(SMALL[:40] + broken + SMALL[40:]))
    assert status == 200
    content = (TextPart("Look:"), ImagePart(SMALL))
    assert backend.requests[0].prompt == (Message(role="user", content=content),)


async def test_case_of_a_data_url_is_not_the_backends_matter():
    head, _, data = SMALL.partition(",")
    status, _, backend = await post(text("Look:"), image(f"{head.upper()},{data}"))
    assert status == 200
    content = (TextPart("Look:"), ImagePart(SMALL))
    assert backend.requests[0].prompt == (Message(role="user", content=content),)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        (data_url(png(65_500, 65_500)), "pixels"),
        (data_url(png(1, 1)), "side"),
        (data_url(png(401, 2)), "200 times as long"),
        (data_url(png(2, 401)), "200 times as long"),
        (data_url(png(2, 2, moves=True)), "several frames"),
        (data_url(gif(2, 2, frames=2)), "several frames"),
        (data_url(png(2, 2)[:20]), "not a complete PNG"),
        (data_url(b"<svg/>", "image/svg+xml"), "not a complete PNG"),
        ("data:image/png;base64,%%%", "base64"),
        ("data:image/png,abc", "base64"),
        ("data:", "base64"),
        ("https://images.example/a.png", "data: URLs"),
        ("http://127.0.0.1/a.png", "data: URLs"),
        ("file:///etc/passwd", "data: URLs"),
    ],
)
async def test_image_that_is_refused_reaches_no_backend(url: str, words: str):
    status, body, backend = await post(text("Look:"), image(url))
    assert status == 400
    error = body["error"]
    assert (words in error["message"], error["param"]) == (True, "messages[0].content[1]")
    assert not backend.requests


async def test_image_that_is_refused_is_named_among_others():
    parts = [image(SMALL), text("and"), image(SMALL), image("data:,no"), image(SMALL)]
    messages = [{"role": "user", "content": "Hi"}, {"role": "user", "content": parts}]
    async with http_client(ScriptedBackend()) as client:
        answer = await client.post("/v1/chat/completions", json=chat(messages=messages))
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "messages[1].content[3]")


@pytest.mark.parametrize(
    ("many", "param"), [(1, "messages[0].content[1]"), (2, "messages")], ids=str
)
async def test_only_image_is_named_when_the_backend_rejects_it(many: int, param: str):
    """Backends do not say which image they reject."""
    backend = ScriptedBackend([InvalidRequestError("Invalid image.", param="images")])
    messages = [{"role": "user", "content": [text("Look:"), *[image(SMALL)] * many]}]
    async with http_client(backend) as client:
        answer = await client.post("/v1/chat/completions", json=chat(messages=messages))
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


async def test_too_many_images_are_refused():
    status, body, _ = await post(*[image(SMALL)] * 17)
    assert (status, "17 images" in body["error"]["message"]) == (400, True)


async def test_too_many_bytes_are_refused():
    status, body, _ = await post(image(SMALL), images=ImagesConfig(max_bytes=10))
    assert (status, "10 bytes" in body["error"]["message"]) == (400, True)


async def test_downloaded_image_becomes_a_data_url():
    async def fetch(url: str, _config: ImagesConfig) -> bytes:
        assert url == "https://images.example/a.png"
        return png(3, 5)

    status, _, backend = await post(image("https://images.example/a.png"), fetch=fetch)
    assert status == 200
    message = Message(role="user", content=(ImagePart(SMALL),))
    assert backend.requests[0].prompt == (message,)


async def test_images_are_downloaded_concurrently():
    all_begun = asyncio.Barrier(3)

    async def fetch(url: str, _config: ImagesConfig) -> bytes:
        await all_begun.wait()
        return png(3, int(url[-1]))

    parts = [image(f"https://images.example/{height}") for height in (5, 4, 6)]
    status, _, backend = await post(*parts, images=ImagesConfig(timeout=2), fetch=fetch)
    assert status == 200
    content = tuple(ImagePart(data_url(png(3, height))) for height in (5, 4, 6))
    assert backend.requests[0].prompt == (Message(role="user", content=content),)


async def test_failed_download_cancels_the_others():
    cancelled: list[str] = []

    async def fetch(url: str, _config: ImagesConfig) -> bytes:
        if url.endswith("bad"):
            raise InvalidRequestError("Not found.", param="images")
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.append(url)
        return b""

    status, body, _ = await post(
        image("https://images.example/slow"), image("https://a.b/bad"), fetch=fetch
    )
    assert (status, body["error"]["param"]) == (400, "messages[0].content[1]")
    assert cancelled == ["https://images.example/slow"]


async def test_download_is_limited_by_the_timeout():
    async def fetch(_url: str, _config: ImagesConfig) -> bytes:
        await asyncio.Event().wait()
        return b""

    images = ImagesConfig(timeout=0.05)
    status, body, _ = await post(image("https://images.example/a.png"), images=images, fetch=fetch)
    assert (status, "too long" in body["error"]["message"]) == (400, True)

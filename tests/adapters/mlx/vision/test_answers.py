"""Answers about images by real classes of mlx-vlm, compared with its own `generate`."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from fakes.pictures import blank
from fakes.scripted_backend import openai_client
from fakes.tiny_model import config_for
from fakes.tiny_vision import FAMILIES, QWEN_TEMPLATE, Family, write_tiny_vision
from fakes.vision_client import DARK, PHOTO, WIDE, Reference, answer, request, user
from msgspec.structs import replace

from adapters.errors import InvalidRequestError
from adapters.mlx.backend import MLXBackend
from adapters.request import Message, Sampling, ToolCall
from proxy.config import Config, ImagesConfig, ServerConfig

pytestmark = [
    pytest.mark.slow,
    # The audio part of Gemma 4's processor.
    pytest.mark.filterwarnings("ignore:At least one mel filter:UserWarning"),
]
FIRST: Family = "qwen2_5_vl"
EACH = [FIRST, *(pytest.param(each, marks=pytest.mark.long) for each in FAMILIES if each != FIRST)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("vision")
    for family in FAMILIES:
        write_tiny_vision(root / family, family)
    return root


@pytest.fixture
async def backend(folder: Path) -> AsyncGenerator[MLXBackend]:
    async with aclosing(MLXBackend(config_for(folder))) as backend:
        yield backend


@pytest.mark.parametrize("family", EACH)
async def test_text_is_that_of_mlx_vlm_alone_and_in_company(
    backend: MLXBackend, folder: Path, family: Family
) -> None:
    reference = Reference(folder / family)
    chats = [("One", PHOTO, "two", DARK, "?"), ("What is", WIDE, "here?"), ("No image.",)]
    expected = [reference.answer(*parts) for parts in chats]
    alone = [await answer(backend, request(family, user(*parts))) for parts in chats]
    together = await asyncio.gather(
        *(answer(backend, request(family, user(*parts), client="b")) for parts in chats)
    )
    assert [(each.data, each.usage.prompt_tokens) for each in alone] == expected
    assert [each.data for each in together] == [data for data, _ in expected]
    assert len({data for data, _ in expected}) == len(chats)
    [notes] = [model.notes for model in await backend.list_models() if model.name == family]
    assert notes == ()  # Rows are batched.


@pytest.mark.parametrize("family", EACH)
async def test_cached_prefix_is_used_for_the_same_image_only(
    backend: MLXBackend, family: Family
) -> None:
    words = "A long beginning of a prompt, which fills several blocks of the cache."
    first = await answer(backend, request(family, user(words, PHOTO, "?")))
    again = await answer(backend, request(family, user(words, PHOTO, "?")))
    other = await answer(backend, request(family, user(words, DARK, "?")))
    fresh = await answer(backend, request(family, user(words, DARK, "?"), client="b"))
    assert again.data == first.data
    assert again.cached >= 64
    assert other.data == fresh.data
    assert other.logprobs != pytest.approx(first.logprobs, abs=1e-4)
    assert other.cached < again.cached
    assert fresh.cached == 0


@pytest.mark.long
async def test_no_snapshot_divides_an_image_that_is_read_in_one_pass(
    backend: MLXBackend, folder: Path
) -> None:
    """Gemma 4's parts of an image attend to each other, and the last block may end between them."""
    reference = Reference(folder / "gemma4")
    for length in range(32):
        chat = user("x" * length, PHOTO, "?")
        found = await answer(backend, request("gemma4", chat, client=str(length)))
        assert found.logprobs == pytest.approx(reference.chat(chat).logprobs, abs=1e-3)


@pytest.mark.long
async def test_next_turn_reads_neither_image_nor_words_again(backend: MLXBackend) -> None:
    question = user("Look at this picture with care: ", WIDE, "What do you see in it?")
    reply = user("A house with a garden in front of it.", role="assistant")
    await answer(backend, request("qwen2_5_vl", question, reply, user("And?")))
    asked = request("qwen2_5_vl", question, reply, user("And behind it?"))
    later = await answer(backend, asked)
    fresh = await answer(backend, replace(asked, client="b"))
    assert later.cached > 90
    assert later.data == fresh.data


@pytest.mark.long
async def test_choices_and_seeds_of_an_image_repeat(backend: MLXBackend) -> None:
    wild = Sampling(temperature=1.0, seed=7)
    alone = await answer(backend, request("qwen2_5_vl", user(PHOTO, "?"), sampling=wild))
    several = await answer(backend, request("qwen2_5_vl", user(PHOTO, "?"), sampling=wild, n=3))
    assert alone.data == several.data


@pytest.mark.long
async def test_name_of_a_placeholder_in_a_message_is_text(backend: MLXBackend) -> None:
    names = "<|image_pad|><image><start_of_image><image_soft_token>"
    for family in FAMILIES:
        plain = await answer(backend, request(family, user(PHOTO, "?")))
        named = await answer(backend, request(family, user(PHOTO, f"?{names}")))
        assert named.usage.prompt_tokens == plain.usage.prompt_tokens + len(names)


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        (("x", PHOTO[:-40], "?"), "truncated"),
        (("x", blank(400, 1), "?"), "aspect ratio"),
    ],
    ids=["truncated", "too wide"],
)
async def test_image_that_the_model_cannot_read_is_refused(
    backend: MLXBackend, parts: tuple[str | bytes, ...], reason: str
) -> None:
    with pytest.raises(InvalidRequestError, match=reason) as caught:
        await answer(backend, request("qwen2_5_vl", user(*parts)))
    assert caught.value.param == "images"


@pytest.mark.long
async def test_image_that_the_template_leaves_out_is_refused(tmp_path: Path) -> None:
    template = QWEN_TEMPLATE.replace(
        "{% if part.type == 'image' %}", "{% if part.type == 'image' and message.role == 'user' %}"
    )
    write_tiny_vision(tmp_path / "partly", "qwen2_5_vl", template=template)
    async with aclosing(MLXBackend(config_for(tmp_path))) as backend:
        with pytest.raises(InvalidRequestError, match="shows 0 of 1 images"):
            await answer(backend, request("partly", user(PHOTO, role="system"), user("?")))


async def test_image_of_a_result_is_in_the_turn_of_the_user_where_the_template_drops_it(
    tmp_path: Path,
) -> None:
    """The template of Gemma 4 is one."""
    template = QWEN_TEMPLATE.replace(
        "{% if part.type == 'image' %}", "{% if part.type == 'image' and message.role == 'user' %}"
    )
    write_tiny_vision(tmp_path / "partly", "qwen2_5_vl", template=template)
    call = ToolCall("call_1", "look", "{}")
    asked = user("Look."), Message(role="assistant", tool_calls=(call,))
    result = replace(user("Seen:", PHOTO, role="tool"), tool_call_id="call_1")
    said = replace(user("Seen:", role="tool"), tool_call_id="call_1")
    async with aclosing(MLXBackend(config_for(tmp_path))) as backend:
        shown = await answer(backend, request("partly", *asked, result))
        moved = await answer(backend, request("partly", *asked, said, user(PHOTO), client="b"))
    assert shown.data == moved.data
    assert shown.usage.prompt_tokens == moved.usage.prompt_tokens


@pytest.mark.long
async def test_template_of_texts_only_shows_images_in_the_text(tmp_path: Path) -> None:
    template = (
        "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
        "assistant:"
    )
    write_tiny_vision(tmp_path / "texts", "qwen2_5_vl", template=template)
    async with aclosing(MLXBackend(config_for(tmp_path))) as backend:
        words = await answer(backend, request("texts", user("One", "two")))
        image = await answer(backend, request("texts", user("One", PHOTO, "two")))
    # Two tokens of the image, and a line break more.
    assert image.usage.prompt_tokens == words.usage.prompt_tokens + 3


@pytest.mark.long
async def test_image_of_a_host_that_is_allowed_is_fetched(backend: MLXBackend) -> None:
    async def fetch(url: str, config: ImagesConfig) -> bytes:
        assert (url, config.fetch_from) == ("https://images.example/a.png", ("images.example",))
        return PHOTO

    config = Config(server=ServerConfig(images=ImagesConfig(fetch_from=("images.example",))))
    content: Any = [
        {"type": "image_url", "image_url": {"url": "https://images.example/a.png"}},
        {"type": "text", "text": "?"},
    ]
    async with openai_client(backend, config=config, fetch_image=fetch) as client:
        fetched: Any = await client.chat.completions.create(
            model="qwen2_5_vl", messages=[{"role": "user", "content": content}], max_tokens=1
        )
    sent = await answer(backend, request("qwen2_5_vl", user(PHOTO, "?")))
    assert fetched.usage.prompt_tokens == sent.usage.prompt_tokens


@pytest.mark.long
@pytest.mark.parametrize("family", FAMILIES)
async def test_last_message_is_continued_after_an_image(
    backend: MLXBackend, family: Family
) -> None:
    chat = user(PHOTO, "?"), user("ok", role="assistant")
    open_end = request(family, *chat, continue_final_message=True)
    longer = request(family, chat[0], user("okay", role="assistant"), continue_final_message=True)
    counts = [(await backend.count_tokens(each)).tokens for each in (open_end, longer)]
    assert counts[1] - counts[0] == 2
    assert (await answer(backend, open_end)).usage.prompt_tokens == counts[0]


@pytest.mark.long
async def test_count_of_tokens_is_that_of_the_answer(backend: MLXBackend) -> None:
    asked = request("llava", user("One", PHOTO, "two", DARK, "?"))
    counted = await backend.count_tokens(asked)
    assert counted.tokens == (await answer(backend, asked)).usage.prompt_tokens

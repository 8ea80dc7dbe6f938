"""Answers about images by real classes of mlx-vlm, compared with its own `generate`."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path

import pytest
from fakes.pictures import blank
from fakes.tiny_model import config_for
from fakes.tiny_vision import FAMILIES, QWEN_TEMPLATE, Family, write_tiny_vision
from fakes.vision_client import DARK, PHOTO, WIDE, Reference, answer, request, user

from adapters.errors import InvalidRequestError
from adapters.mlx.backend import MLXBackend
from adapters.request import Sampling

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
    assert again.usage.cached_tokens >= 64
    assert other.data == fresh.data
    assert other.logprobs != pytest.approx(first.logprobs, abs=1e-4)
    assert other.usage.cached_tokens < again.usage.cached_tokens
    assert fresh.usage.cached_tokens == 0


@pytest.mark.long
async def test_next_turn_reads_neither_image_nor_words_again(backend: MLXBackend) -> None:
    question = user("Look at this picture with care: ", WIDE, "What do you see in it?")
    reply = user("A house with a garden in front of it.", role="assistant")
    await answer(backend, request("qwen2_5_vl", question, reply, user("And?")))
    asked = request("qwen2_5_vl", question, reply, user("And behind it?"))
    later = await answer(backend, asked)
    fresh = await answer(backend, request(*_all_of(asked), client="b"))
    assert later.usage.cached_tokens > 90
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
async def test_count_of_tokens_is_that_of_the_answer(backend: MLXBackend) -> None:
    asked = request("llava", user("One", PHOTO, "two", DARK, "?"))
    counted = await backend.count_tokens(asked)
    assert counted.tokens == (await answer(backend, asked)).usage.prompt_tokens


def _all_of(asked: object) -> tuple[str, ...]:
    return (asked.model, *asked.prompt)  # type: ignore[attr-defined]

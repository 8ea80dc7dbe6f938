"""Families of mlx-vlm, each as a tiny random model: right, or refused with a reason."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest
from fakes.tiny_model import config_for
from fakes.vision_client import PHOTO, Reference, answer, request, user
from fakes.vision_families import UNTESTED, families, modules, write_family
from probes.vision_sweep import sweep

from adapters.errors import GenerationError, UnsupportedParameterError
from adapters.mlx.backend import MLXBackend
from adapters.request import Message

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # Those of transformers, for sizes that no model has.
]
CHAT = (user("What is", PHOTO, "here?"),)


@asynccontextmanager
async def serving(root: Path, family: str) -> AsyncGenerator[MLXBackend]:
    write_family(root / family, family)
    async with aclosing(MLXBackend(config_for(root))) as backend:
        yield backend


async def read(backend: MLXBackend, family: str, *chat: Message) -> bytes:
    return (await answer(backend, request(family, *chat))).data


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", families())
async def test_answers_are_those_of_mlx_vlm_or_refused(name: str, tmp_path: Path) -> None:
    outcome = await sweep(name, tmp_path)
    assert outcome.is_right, outcome.faults


async def test_prompt_has_no_word_for_an_image_that_the_processor_places(tmp_path: Path) -> None:
    async with serving(tmp_path, "molmo") as backend:
        found = await answer(backend, request("molmo", *CHAT))
    expected = Reference(tmp_path / "molmo").chat(*CHAT)
    assert found.usage.prompt_tokens == expected.usage.prompt_tokens
    assert found.logprobs == pytest.approx(expected.logprobs, abs=1e-3)


async def test_positions_that_an_encoder_leaves_in_the_model_are_used(tmp_path: Path) -> None:
    async with serving(tmp_path, "glm4v") as backend:
        found = await answer(backend, request("glm4v", *CHAT))
    expected = Reference(tmp_path / "glm4v").chat(*CHAT)
    assert found.logprobs == pytest.approx(expected.logprobs, abs=1e-3)


async def test_answer_ends_where_the_processor_of_the_model_says(tmp_path: Path) -> None:
    async with serving(tmp_path, "kimi_vl") as backend:
        loaded = await read(backend, "kimi_vl", *CHAT)
    assert loaded == Reference(tmp_path / "kimi_vl").chat(*CHAT).data


async def test_text_goes_on_when_its_neighbour_has_ended(tmp_path: Path) -> None:
    """Qwen3.5 of mlx-vlm puts other caches in the list for a row that is alone in its batch."""
    chat = user("A text that goes on for longer than its neighbour.")
    async with serving(tmp_path, "qwen3_5") as backend:
        alone = await answer(backend, request("qwen3_5", chat, tokens=16))
        beside, _ = await asyncio.gather(
            answer(backend, request("qwen3_5", chat, tokens=16, client="b")),
            answer(backend, request("qwen3_5", user("Short, and longer to read." * 3), tokens=4)),
        )
    assert beside.logprobs == pytest.approx(alone.logprobs, abs=1e-4)


@pytest.mark.parametrize(
    ("family", "reason"),
    [("llava_next", r"makes \d+ embeddings of \d+ tokens"), ("llama4", "8 features for 12 places")],
)
async def test_images_that_mlx_vlm_reads_wrongly_are_refused(
    tmp_path: Path, family: str, reason: str
) -> None:
    async with serving(tmp_path, family) as backend:
        assert await read(backend, family, user("No image."))
        with pytest.raises(UnsupportedParameterError, match=reason):
            await read(backend, family, *CHAT)
        [card] = await backend.list_models()
        assert card.notes[-1].startswith("It takes no images: mlx-vlm")


async def test_model_that_reads_prompts_with_their_last_token_is_refused(tmp_path: Path) -> None:
    async with serving(tmp_path, "paligemma") as backend:
        with pytest.raises(GenerationError, match="together with the token after them"):
            await read(backend, "paligemma", *CHAT)
        assert await backend.list_models() == []
        assert "token after them" in backend.unusable()["paligemma"]


async def test_model_is_refused_with_the_reason_where_mlx_vlm_fails_on_a_text(
    tmp_path: Path,
) -> None:
    """Hunyuan's positions are of one prompt, which is read in one pass."""
    async with serving(tmp_path, "hunyuan_vl") as backend:
        with pytest.raises(GenerationError, match=r"mlx-vlm .* fails on a text: ValueError"):
            await read(backend, "hunyuan_vl", *CHAT)


def test_every_vision_model_of_mlx_vlm_is_tested_or_named() -> None:
    built = {name.partition(",")[0] for name in families()}
    assert modules() == built | set(UNTESTED)
    assert built.isdisjoint(UNTESTED)

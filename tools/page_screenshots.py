"""Take the pictures of docs/page.md: `uv run python -m tools.page_screenshots`.

Serves scripted backends, so that every state can be seen, and shows each view in Chromium in both
themes. The pictures have 64 colours, to be small.
"""

import asyncio
import logging
import sys
import tempfile
from contextlib import AsyncExitStack
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
from PIL import Image
from playwright.async_api import Page

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from fakes.browser import opened_page  # noqa: E402
from fakes.scripted_backend import EVERYTHING, ScriptedBackend  # noqa: E402
from servers.served import served  # noqa: E402

from adapters.backend import Capability, Model, Progress  # noqa: E402
from adapters.events import Finished, PromptProgress, Started, TextDelta, Usage  # noqa: E402
from adapters.request import GenerationRequest  # noqa: E402
from adapters.sink import Sink  # noqa: E402
from proxy.config import Config, ModelConfig, ServerConfig  # noqa: E402

IMAGES = ROOT / "docs" / "images"
VIEWS = ("now", "history", "models", "compare", "playground", "logs", "connect")
CHAT, CODE, BIG = "llama-3.2-3b", "qwen3-coder-30b", "gpt-oss-120b"
_CHAT: frozenset[Capability] = frozenset({"chat", "tools"})
_TEXT = "Two engines share one memory budget: the faster one answers, the other takes over."
_AGENTS = ("OpenAI/Python 3.54.0", "claude-cli/2.1", "Continue/1.4")


class ShownBackend(ScriptedBackend):
    """Answers at its own pace; some models stay in the states that their names stand for."""

    def __init__(self, kind: str, models: list[Model], pause: float) -> None:
        super().__init__(kind=kind, models=models, honours=EVERYTHING)
        self._pause = pause

    def loading(self) -> dict[str, Progress]:
        return {BIG: Progress(status="loading", completed=41, total=63)} if self.running else {}

    async def generate(self, request: GenerationRequest, sink: Sink) -> None:
        self.running += 1
        try:
            await self._answer(request, sink)
        finally:
            self.running -= 1

    async def _answer(self, request: GenerationRequest, sink: Sink) -> None:
        if request.model == BIG:
            await asyncio.Event().wait()
        sink.write(Started(context=131_072))
        if request.model == CODE and self.kind == "mlx":
            sink.write(PromptProgress(11_264, 24_310, 8_192))
            await asyncio.Event().wait()
        sink.write(PromptProgress(412, 518, 384))
        words = _TEXT.split(" ") * (200 if request.sampling.seed == 1 else 1)
        for word in words:
            await asyncio.sleep(self._pause)
            sink.write(TextDelta(f"{word} "))
        usage = Usage(prompt_tokens=518, completion_tokens=len(words), cached_tokens=384)
        sink.write(Finished("stop", usage))


def backends() -> list[ShownBackend]:
    def model(name: str, size: float, loaded: bool | None, quantization: str) -> Model:
        return Model(
            name=name,
            loaded=loaded,
            size_bytes=round(size * 2**30),
            quantization=quantization,
            capabilities=_CHAT,
            context_length=131_072,
        )

    mlx = [
        model(CHAT, 1.8, True, "4-bit"),
        model(CODE, 16.2, True, "4-bit"),
        model(BIG, 63.0, False, "mxfp4"),
    ]
    ollama = [model(CHAT, 2.0, True, "Q4_K_M"), model("qwen2.5:7b", 4.7, False, "Q4_K_M")]
    return [ShownBackend("mlx", mlx, 0.012), ShownBackend("ollama", ollama, 0.02)]


async def ask(port: int, agent: str, model: str, **fields: Any) -> None:
    body = {"model": model, "messages": [{"role": "user", "content": "Explain Tandem."}], **fields}
    headers = {"user-agent": agent}
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=600) as client:
        await client.post("/v1/chat/completions", json=body, headers=headers)


async def prepare(port: int) -> None:
    """Make a history and measurements."""
    for at in range(6):
        await ask(port, _AGENTS[at % 3], f"{('mlx', 'ollama')[at % 2]}/{CHAT}")
    await ask(port, "curl/8.5.0", "llama-3.3-70b")
    log = logging.getLogger("tandem")
    log.warning("mlx failed (backend_unavailable): falling back to ollama")
    log.warning("models: 'fast' names 'qwen3:4b', which ollama does not have.")


async def show(page: Page, port: int, view: str) -> None:
    await page.goto(f"http://127.0.0.1:{port}/#{view}")
    if view == "playground":
        await page.get_by_label("Model").select_option(CHAT)
        await page.get_by_label("Engine").select_option("*")
        await page.get_by_label("Message").fill("What is Tandem, in one sentence?")
        await page.get_by_role("button", name="Send").click()
        await page.get_by_text("The answer is complete.").wait_for()
    await page.wait_for_timeout(2500)  # Speeds need several events.


async def take(page: Page, path: Path) -> None:
    picture = Image.open(BytesIO(await page.screenshot()))
    picture.convert("RGB").quantize(64, dither=Image.Dither.NONE).save(path, optimize=True)


async def main() -> None:
    IMAGES.mkdir(exist_ok=True)
    aliases = {CHAT: ModelConfig(names={"mlx": CHAT, "ollama": CHAT}, prefer="mlx")}
    with tempfile.TemporaryDirectory() as folder:
        config = Config(server=ServerConfig(state_folder=folder), models=aliases)
        async with AsyncExitStack() as stack:
            first, *others = backends()
            port = await stack.enter_async_context(served(first, config, others=others))
            await prepare(port)
            asked = [
                asyncio.create_task(ask(port, _AGENTS[0], CHAT, stream=True, seed=1)),
                asyncio.create_task(ask(port, _AGENTS[1], CODE, stream=True)),
                asyncio.create_task(ask(port, _AGENTS[2], BIG)),
            ]
            for theme in ("light", "dark"):
                async with opened_page(port, width=1000, theme=theme) as (page, _):
                    for view in VIEWS:
                        await show(page, port, view)
                        await take(page, IMAGES / f"{view}-{theme}.png")
            for task in asked:
                task.cancel()


if __name__ == "__main__":
    asyncio.run(main())

"""Chromium, driven by Playwright, and axe-core; both are found on the machine or skip the test."""

import shutil
import subprocess
import tarfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Page, async_playwright

AXE = "axe-core@4.14.1"
_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_CHECK = """async () => {
  const { violations } = await axe.run(document, { resultTypes: ["violations"] });
  return violations.map(({ id, nodes }) => `${id}: ${nodes.map((node) => node.html).join(" ")}`);
}"""


class Problems(list[str]):
    """Faults of a page: errors, refused scripts and styles, requests to other hosts."""

    def watch(self, page: Page, origin: str) -> None:
        page.on("console", lambda message: self._note(message.type, message.text))
        page.on("pageerror", lambda error: self.append(f"exception: {error}"))
        page.on("request", lambda request: self._check(request.url, origin))

    def _note(self, kind: str, text: str) -> None:
        # A refused request is shown by the page itself.
        if kind in ("error", "warning") and "Failed to load resource" not in text:
            self.append(f"{kind}: {text}")

    def _check(self, url: str, origin: str) -> None:
        if not url.startswith((origin, "data:", "blob:")):
            self.append(f"request to {url}")


@asynccontextmanager
async def opened_page(
    port: int, view: str = "", *, width: int = 1200, theme: str = "light", **options: Any
) -> AsyncIterator[tuple[Page, Problems]]:
    """A tab with the page of the server at `port`, in a browser of its own."""
    program = next((found for name in _NAMES if (found := shutil.which(name))), None)
    if program is None:
        pytest.skip(f"no browser is installed: none of {', '.join(_NAMES)}")
    problems = Problems()
    async with async_playwright() as playwright:
        # Chromium's sandbox needs a user other than root.
        browser = await playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        page = await browser.new_page(
            viewport={"width": width, "height": 800},
            color_scheme="dark" if theme == "dark" else "light",
            **options,
        )
        problems.watch(page, f"http://127.0.0.1:{port}/")
        await page.goto(f"http://127.0.0.1:{port}/#{view}")
        try:
            yield page, problems
        finally:
            await browser.close()


def fetch_axe(folder: Path) -> str:
    """The source of axe-core, by npm, kept in `folder`."""
    if (npm := shutil.which("npm")) is None:
        pytest.skip("npm is not installed, which brings axe-core")
    done = subprocess.run(
        [npm, "pack", "--silent", AXE], cwd=folder, capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"npm cannot bring {AXE}: {done.stderr.strip()[:200]}")
    with tarfile.open(folder / done.stdout.split()[-1]) as archive:
        member = archive.extractfile("package/axe.min.js")
        assert member is not None
        return member.read().decode()


async def violations(page: Page, axe: str) -> list[str]:
    """List the findings of axe-core in the document as it is now."""
    await page.evaluate(axe)
    found: list[str] = await page.evaluate(_CHECK)
    return found

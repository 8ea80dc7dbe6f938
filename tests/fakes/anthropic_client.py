"""Anthropic's own client of the application in this process."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anthropic
from fakes.scripted_backend import BASE, http_client

from adapters.backend import Backend
from proxy.config import Config

HEADERS = {"x-api-key": "x", "anthropic-version": "2023-06-01"}


@asynccontextmanager
async def anthropic_client(
    *backends: Backend, config: Config | None = None
) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with http_client(*backends, config=config or Config()) as client:
        yield anthropic.AsyncAnthropic(
            base_url=BASE, api_key="x", max_retries=0, http_client=client
        )


def message(**fields: Any) -> dict[str, Any]:
    """A body that is fine, and `fields`."""
    return {
        "model": "m",
        "max_tokens": 4096,
        "messages": [{"role": "user", "content": "Hi"}],
        **fields,
    }

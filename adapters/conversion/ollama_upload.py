"""Giving an Ollama a file, for `/api/create` to make a model of."""

from pathlib import Path

import httpx
import ollama

from adapters.config import OllamaConfig
from adapters.ollama.errors import Progress, translated


async def upload(file: Path, config: OllamaConfig) -> str:
    """`sha256:…` of `file`, which the first of the config's servers has afterwards.

    By the official client's own transport: ours sends no body that is longer than the memory.

    Raises:
        BackendError: by the tables in `errors.py`.
    """
    official = ollama.AsyncClient(
        config.addresses[0],
        timeout=httpx.Timeout(None, connect=config.connect_timeout),
        follow_redirects=False,
        trust_env=False,
    )
    try:
        with translated(Progress()):
            return await official.create_blob(file)
    finally:
        await official.close()

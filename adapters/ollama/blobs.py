"""Files that new models of an Ollama are made from: whether it has one, and uploads of any size.

Source: https://github.com/ollama/ollama/blob/main/docs/api.md (blobs)
"""

from collections.abc import AsyncIterable

import httpx

from adapters.config import OllamaConfig
from adapters.ollama.client import OllamaClient
from adapters.ollama.errors import FOREIGN, from_response, translate

_LOOK_SECONDS = 10.0
_UPLOAD_SECONDS = 900.0
"""For a piece to be taken, and for the whole file to be compared with its digest on a slow disk."""


async def has_file(client: OllamaClient, config: OllamaConfig, digest: str) -> bool:
    """True if a file with `digest`, `sha256:…`, was uploaded; raises as `upload`."""
    seconds = min(_LOOK_SECONDS, config.first_token_timeout)
    response = await _send(client, config, "HEAD", digest, (), seconds)
    if response.status_code == int(httpx.codes.NOT_FOUND):
        return False
    _require_success(response)
    return True


async def upload(
    client: OllamaClient, config: OllamaConfig, digest: str, pieces: AsyncIterable[bytes]
) -> None:
    """Upload a file of any size in pieces; `has_file` comes first, because Ollama closes the
    connection in the middle of a file that it has.

    Raises:
        BackendError: by the tables in `errors.py`.
    """
    _require_success(await _send(client, config, "POST", digest, pieces, _UPLOAD_SECONDS))


async def _send(
    client: OllamaClient,
    config: OllamaConfig,
    method: str,
    digest: str,
    content: AsyncIterable[bytes] | tuple[()],
    seconds: float,
) -> httpx.Response:
    """Not through `client`, which sends bodies that are in memory. Ollama may be silent for
    `seconds`."""
    timeout = httpx.Timeout(seconds, connect=config.connect_timeout)
    headers = client.key_headers
    async with httpx.AsyncClient(timeout=timeout, trust_env=False, headers=headers) as sender:
        try:
            url = f"{client.address}/api/blobs/{digest}"
            return await sender.request(method, url, content=content or None)
        except FOREIGN as error:
            raise translate(error, began=False) from error


def _require_success(response: httpx.Response) -> None:
    if not response.is_success:
        raise from_response(response.status_code, response.content, None)

"""Memory for decoded audio: that of all requests together is bounded."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from adapters.errors import BackendBusyError
from proxy.audio.decode import decode_beside
from proxy.config import AudioConfig

_MAX_BYTES = 512 * 1024**2
"""More than two hours of audio. An hour takes 230 MB, and models transcribe one file at a time."""
_MAX_WAITING = 64
"""Files that may wait to be decoded, of which each may have `max_bytes`."""


class DecodedAudio:
    """Decodes two files at a time, in their order, and no more than there is room for."""

    def __init__(self, max_bytes: int = _MAX_BYTES, max_waiting: int = _MAX_WAITING) -> None:
        """A file alone may take more than `max_bytes`."""
        self._max_bytes = max_bytes
        self._max_waiting = max_waiting
        self._held = self._waiting = 0
        self._decoders = asyncio.Semaphore(2)
        self._released = asyncio.Condition()

    @asynccontextmanager
    async def decoded(self, data: bytes, config: AudioConfig) -> AsyncGenerator[bytes]:
        """Yield the samples of a file, of which the memory counts until the end.

        Raises:
            InvalidRequestError: as `decode`.
            BackendBusyError: too many files wait.
        """
        samples = await self._next(data, config)
        try:
            yield samples
        finally:
            self._held -= len(samples)
            async with self._released:
                self._released.notify_all()

    async def _next(self, data: bytes, config: AudioConfig) -> bytes:
        if self._waiting >= self._max_waiting:
            raise BackendBusyError(f"{self._waiting} files wait to be decoded.")
        self._waiting += 1
        try:
            async with self._decoders:  # Until there is room: what is decoded has to wait, too.
                samples = await decode_beside(data, config)
                async with self._released:
                    await self._released.wait_for(lambda: self._fits(len(samples)))
                self._held += len(samples)
                return samples
        finally:
            self._waiting -= 1

    def _fits(self, size: int) -> bool:
        return not self._held or self._held + size <= self._max_bytes

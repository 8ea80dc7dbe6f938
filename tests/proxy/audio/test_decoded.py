"""The memory of decoded audio, of all requests together."""

import asyncio
from contextlib import AsyncExitStack

import pytest
from fakes.tiny_audio import sine
from fakes.waiting import turns, until

from adapters.errors import BackendBusyError, InvalidRequestError
from proxy.audio.decoded import DecodedAudio
from proxy.audio.encode import Encoder
from proxy.config import AudioConfig

LIMITS = AudioConfig()
SECOND = 64_000
"""Bytes of a second of samples."""


def wav(seconds: float) -> bytes:
    encoder = Encoder("wav", 16_000)
    return encoder.encode(sine(seconds), is_all=True) + encoder.finish()


class Holding:
    """A request that keeps its samples until it is released."""

    def __init__(self, audio: DecodedAudio, data: bytes) -> None:
        self.samples = 0
        self.released = asyncio.Event()
        self.task = asyncio.create_task(self._hold(audio, data))

    async def _hold(self, audio: DecodedAudio, data: bytes) -> None:
        async with audio.decoded(data, LIMITS) as samples:
            self.samples = len(samples)
            await self.released.wait()


async def test_decoded_audio_waits_for_room():
    audio = DecodedAudio(max_bytes=2 * SECOND)
    waiting = [Holding(audio, wav(1.0)) for _ in range(5)]
    await until(lambda: sum(each.samples > 0 for each in waiting) == 2)
    await turns(50)
    while waiting:  # Of two that are decoded side by side either may be first.
        await until(lambda: any(each.samples for each in waiting))
        assert sum(each.samples for each in waiting) <= 2 * SECOND
        first = next(each for each in waiting if each.samples)
        first.released.set()
        await first.task
        waiting.remove(first)


async def test_file_larger_than_the_room_is_decoded_alone():
    audio = DecodedAudio(max_bytes=SECOND)
    first, second = Holding(audio, wav(2.0)), Holding(audio, wav(0.5))
    await until(lambda: first.samples + second.samples > 0)
    alone, other = (first, second) if first.samples else (second, first)
    await turns(50)
    assert other.samples == 0
    alone.released.set()
    await until(lambda: other.samples > 0)
    other.released.set()
    await asyncio.gather(first.task, second.task)


async def test_request_that_leaves_or_fails_gives_its_place_up():
    audio = DecodedAudio(max_bytes=SECOND)
    first = Holding(audio, wav(1.0))
    await until(lambda: first.samples > 0)
    second = Holding(audio, wav(1.0))
    await turns(50)
    second.task.cancel()
    await asyncio.wait((second.task,))
    with pytest.raises(InvalidRequestError):
        async with audio.decoded(b"no audio", LIMITS):
            pass
    first.task.cancel()
    await asyncio.wait((first.task,))
    async with asyncio.timeout(20), audio.decoded(wav(1.0), LIMITS) as samples:
        assert len(samples) == SECOND


async def test_one_file_too_many_is_refused():
    audio = DecodedAudio(max_bytes=SECOND, max_waiting=2)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(audio.decoded(wav(1.0), LIMITS))
        waiting = [Holding(audio, wav(1.0)) for _ in range(2)]
        await turns(2)
        with pytest.raises(BackendBusyError, match="2 files wait"):
            await stack.enter_async_context(audio.decoded(wav(1.0), LIMITS))
        for each in waiting:
            each.task.cancel()
        await asyncio.wait([each.task for each in waiting])

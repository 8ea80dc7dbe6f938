"""A folder of models on a mount that stops to respond, as a network's may."""

import asyncio
import ctypes
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fakes.tiny_model import write_tiny_model
from fakes.waiting import until
from servers.server_process import serving, write

from tools.faults.raw import CHAT, encode, send

pytestmark = [pytest.mark.long, pytest.mark.process]

_DETACH = 2
STALL_SECONDS = 5
"""A load that imports mlx and mlx-lm first may take longer; another one follows."""
REQUESTS = 40
"""More than Python's own pool of threads has."""


@contextmanager
def hung(folder: Path) -> Iterator[None]:
    """Mount a file system over `folder` that answers no call."""
    libc = ctypes.CDLL(None, use_errno=True)
    target = str(folder).encode()
    try:
        device = os.open("/dev/fuse", os.O_RDWR)
    except OSError:
        pytest.skip("/dev/fuse cannot be opened")
    try:
        options = f"fd={device},rootmode=40000,user_id=0,group_id=0".encode()
        if libc.mount(b"hung", target, b"fuse", 0, options):
            pytest.skip(f"cannot mount: {os.strerror(ctypes.get_errno())}")
        try:
            yield
        finally:
            libc.umount2(target, _DETACH)
    finally:
        os.close(device)  # Every call that waits fails now.


def chat(model: str) -> bytes:
    body = (
        f'{{"model": "{model}", "max_tokens": 2, "messages": [{{"role": "user", "content": "a"}}]}}'
    )
    return encode("POST", CHAT, body.encode())


async def test_hung_folder_of_models_holds_up_nothing_else(tmp_path: Path):
    models = tmp_path / "models"
    for name in ("loaded", "other"):
        write_tiny_model(models / name)
    config = write(
        tmp_path,
        "backends:\n  ollama: false\n  echo: {kind: echo}\n  mlx:\n"
        f"    folders: ['{models}']\n    huggingface_cache: false\n"
        f"    stall_seconds: {STALL_SECONDS}\n",
    )
    with serving(config, "proxy") as server:

        async def is_loaded() -> bool:
            return (await send(server.port, chat("loaded"), 60)).status == 200

        await until(is_loaded, 300)
        with hung(models):
            waiting = [
                asyncio.create_task(send(server.port, chat("other"))) for _ in range(REQUESTS)
            ]
            show = encode("POST", "/api/show", b'{"model": "loaded"}')
            waiting += [asyncio.create_task(send(server.port, show)) for _ in range(REQUESTS)]
            going_on = [
                chat("loaded"),
                chat("echo"),
                *(encode("GET", path) for path in ("/health", "/v1/models", "/api/ps")),
                encode("GET", "/api/performance/comparison"),
            ]
            replies = await asyncio.gather(*(send(server.port, request) for request in going_on))
            assert [reply.status for reply in replies] == [200] * len(going_on)
            assert {reply.status for reply in await asyncio.gather(*waiting)} == {504}
        assert (await send(server.port, chat("other"))).status == 200
        with hung(models):
            assert (await send(server.port, show)).status == 504
            server.process.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(server.process.wait, 30) == 0

"""Count the calls of one streamed token, and the functions between a client and an engine.

    python -m tools.spine

Serves the application on a real socket and sends warm requests of every dialect to each engine: MLX
with a tiny model, Ollama as its recorded bytes. `sys.setprofile` sees the event loop's thread only.
Prints a table: the spine (functions and files of this project that wait for the engine when it is
called: the await chain of the request's task and of the answer's) and the calls of Python functions
for each token, from the difference of a long and a short answer.
"""

import asyncio
import json
import socket
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, NamedTuple

import uvloop

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from fakes.recorded_ollama import Reply, recording, stand_in  # noqa: E402
from fakes.tiny_model import write_tiny_model  # noqa: E402

from adapters.config import MLXConfig, OllamaConfig  # noqa: E402
from proxy.app import create_app  # noqa: E402
from proxy.config import Config, ServerConfig  # noqa: E402
from proxy.http.server import Server  # noqa: E402

SHORT, LONG = 20, 120
"""Tokens of the two answers that are compared."""
ROUNDS = 3
"""Measurements of each."""
_TOKEN_SECONDS = 0.004
"""Between two tokens of the recorded Ollama: each is a read of its own, as with a real model."""
_ENGINES = {
    "ollama": ("upstream/transport.py", "ask"),
    "mlx": ("mlx/engine/engine.py", "submit"),
}
"""Backend -> file and function that call the engine."""

MESSAGES = [{"role": "user", "content": "Hi"}]


class Dialect(NamedTuple):
    path: str
    body: dict[str, Any]


def dialects(model: str, backend: str, tokens: int) -> Iterator[Dialect]:
    shared = {"model": model, "stream": True, "temperature": 0}
    yield Dialect("/v1/chat/completions", {**shared, "messages": MESSAGES, "max_tokens": tokens})
    yield Dialect("/v1/responses", {**shared, "input": "Hi", "max_output_tokens": tokens})
    yield Dialect("/v1/messages", {**shared, "messages": MESSAGES, "max_tokens": tokens})
    yield Dialect("/v1/completions", {**shared, "prompt": "Hi", "max_tokens": tokens})
    yield Dialect(
        "/api/chat",
        {
            "model": model,
            "messages": MESSAGES,
            "options": {"num_predict": tokens, "temperature": 0},
        },
    )
    path = "/api/mlx/generate" if backend == "mlx" else "/api/chat"
    yield Dialect(path, {**shared, "prompt": "Hi", "max_tokens": tokens})


class Profile:
    """Counts calls on the thread that it is set for, and keeps the stack at the engine."""

    def __init__(self, call_site: tuple[str, str]) -> None:
        self._file, self._function = call_site
        self.calls: Counter[CodeType] = Counter()
        self.spine: list[CodeType] = []

    def __call__(self, frame: FrameType, event: str, _arg: object) -> None:
        if event != "call":
            return
        code = frame.f_code
        # A coroutine that is resumed is seen as a call, too: it is one.
        self.calls[code] += 1
        if code.co_name == self._function and code.co_filename.endswith(self._file):
            self.spine = [*_waiting_request(), *_stack(frame)]

    @property
    def total(self) -> int:
        return sum(self.calls.values())


def _stack(frame: FrameType | None) -> list[CodeType]:
    """The functions on the stack of the running task, outermost first."""
    frames: list[CodeType] = []
    while frame is not None:
        frames.append(frame.f_code)
        frame = frame.f_back
    return frames[::-1]


def _waiting_request() -> list[CodeType]:
    """The await chain of the task that waits for the first event of the answer."""
    current = asyncio.current_task()
    for task in asyncio.all_tasks():
        chain: list[CodeType] = []
        coroutine: Any = task.get_coro()
        while coroutine is not None and hasattr(coroutine, "cr_code"):
            chain.append(coroutine.cr_code)
            coroutine = coroutine.cr_await
        if task is not current and any(code.co_name == "stream" for code in chain):
            return chain
    return []


def _ours(codes: list[CodeType]) -> list[str]:
    """`file:function` of those in this project, each once."""
    names: dict[str, None] = {}
    for code in codes:
        path = Path(code.co_filename)
        if path.is_relative_to(ROOT / "proxy") or path.is_relative_to(ROOT / "adapters"):
            names[f"{path.relative_to(ROOT)}:{code.co_qualname}"] = None
    return list(names)


def ask(port: int, dialect: Dialect) -> bytes:
    """One request over a plain socket, in a thread of its own; returns the whole answer."""
    data = json.dumps(dialect.body).encode()
    head = (
        f"POST {dialect.path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
        f"content-length: {len(data)}\r\nconnection: close\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(head.encode() + data)
        return b"".join(iter(lambda: client.recv(65_536), b""))


async def measure(port: int, dialect: Dialect, call_site: tuple[str, str]) -> Profile:
    profile = Profile(call_site)
    sys.setprofile(profile)
    try:
        answer = await asyncio.to_thread(ask, port, dialect)
    finally:
        sys.setprofile(None)
    if b" 200 " not in answer[:20] or b'"error":{' in answer:
        raise RuntimeError(f"{dialect.path}: {answer[:500]!r}")
    return profile


@contextmanager
def recorded_ollama() -> Iterator[str]:
    """Serve the recorded Ollama on a thread and a loop of its own; yield its address."""
    ready: Future[tuple[str, Callable[[], object]]] = Future()

    async def serve() -> None:
        async with stand_in() as standin:
            for name in ("tags", "show-llama", "version", "ps"):
                standin.replays(name)
            standin.says("/api/chat", _replay("chat-stream"))
            standin.says("/api/generate", _replay("generate-stream"))
            end, loop = asyncio.Event(), asyncio.get_running_loop()
            ready.set_result((standin.host, lambda: loop.call_soon_threadsafe(end.set)))
            await end.wait()

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    host, stop = ready.result(10)
    try:
        yield host
    finally:
        stop()
        thread.join()


def _replay(name: str) -> Any:
    """The recorded lines, one of which is repeated for the number of tokens in the request."""
    lines = [chunk.encode() for chunk in recording(name)["response"]["chunks"]]

    async def script(reply: Reply) -> None:
        await reply.head()
        for _ in range(_tokens.pop(0) - 1):
            await reply.chunk(lines[0])
            await asyncio.sleep(_TOKEN_SECONDS)
        await reply.chunk(lines[-1])
        await reply.end()

    return script


_tokens: list[int] = []
"""The lengths of the next answers of the recorded Ollama."""


@asynccontextmanager
async def serving(config: Config) -> AsyncIterator[int]:
    app = create_app(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listening = asyncio.Event()
        server = Server(app, config.server, app.state.parts.grace, listening.set)
        task = asyncio.create_task(server.serve([listener]))
        await listening.wait()
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            await task


class Row(NamedTuple):
    """The cost of one dialect on one engine."""

    dialect: str
    backend: str
    spine: list[str]
    """`file:function` of this project, outermost first."""
    calls: float
    """Python functions called for each token."""
    own_calls: float
    """The calls of functions of this project."""
    costliest: list[tuple[str, float]]
    """Functions with the calls of each for a token, most first."""

    @property
    def files(self) -> set[str]:
        return {name.partition(":")[0] for name in self.spine}


async def rows() -> AsyncIterator[Row]:
    """Measure every dialect on each engine."""
    with recorded_ollama() as host, tempfile.TemporaryDirectory() as folder:
        write_tiny_model(Path(folder) / "tiny", "llama")
        mlx = MLXConfig(folders=(folder,), huggingface_cache=False, embedded="never")
        config = Config(
            server=ServerConfig(port=0, log_format=None),
            backends={"mlx": mlx, "ollama": OllamaConfig(host=host)},
        )
        async with serving(config) as port:
            for backend, model in (("ollama", "ollama/smollm2:135m"), ("mlx", "mlx/tiny")):
                shorts, longs = dialects(model, backend, SHORT), dialects(model, backend, LONG)
                for short, long in zip(shorts, longs, strict=True):
                    yield await measure_row(port, backend, short, long)


async def measure_row(port: int, backend: str, short: Dialect, long: Dialect) -> Row:
    """Measure a short and a long answer, after one that warms both up.

    Of several rounds the least: timers and other tasks of the loop only add calls.
    """
    profiles: dict[int, list[Profile]] = {SHORT: [], LONG: []}
    for dialect, tokens in ((long, LONG), *[(short, SHORT), (long, LONG)] * ROUNDS):
        _tokens[:] = [tokens]
        profiles[tokens].append(await measure(port, dialect, _ENGINES[backend]))
    less, more = (min(profiles[tokens], key=lambda p: p.total) for tokens in (SHORT, LONG))
    added, tokens = more.calls - less.calls, LONG - SHORT
    return Row(
        dialect=f"{short.path}{' (prompt)' if 'prompt' in short.body else ''}",
        backend=backend,
        spine=_ours(more.spine),
        calls=(more.total - less.total) / tokens,
        own_calls=sum(added[code] for code in added if str(ROOT) in code.co_filename) / tokens,
        costliest=[
            (f"{code.co_filename[-50:]}:{code.co_name}", count / tokens)
            for code, count in added.most_common(24)
        ],
    )


async def main() -> None:
    print("| dialect | engine | spine: functions | files | calls a token: all | of this project |")
    print("|---|---|---|---|---|---|")
    async for row in rows():
        print(
            f"| {row.dialect} | {row.backend} | {len(row.spine)} | {len(row.files)} "
            f"| {row.calls:.1f} | {row.own_calls:.1f} |"
        )
        if "-v" in sys.argv:
            print("\n".join(f"    {name}" for name in row.spine))
            for name, calls in row.costliest:
                print(f"    {calls:6.2f} {name}")


if __name__ == "__main__":
    uvloop.run(main())

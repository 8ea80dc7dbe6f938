"""Fuzz the readers of foreign bytes: `python -m tools.fuzz [NAME …] [--seconds N] [--seed N]`.

Inputs of `tests/data/fuzz/NAME` are changed at random: bytes flipped, cut, repeated, joined, set to
numbers at the limits. A reader may refuse an input with an error that it names; anything else is
printed with its input, which is kept in the folder of that name, and the exit status is 1.
"""

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any, cast

import httpx
from msgspec.json import Decoder

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from fakes.scripted_backend import ScriptedBackend  # noqa: E402
from servers.served import served  # noqa: E402

from adapters.errors import BackendError, InvalidRequestError  # noqa: E402
from adapters.gguf.conversion import UnsupportedGGUFError  # noqa: E402
from adapters.gguf.metadata import read_metadata  # noqa: E402
from adapters.ollama.ndjson import LineStream  # noqa: E402
from adapters.ollama.translate.grammar_schema import to_grammar_schema  # noqa: E402
from adapters.ollama.wire import Line  # noqa: E402
from adapters.upstream.transport import Connection, ReadTurn  # noqa: E402
from proxy.http.body import decode, feed  # noqa: E402
from proxy.http.body_scan import BodyScan  # noqa: E402
from tools.faults.raw import connected  # noqa: E402

CORPUS = ROOT / "tests" / "data" / "fuzz"
_NUMBERS = (b"\xff" * 8, b"\x00" * 8, b"\x80", b"999999999999", b"-1", b"1e9")
_HANG_SECONDS = 10.0

Target = Callable[[bytes], Awaitable[None]]
"""Reads one input; raises for what is a defect."""


def mutated(inputs: list[bytes], dice: random.Random) -> bytes:
    """Change one of `inputs` in one to four places."""
    data = bytearray(dice.choice(inputs))
    for _ in range(dice.randint(1, 4)):
        at = dice.randrange(len(data) + 1)
        match dice.randrange(6):
            case 0 if data:
                data[at % len(data)] = dice.randrange(256)
            case 1:
                del data[at : at + dice.choice((1, 2, 8, 100))]
            case 2:
                before = data[max(0, at - dice.choice((1, 4, 30))) : at]
                data[at:at] = before * dice.choice((1, 3, 50))
            case 3:
                number = dice.choice(_NUMBERS)
                data[at : at + len(number)] = number
            case 4:
                other = dice.choice(inputs)
                data[at:] = other[dice.randrange(len(other) + 1) :]
            case _:
                data[at:at] = dice.choice((b"{", b"[", b'"', b"\\", b"\r\n", b"\n", b"\0", b"\xff"))
    return bytes(data[:200_000])


@asynccontextmanager
async def _http() -> AsyncIterator[Target]:
    """The front: any bytes are answered or the connection is closed, and never with a 500."""
    async with served(ScriptedBackend()) as port:

        async def read(data: bytes) -> None:
            async with connected(port) as (reader, writer):
                writer.write(data)
                writer.write_eof()
                try:
                    said = await reader.read(-1)
                except ConnectionResetError:
                    return
            if b"HTTP/1.1 500" in said or b"HTTP/1.1 502" in said:
                raise AssertionError("a status of 500 or 502")

        yield read


class _Transport(asyncio.Transport):
    """A transport that sends nothing."""

    def __init__(self) -> None:
        super().__init__({"socket": self})

    def fileno(self) -> int:
        return 0

    def write(self, data: object) -> None: ...

    def abort(self) -> None: ...

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


@asynccontextmanager
async def _ndjson() -> AsyncIterator[Target]:
    """A response of Ollama: its lines, or an error of the tables."""
    decoder, dice = Decoder(Line), random.Random(3)  # noqa: S311

    async def read(data: bytes) -> None:
        connection = Connection(ReadTurn(1))
        connection.connection_made(_Transport())
        loop = asyncio.get_running_loop()

        def arrive(rest: bytes) -> None:
            if rest:
                size = dice.randint(1, 300)
                connection.data_received(rest[:size])
                loop.call_soon(arrive, rest[size:])
            else:
                connection.eof_received()

        loop.call_soon(arrive, data)
        try:
            await connection.ask([b""], loop.time() + 5)
            lines = LineStream(connection, decoder, 5.0, 10_000_000)
            await lines.wait(loop.time() + 5)
            while await lines.next_lines():
                pass
        except (BackendError, httpx.TransportError):
            return

    yield read


@asynccontextmanager
async def _json() -> AsyncIterator[Target]:
    """A body: what the scan accepts, the decoder reads or refuses; their depths agree."""

    async def read(data: bytes) -> None:
        scan = BodyScan(64)
        try:
            await feed(scan, data)
            decoded = decode(scan.end(), object)
        except InvalidRequestError:
            return
        if _depth(decoded) > 64:
            raise AssertionError("the scan has missed the depth")

    yield read


def _depth(value: Any) -> int:
    if isinstance(value, dict):
        value = [*cast(dict[str, Any], value).values()]
    return 1 + max(map(_depth, value), default=0) if isinstance(value, list) else 0


@asynccontextmanager
async def _schema() -> AsyncIterator[Target]:
    """A JSON schema: compiled for MLX and translated for Ollama, or refused by name."""
    from fakes.tiny_model import write_tiny_model
    from mlx_lm.tokenizer_utils import load as load_tokenizer

    from adapters.mlx.grammar.compiler import GrammarCompiler
    from adapters.mlx.grammar.lark import Style
    from adapters.request import GenerationRequest, JSONSchema

    with tempfile.TemporaryDirectory() as folder:
        tokenizer = load_tokenizer(write_tiny_model(Path(folder) / "m"))
    compiler = GrammarCompiler(tokenizer, frozenset({0}))

    async def read(data: bytes) -> None:
        try:
            schema = decode(data, object)
        except InvalidRequestError:
            return
        if not isinstance(schema, dict):
            return
        schema = cast(dict[str, Any], schema)
        for strict in (True, False):
            shape = JSONSchema(schema, strict=strict)
            request = GenerationRequest(model="m", prompt="p", response_format=shape)
            for compiled in (
                lambda: compiler.compile(request, Style()),  # noqa: B023
                lambda: _translated(schema, strict),  # noqa: B023
            ):
                try:
                    await compiled()
                except BackendError:
                    continue

    try:
        yield read
    finally:
        compiler.close()


async def _translated(schema: dict[str, object], strict: bool) -> None:
    to_grammar_schema(schema, "response_format", strict=strict)


@asynccontextmanager
async def _gguf() -> AsyncIterator[Target]:
    """The header of a model's file: its values, or `UnsupportedGGUFError`."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.gguf"

        async def read(data: bytes) -> None:
            path.write_bytes(data)
            try:
                read_metadata(path, lambda _: True)
            except UnsupportedGGUFError:
                return

        yield read


TARGETS = {"http": _http, "ndjson": _ndjson, "json": _json, "schema": _schema, "gguf": _gguf}


async def fuzz(name: str, seconds: float, seed: int) -> int:
    """Fuzz one target; returns the number of defects."""
    dice = random.Random(seed)  # noqa: S311
    inputs = [path.read_bytes() for path in sorted((CORPUS / name).iterdir())]
    defects = count = 0
    async with TARGETS[name]() as read:
        ends = time.monotonic() + seconds  # Libraries were imported before.
        for data in _endless(inputs, dice):
            if time.monotonic() > ends:
                break
            count += 1
            try:
                async with asyncio.timeout(_HANG_SECONDS):
                    await read(data)
            except Exception as error:
                defects += 1
                kept = CORPUS / name / sha256(data).hexdigest()[:12]
                kept.write_bytes(data)
                print(f"{name}: {error!r}, input kept as {kept.relative_to(ROOT)}")
                traceback.print_exc(limit=-4)
                if defects >= 5:
                    break
    print(f"{name}: {count} inputs in {seconds:.0f} s, {defects} defects", flush=True)
    return defects


def _endless(inputs: list[bytes], dice: random.Random) -> Iterator[bytes]:
    """The inputs as they are, then changed ones."""
    yield from inputs
    while True:
        yield mutated(inputs, dice)


def main() -> int:
    parser = argparse.ArgumentParser(prog="tools.fuzz")
    parser.add_argument("names", nargs="*", choices=[*TARGETS, []], metavar="NAME")
    parser.add_argument("--seconds", type=float, default=60.0, help="for each")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    names = args.names or [*TARGETS]
    found = [asyncio.run(fuzz(name, args.seconds, args.seed)) for name in names]
    print(json.dumps(dict(zip(names, found, strict=True))))
    return 1 if any(found) else 0


if __name__ == "__main__":
    sys.exit(main())

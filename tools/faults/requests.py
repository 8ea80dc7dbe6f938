"""Malformed requests over every route, and wrong values in every field."""

import asyncio
import itertools
import json
import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

from tools.faults.processes import Tandem, running
from tools.faults.raw import CHAT, Reply, chat, connected, encode, read_reply, send

_DICE = random.Random(7)  # noqa: S311 - noise, not secrets
_AT_ONCE = 16
_HANG_SECONDS = 5.0
_BAD = (500, 502, 504)
_GOOD = {"model": "m:latest", "messages": [{"role": "user", "content": "tokens=1"}]}
_BODIES = [
    b"",
    b"null",
    b"1",
    b'"x"',
    b"[]",
    b"{",
    b"{}",
    b'{"model":',
    b'{"model":null}',
    b'{"model":"m:latest"}',
    b'{"model":"nope","messages":[],"prompt":"x","input":"x"}',
    b"\xef\xbb\xbf{}",
    b"\xff\xfe{\x00}\x00",
    b'{"model":"\xff"}',
    b'{"model":"\\ud800"}',
    b'{"model":"\\u0000"}',
    b'{"model":"../../etc/passwd","input":"x","messages":[{"role":"user","content":"x"}]}',
    b'{"messages":' + b"[" * 70 + b"]" * 70 + b"}",
    b'{"model":"m:latest","messages":[{}]}',
    b'{"model":"m:latest","messages":[{"role":"user","content":"x"}],"n":1e999}',
    b'{"model":"m:latest","messages":[{"role":"user","content":"x"}],"temperature":NaN}',
    b'{"model":"m:latest","messages":[{"role":"user","content":"x"}],"model":1}',
    b'{"a":1}' * 2,
    b"a=b&c=d",
    b"--x\r\nContent-Disposition: form-data; name=file\r\n\r\nx\r\n--x--",
]
_HEADERS: list[dict[str, str]] = [
    {},
    {"content_type": "text/plain"},
    {"content_type": "multipart/form-data; boundary=x"},
    {"content_type": "application/json; charset=utf-16"},
    {"content_encoding": "gzip"},
    {"origin": "https://evil.example"},
    {"host": "evil.example"},
    {"accept": "nothing/at-all"},
    {"anthropic_version": "2023-06-01"},
    {"authorization": "Bearer \x7f"},
    {"expect": "100-continue"},
    {"range": "bytes=-1"},
    {"x_http_method_override": "DELETE"},
]
_METHODS = ("GET", "POST", "DELETE", "PUT", "PATCH", "HEAD", "OPTIONS")


async def _routes(tandem: Tandem) -> dict[str, dict[str, Any]]:
    """The paths of our OpenAPI document, and some that are in none."""
    document = json.loads((await send(tandem.port, encode("GET", "/openapi.json"))).body)
    paths: dict[str, dict[str, Any]] = document["paths"]
    return {**paths, "/": {}, "/nope": {}, "/v1": {}, "/v1/chat": {}, "/api": {}}


def _filled(path: str) -> str:
    parts = path.split("/")
    words = ["m:latest", "resp_1", "%00", "..%2f..", "a" * 300, "%ff", "x%20y"]
    return "/".join(_DICE.choice(words) if part.startswith("{") else part for part in parts)


def _requests(paths: list[str]) -> Iterator[bytes]:
    """Every body and header at every route, and then bytes of them changed at random."""
    combined = list(itertools.product(paths, _METHODS, _BODIES, _HEADERS))
    _DICE.shuffle(combined)
    for path, method, body, headers in itertools.cycle(combined):
        request = encode(method, _filled(path), body, **headers)
        if _DICE.random() < 0.3:
            at = _DICE.randrange(len(request))
            request = request[:at] + bytes([_DICE.randrange(256)]) + request[at + 1 :]
        yield request


async def malformed(count: int) -> None:
    """Requests that are wrong in one way or another; a good one after each thousand."""
    count = count or 100_000
    with running() as (tandem, _):
        requests = _requests([*await _routes(tandem)])
        statuses: Counter[str] = Counter()
        bad: list[tuple[int, bytes]] = []
        await tandem.stall()
        before = tandem.use()

        async def work() -> None:
            while statuses.total() < count:
                request = next(requests)
                status = await _status(tandem.port, request)
                statuses[str(status)] += 1
                if status in _BAD or status == "hang":
                    bad.append((0, request))
                if statuses.total() % 1000 == 0:
                    good = await send(tandem.port, chat("tokens=2", stream=False))
                    statuses["good: " + str(good.status)] += 1

        await asyncio.gather(*(work() for _ in range(_AT_ONCE)))
        await asyncio.sleep(6)
        after, stall = tandem.use(), await tandem.stall()
        print(f"{dict(statuses.most_common())}")
        print(f"{len(bad)} of 500, 502, 504 or without an answer: {bad[:5]}")
        print(f"descriptors {before.descriptors} -> {after.descriptors}")
        print(f"memory {before.rss_mb:.0f} -> {after.rss_mb:.0f} MB")
        print(f"longest stall {stall['wall_ms']:.0f} ms, of CPU time {stall['cpu_ms']:.0f} ms")


async def _status(port: int, request: bytes) -> int | str:
    """The status; `closed`, or `hang` where neither comes."""
    try:
        async with asyncio.timeout(_HANG_SECONDS), connected(port) as (reader, writer):
            writer.write(request)
            if not _is_complete(request):
                writer.write_eof()
            line = await reader.readline()
    except OSError:
        return "closed"
    except TimeoutError:
        return "hang"
    return int(line.split()[1]) if line else "closed"


def _is_complete(request: bytes) -> bool:
    """False where a changed byte makes the server wait for more, as it should."""
    head, end, body = request.partition(b"\r\n\r\n")
    length = f"content-length: {len(body)}".encode()
    return bool(end) and length in head.lower()


_WRONG: list[Any] = [
    None, True, False, 0, -1, 1.5, 10**30, -(10**30), 1e308, "", "x", "\x00", "a" * 10_000,
    [], [[]], [None], [1], ["x"], {}, {"a": 1}, {"type": "x"}, [{}], [{"type": "x"}],
    {"": None}, "\U0001f600",
]  # fmt: skip


async def poison(count: int) -> None:
    """25 wrong values in each field of each route that takes JSON; a good request after each."""
    with running() as (tandem, _):
        document = json.loads((await send(tandem.port, encode("GET", "/openapi.json"))).body)
        fields = list(_fields(document))
        cases = [(path, field, value) for path, field in fields for value in _WRONG]
        if count:
            cases = _DICE.sample(cases, min(count, len(cases)))
        statuses: Counter[int] = Counter()
        bad: list[object] = []
        for at in range(0, len(cases), _AT_ONCE):
            group = cases[at : at + _AT_ONCE]
            replies = await asyncio.gather(*(_poisoned(tandem.port, case) for case in group))
            for case, (reply, good) in zip(group, replies, strict=True):
                statuses[reply] += 1
                if reply in _BAD or reply == 0 or good != 200:
                    bad.append((case[0], case[1], str(case[2])[:40], reply, good))
        stall = await tandem.stall()
        print(f"{len(cases)} values in {len(fields)} fields: {dict(statuses.most_common())}")
        print(f"{len(bad)} failed, or failed the good request after them: {bad[:20]}")
        print(f"longest stall {stall['wall_ms']:.0f} ms, of CPU time {stall['cpu_ms']:.0f} ms")


async def _poisoned(port: int, case: tuple[str, str, Any]) -> tuple[int, int]:
    """Statuses of the wrong request and of a good one behind it on the same connection."""
    path, field, value = case
    body = json.dumps({**_base(path), field: value}).encode()
    good = json.dumps(_GOOD).encode()
    reply: Reply | None = None
    try:
        async with asyncio.timeout(_HANG_SECONDS), connected(port) as (reader, writer):
            writer.write(encode("POST", path, body))
            reply = await read_reply(reader)
            writer.write(encode("POST", CHAT, good))
            return reply.status, (await read_reply(reader)).status
    except (OSError, TimeoutError, asyncio.IncompleteReadError):
        if reply is None:
            return 0, 0
        return reply.status, (await send(port, encode("POST", CHAT, good))).status


def _base(path: str) -> dict[str, Any]:
    body: dict[str, Any] = {"model": "m:latest", "max_tokens": 2, "stream": False}
    if "embed" in path:
        return {"model": "m:latest", "input": "x", "prompt": "x"}
    if path.endswith(("/completions", "/generate")) and path != CHAT:
        return body | {"prompt": "tokens=1"}
    if path.startswith("/v1/responses"):
        return {"model": "m:latest", "input": "tokens=1", "store": False}
    return body | {"messages": _GOOD["messages"]}


def _fields(document: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for path, operations in document["paths"].items():
        content = operations.get("post", {}).get("requestBody", {}).get("content", {})
        schema = content.get("application/json", {}).get("schema", {})
        if "{" in path or path in _ADMINISTRATION:
            continue
        for field in sorted(set(_properties(document, schema))):
            yield path, field


_ADMINISTRATION = ("/api/pull", "/api/delete", "/api/copy", "/api/create")
"""A wrong value there may be a right one, and download or delete something."""


def _properties(document: dict[str, Any], schema: dict[str, Any]) -> Iterator[str]:
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        schema = document["components"]["schemas"][name]
    yield from schema.get("properties", {})
    for branch in (*schema.get("anyOf", ()), *schema.get("oneOf", ()), *schema.get("allOf", ())):
        yield from _properties(document, branch)

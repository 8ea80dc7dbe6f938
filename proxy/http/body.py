"""A JSON body -> a wire Struct: strict about types, and aware of what it did not understand."""

import re
from functools import cache
from typing import Any, TypeVar, cast

import msgspec
from litestar.exceptions.http_exceptions import RequestEntityTooLarge
from litestar.types import Receive
from msgspec import Struct
from msgspec.structs import fields

from adapters.errors import InvalidRequestError
from proxy.endpoints.server_request import ServerRequest
from proxy.errors import ClientDisconnectedError
from proxy.http.gates import check_depth

S = TypeVar("S")

_MISSING = re.compile(r"missing required field `([^`]*)`")
_LONGEST_MESSAGE = 300
_NESTED = (dict, list)
"""What JSON has fields in, at whatever depth."""
_LISTS = (list, tuple)


async def read_body(request: ServerRequest, kind: type[S]) -> S:
    """The request's body; unknown fields go to `x-tandem-ignored`.

    Raises:
        InvalidRequestError: not JSON, not a `kind`, or with unknown fields where those are errors.
    """
    return understand(request, await receive(request), kind)


async def receive(request: ServerRequest) -> bytes:
    """The body as it came, no larger than is allowed, nested no deeper than decoders can bear.

    Raises:
        RequestEntityTooLarge: it is larger, or its length says so.
        ClientDisconnectedError: it broke off.
    """
    limits = request.config.server
    length = request.fields.get("content-length", "")
    if length.isdecimal() and int(length) > limits.max_body_bytes:
        raise RequestEntityTooLarge
    body = await _all(request.receive, limits.max_body_bytes)
    check_depth(body, limits.max_depth)
    return body


async def _all(receive: Receive, most: int) -> bytes:
    """Litestar's `body()` reads through a generator what nearly always comes in one piece."""
    pieces: list[bytes] = []
    size = 0
    while (message := await receive())["type"] == "http.request":
        pieces.append(message["body"])
        size += len(message["body"])
        if size > most:
            raise RequestEntityTooLarge
        if not message.get("more_body", False):
            return b"".join(pieces)
    raise ClientDisconnectedError


def understand(request: ServerRequest, body: bytes, kind: type[S]) -> S:
    """As `read_body`, of a body that was received."""
    decoded = decode(body, kind)
    unknown = unknown_fields(decode(body, object), decoded)
    if unknown and request.config.server.strict_fields:
        raise InvalidRequestError(f"Unknown parameter: '{unknown[0][:200]}'.", param=unknown[0])
    request.notes.ignored = unknown
    return decoded


def decode(body: bytes, kind: type[S]) -> S:
    """`body` as a `kind`.

    Raises:
        InvalidRequestError: `param` is the path of what does not fit, as in `messages[0].content`.
    """
    try:
        body.decode()  # msgspec checks only the strings it keeps
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as exc:
        message, param = _locate(str(exc))
        raise InvalidRequestError(message[:_LONGEST_MESSAGE], param=param) from exc
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise InvalidRequestError("The body is not valid JSON in UTF-8.") from exc


def _locate(said: str) -> tuple[str, str | None]:
    """msgspec's words -> ours and the path; a field that is missing ends its own path."""
    what, _, where = said.partition(" - at ")
    path = re.sub(r".*`\$\.?([^`]*)`$", r"\1", where).replace("[...]", "")
    missing = _MISSING.search(what)
    if missing:
        path = f"{path}.{missing[1]}" if path else missing[1]
        return f"Missing required parameter: '{path}'.", path
    return (f"'{path}': {what}." if path else f"{what}."), path or None


def unknown_fields(raw: Any, decoded: Any) -> tuple[str, ...]:
    """Paths of the keys in `raw` that `decoded`, made of the same JSON, has no field for.

    Dicts in `decoded` are free-form and not looked into.
    """
    unknown: list[str] = []
    _compare(raw, decoded, "", unknown)
    return tuple(unknown)


def _compare(raw: Any, decoded: Any, path: str, unknown: list[str]) -> None:
    if isinstance(decoded, Struct) and isinstance(raw, dict):
        _compare_keys(cast(dict[str, Any], raw), decoded, f"{path}." if path else "", unknown)
    elif isinstance(decoded, _LISTS) and isinstance(raw, list):
        for at, value in enumerate(cast(list[Any], raw)):
            if isinstance(value, _NESTED):
                _compare(value, decoded[at], f"{path}[{at}]", unknown)


def _compare_keys(raw: dict[str, Any], decoded: Struct, prefix: str, unknown: list[str]) -> None:
    known = _names(type(decoded))
    for key, value in raw.items():
        if key not in known:
            unknown.append(prefix + key)
        elif isinstance(value, _NESTED):
            _compare(value, getattr(decoded, known[key]), prefix + key, unknown)


@cache
def _names(kind: type[Struct]) -> dict[str, str]:
    """Encoded name -> name; the tag's, too. Kept: `fields` evaluates every annotation anew."""
    tag = kind.__struct_config__.tag_field
    tagged = {tag: tag} if tag is not None else {}
    return tagged | {field.encode_name: field.name for field in fields(kind)}

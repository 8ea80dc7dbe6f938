"""JSON bodies as wire Structs: strict types, and a list of the fields that no Struct has."""

import asyncio
import re
from functools import cache
from typing import Any, TypeVar, cast

import msgspec
from litestar.exceptions.http_exceptions import RequestEntityTooLarge
from litestar.types import Receive
from msgspec import Struct
from msgspec.structs import fields

from adapters.errors import InvalidRequestError
from proxy.config import ServerConfig
from proxy.errors import ClientDisconnectedError
from proxy.http.body_scan import NOT_JSON, PIECE, BodyLimitError, BodyScan
from proxy.http.gates import Fields

S = TypeVar("S")

JSONObject = dict[str, Any]

_FLOAT_FOR_INT = re.compile(r"Expected `int\b.*, got `float`")
_MISSING = re.compile(r"missing required field `([^`]*)`")
_MAX_MESSAGE_LENGTH = 300
_NESTED = (dict, list)
"""Types of JSON values that contain fields, at any depth."""
_LISTS = (list, tuple)


async def receive_body(receive: Receive, headers: Fields, config: ServerConfig) -> bytes:
    """Receive a body within the limits of size, nesting depth and number of values.

    A large body is scanned in pieces, between which other requests have their turn.

    Raises:
        RequestEntityTooLarge: it or its `Content-Length` exceeds `max_body_bytes`.
        ClientDisconnectedError: the client disconnected before its end.
        InvalidRequestError: as `feed`.
    """
    length = headers.get("content-length", "")
    if length.isdecimal() and int(length) > config.max_body_bytes:
        raise RequestEntityTooLarge
    scan = BodyScan(config.max_depth)
    size = 0
    while (message := await receive())["type"] == "http.request":
        data = message["body"]
        size += len(data)
        if size > config.max_body_bytes:
            raise RequestEntityTooLarge
        await feed(scan, data)
        if not message.get("more_body", False):
            body = scan.end()
            if size > PIECE:  # 30 MB take 20 ms here and 40 ms in the decoder.
                await asyncio.sleep(0)
            return body
    raise ClientDisconnectedError


async def feed(scan: BodyScan, data: bytes) -> None:
    """Scan `data` in pieces, between which other requests have their turn.

    Raises:
        InvalidRequestError: too deep, too many values, or not UTF-8; `param` is the field of the
            body in which a limit is exceeded.
    """
    try:
        for at in range(0, len(data), PIECE):
            if at:
                await asyncio.sleep(0)
            scan.feed(data[at : at + PIECE])
    except BodyLimitError as exceeded:
        raise await asyncio.to_thread(scan.to_error, exceeded) from None


def decode(body: bytes, kind: type[S]) -> S:
    """Decode `body`, of which `BodyScan` has checked the UTF-8, as a `kind`.

    Raises:
        InvalidRequestError: `param` is the path of the value that does not fit, as in
            `messages[0].content`.
    """
    try:
        try:
            return msgspec.json.decode(body, type=kind)
        except msgspec.ValidationError as exc:
            if not _FLOAT_FOR_INT.match(str(exc)):
                raise
        return msgspec.convert(whole_numbers(msgspec.json.decode(body)), kind, str_keys=True)
    except msgspec.ValidationError as exc:
        raise _invalid(exc, "") from exc
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise InvalidRequestError(NOT_JSON) from exc


def convert(value: Any, kind: type[S], path: str = "") -> S:
    """Convert decoded JSON, which stands at `path` of a body, to a `kind`.

    Raises:
        InvalidRequestError: as `decode`.
    """
    try:
        try:
            return msgspec.convert(value, kind, str_keys=True)
        except msgspec.ValidationError as exc:
            if not _FLOAT_FOR_INT.match(str(exc)):
                raise
        return msgspec.convert(whole_numbers(value), kind, str_keys=True)
    except msgspec.ValidationError as exc:
        raise _invalid(exc, path) from exc


def convert_texts(value: Any, kind: type[S]) -> S:
    """Convert texts, such as those of a query, to a `kind`; errors as in `decode`."""
    try:
        return msgspec.convert(value, kind, strict=False)
    except msgspec.ValidationError as exc:
        raise _invalid(exc, "") from exc


def whole_numbers(value: Any) -> Any:
    """Return the JSON `value` with an integer for each float that is one, such as 100.0.

    JavaScript and YAML make no difference between them, and JSON Schema calls both integers.
    """
    match value:
        case float() if value.is_integer():
            return int(value)
        case dict():
            return {key: whole_numbers(each) for key, each in cast(JSONObject, value).items()}
        case list():
            return [whole_numbers(each) for each in cast(list[Any], value)]
        case _:
            return value


def _invalid(error: msgspec.ValidationError, path: str) -> InvalidRequestError:
    message, param = _locate(str(error), path)
    return InvalidRequestError(message[:_MAX_MESSAGE_LENGTH], param=param)


def _locate(text: str, outer: str) -> tuple[str, str | None]:
    """Split msgspec's message into a message and a path, which includes a missing field.

    `outer` is the path of the value that msgspec calls `$`.
    """
    message, _, location = text.partition(" - at ")
    path = re.sub(r".*`\$\.?([^`]*)`$", r"\1", location).replace("[...]", "")
    path = outer + ("." if outer and path and path[0] != "[" else "") + path
    missing = _MISSING.search(message)
    if missing:
        path = f"{path}.{missing[1]}" if path else missing[1]
        return f"Missing required parameter: '{path}'.", path
    return (f"'{path}': {message}." if path else f"{message}."), path or None


def unknown_fields(raw: Any, decoded: Any) -> tuple[str, ...]:
    """List the paths of keys in `raw` that `decoded`, made of the same JSON, has no field for.

    Dicts in `decoded` are free-form and not looked into.
    """
    unknown: list[str] = []
    _compare(raw, decoded, "", unknown)
    return tuple(unknown)


def _compare(raw: Any, decoded: Any, path: str, unknown: list[str]) -> None:
    if isinstance(decoded, Struct) and isinstance(raw, dict):
        known = _names(type(decoded))
        for key, value in cast(dict[str, Any], raw).items():
            name = f"{path}.{key}" if path else key
            if key not in known:
                unknown.append(name)
            elif isinstance(value, _NESTED):
                _compare(value, getattr(decoded, known[key]), name, unknown)
    elif isinstance(decoded, _LISTS) and isinstance(raw, list):
        for at, value in enumerate(cast(list[Any], raw)):
            if isinstance(value, _NESTED):
                _compare(value, decoded[at], f"{path}[{at}]", unknown)


@cache
def _names(kind: type[Struct]) -> dict[str, str]:
    """Map encoded names to field names, the tag's included. Cached: `fields` is slow."""
    tag = kind.__struct_config__.tag_field
    tagged = {tag: tag} if tag is not None else {}
    return tagged | {field.encode_name: field.name for field in fields(kind)}

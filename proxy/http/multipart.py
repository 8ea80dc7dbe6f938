"""Bodies of type `multipart/form-data`, parsed as they arrive."""

# pyright: basic

import re
from collections.abc import AsyncIterator
from typing import Any

import multipart
from litestar.exceptions.http_exceptions import RequestEntityTooLarge
from litestar.types import Receive
from msgspec import Struct

from adapters.errors import InvalidRequestError
from proxy.config import ServerConfig
from proxy.errors import ClientDisconnectedError
from proxy.http.gates import ContentTypes, Fields

MULTIPART_TYPES: ContentTypes = frozenset({"multipart/form-data"})
_MAX_PARTS = 64
_MAX_FIELD_BYTES = 256 * 1024
"""Bytes of one part that is no file."""
_INDEX = re.compile(r"\[\d*\]$")
"""The ending of the name of a list: `[]`, or the place of the value."""


class UploadedFile(Struct, frozen=True):
    name: str
    content_type: str
    data: bytes


class Form(Struct, frozen=True):
    fields: dict[str, list[str]]
    """Values by name, without what clients put after the names of lists."""
    files: dict[str, UploadedFile]


async def receive_form(
    receive: Receive,
    headers: Fields,
    config: ServerConfig,
    max_file_bytes: int,
    files: frozenset[str] = frozenset(),
) -> Form:
    """Receive a form; a file of more than `max_file_bytes` is refused while it arrives.

    `files`: names of parts that are files even if the client sends no file name.

    Raises:
        RequestEntityTooLarge: the body exceeds `max_body_bytes`.
        ClientDisconnectedError: the client disconnected before its end.
        InvalidRequestError: it is malformed, or a part is too large; `param` is the part.
    """
    boundary = multipart.parse_options_header(headers.get("content-type", ""))[1].get("boundary")
    if not boundary:
        raise InvalidRequestError("The content type multipart/form-data has no boundary.")
    form = Form({}, {})
    try:
        with multipart.PushMultipartParser(boundary, max_segment_count=_MAX_PARTS) as parser:
            reader = _Reader(form, max_file_bytes, files)
            async for piece in _pieces(receive, headers, config):
                for event in parser.parse(piece):
                    reader.read(event)
    except multipart.ParserLimitReached as exc:
        raise InvalidRequestError(
            f"The form has more than {_MAX_PARTS} parts, or a part with too many headers."
        ) from exc
    except multipart.MultipartError as exc:
        raise InvalidRequestError("The body is not valid multipart/form-data.") from exc
    except UnicodeDecodeError as exc:
        raise InvalidRequestError("A field of the form is not valid UTF-8.") from exc
    return form


class _Reader:
    """Collects the parser's events: a segment's head, pieces of its body, `None` at its end."""

    def __init__(self, form: Form, max_file_bytes: int, files: frozenset[str]) -> None:
        self._form = form
        self._max_file_bytes = max_file_bytes
        self._files = files
        self._head: Any = None
        self._body = bytearray()

    def read(self, event: Any) -> None:
        if event is None:
            self._add()
        elif isinstance(event, bytes | bytearray | memoryview):
            self._body += event
            self._check()
        else:
            self._head, self._body = event, bytearray()

    def _check(self) -> None:
        limit = self._max_file_bytes if self._is_file() else _MAX_FIELD_BYTES
        if len(self._body) > limit:
            name = self._head.name
            raise InvalidRequestError(
                f"'{name[:100]}' is larger than {limit} bytes, the maximum.", param=name[:100]
            )

    def _is_file(self) -> bool:
        return self._head.filename is not None or self._head.name in self._files

    def _add(self) -> None:
        name = _INDEX.sub("", self._head.name)
        if self._is_file():
            data = bytes(self._body)
            kind = self._head.header("Content-Type", "")
            self._form.files[name] = UploadedFile(self._head.filename or "", kind, data)
        else:
            self._form.fields.setdefault(name, []).append(self._body.decode())


async def _pieces(receive: Receive, headers: Fields, config: ServerConfig) -> AsyncIterator[bytes]:
    length = headers.get("content-length", "")
    if length.isdecimal() and int(length) > config.max_body_bytes:
        raise RequestEntityTooLarge
    size = 0
    while (message := await receive())["type"] == "http.request":
        size += len(message["body"])
        if size > config.max_body_bytes:
            raise RequestEntityTooLarge
        if message["body"]:
            yield message["body"]
        if not message.get("more_body", False):
            return
    raise ClientDisconnectedError

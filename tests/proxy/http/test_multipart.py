"""Forms with files, as they arrive."""

from typing import Any

import pytest
from litestar.exceptions.http_exceptions import RequestEntityTooLarge

from adapters.errors import InvalidRequestError
from proxy.config import ServerConfig
from proxy.errors import ClientDisconnectedError
from proxy.http.multipart import Form, UploadedFile, receive_form

TYPE = {"content-type": "multipart/form-data; boundary=xyz"}
FIELD = b'--xyz\r\nContent-Disposition: form-data; name="model"\r\n\r\nwhisper\r\n'
LIST = b'--xyz\r\nContent-Disposition: form-data; name="include[]"\r\n\r\n%b\r\n'
FILE = (
    b'--xyz\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n'
    b"Content-Type: audio/wav\r\n\r\n%b\r\n"
)
END = b"--xyz--\r\n"


async def read(body: bytes, *, step: int = 7, limit: int = 1000, **config: Any) -> Form:
    pieces = [body[at : at + step] for at in range(0, len(body), step)]

    async def receive() -> Any:
        if not pieces:
            return {"type": "http.disconnect"}
        piece = pieces.pop(0)
        return {"type": "http.request", "body": piece, "more_body": bool(pieces)}

    return await receive_form(receive, TYPE, ServerConfig(**config), limit)


async def test_fields_lists_and_a_file():
    body = FIELD + LIST % b"a" + LIST % b"b" + FILE % b"\x00--xy\r\n-" + END
    assert await read(body) == Form(
        {"model": ["whisper"], "include": ["a", "b"]},
        {"file": UploadedFile("a.wav", "audio/wav", b"\x00--xy\r\n-")},
    )


async def test_large_file_is_refused_while_it_arrives():
    with pytest.raises(InvalidRequestError, match="'file' is larger than 1000 bytes") as caught:
        await read(FILE % bytes(1001), step=64)
    assert caught.value.param == "file"


async def test_large_body_is_refused():
    with pytest.raises(RequestEntityTooLarge):
        await read(FILE % bytes(500), step=64, max_body_bytes=300)


@pytest.mark.parametrize("body", [b"junk", FIELD, END[:-6], b"--xyz\r\n\r\nx\r\n" + END])
async def test_malformed_form_is_refused(body: bytes):
    with pytest.raises(InvalidRequestError):
        await read(body)


@pytest.mark.parametrize(
    "body", [LIST % b"a" * 65 + END, b"--xyz\r\n" + b"X: y\r\n" * 100 + b"\r\nx\r\n" + END]
)
async def test_form_beyond_a_limit_is_refused_by_it(body: bytes):
    with pytest.raises(InvalidRequestError, match="more than 64 parts, or a part with too many"):
        await read(body)


async def test_field_that_is_no_text_is_refused():
    with pytest.raises(InvalidRequestError, match="not valid UTF-8"):
        await read(LIST % b"\xff" + END)


async def test_client_that_disconnects():
    async def receive() -> Any:
        return {"type": "http.disconnect"}

    with pytest.raises(ClientDisconnectedError):
        await receive_form(receive, TYPE, ServerConfig(), 1000)


async def test_content_type_without_a_boundary_is_refused():
    async def receive() -> Any:
        raise AssertionError("nothing is read")

    fields = {"content-type": "multipart/form-data"}
    with pytest.raises(InvalidRequestError, match="no boundary"):
        await receive_form(receive, fields, ServerConfig(), 1000)

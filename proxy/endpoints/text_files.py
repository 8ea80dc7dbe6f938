"""Files within messages: a file of text becomes a part of the prompt, after its name."""

from adapters.errors import InvalidRequestError, UnsupportedParameterError
from adapters.request import TextPart
from proxy.base64_text import decode_pieces

_PDF = b"%PDF-"
"""Begins every PDF; one without images may be valid UTF-8."""


def to_text_part(data: str, name: str | None, path: str) -> TextPart:
    """Read a file in base64, alone or in a `data:` URL.

    Its bytes decide whether it is text: clients send many media types for text, or none.

    Raises:
        UnsupportedParameterError: it is no text; `param` is `path`.
        InvalidRequestError: it is no base64.
    """
    text = _decode(data, path)
    return TextPart(f"{name}\n{text}" if name else text)


def _decode(data: str, path: str) -> str:
    try:
        content = b"".join(decode_pieces(data, data.find(",") + 1))
    except ValueError as exc:
        message = f"'{path}' must be base64, or a data: URL with base64."
        raise InvalidRequestError(message, param=path) from exc
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        raise not_text(path) from exc
    if content.startswith(_PDF) or "\0" in text:
        raise not_text(path)
    return text


def not_text(path: str) -> UnsupportedParameterError:
    return UnsupportedParameterError(
        f"'{path}' is not supported: files have to be text in UTF-8, sent with the request.",
        param=path,
    )

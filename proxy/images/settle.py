"""Every image of a request as a data URL of a size that a decoder can bear."""

import asyncio
import base64
import binascii
from collections.abc import Coroutine, Iterable, Mapping
from typing import Any, TypeVar

from msgspec.structs import replace

from adapters.errors import BackendError, InvalidRequestError
from adapters.request import GenerationRequest, ImagePart, Message
from proxy.config import ImagesConfig
from proxy.images.header import Header, read_header

T = TypeVar("T")
Place = tuple[int, int]
"""Message and part."""
_PIECE = 1 << 18
"""Characters; a multiple of four, which are three bytes."""


def has_images(request: GenerationRequest) -> bool:
    return isinstance(request.prompt, tuple) and any(each.has_images for each in request.prompt)


async def settle_images(request: GenerationRequest, config: ImagesConfig) -> GenerationRequest:
    """`request` with its images fetched and checked; parts and messages keep their order.

    Raises:
        UnsupportedParameterError: an image would have to be fetched from where it may not be.
        InvalidRequestError: there are too many, one is too large, or is none. Of one image
            `param` is its place, as `image_at` writes it.
    """
    messages = request.prompt
    if not isinstance(messages, tuple):
        return request
    found = _images(messages)
    if len(found) > config.max_count:
        raise _wrong(f"{len(found)} images are more than the {config.max_count} that are allowed.")
    try:
        async with asyncio.timeout(config.timeout):
            settled = await _together(_at(*at, image, config) for at, image in found.items())
    except TimeoutError:
        raise _wrong("Fetching the images took too long.") from None
    return replace(request, prompt=_with(messages, dict(zip(found, settled, strict=True))))


def _images(messages: tuple[Message, ...]) -> dict[Place, ImagePart]:
    return {
        (at, place): part
        for at, message in enumerate(messages)
        for place, part in enumerate(message.content)
        if isinstance(part, ImagePart)
    }


def _with(messages: tuple[Message, ...], images: dict[Place, ImagePart]) -> tuple[Message, ...]:
    changed = {at: list(messages[at].content) for at, _ in images}
    for (at, place), image in images.items():
        changed[at][place] = image
    return tuple(
        replace(each, content=tuple(changed[at])) if at in changed else each
        for at, each in enumerate(messages)
    )


async def _together(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """The results in order. The first failure ends the others, and is raised alone."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(each) for each in work]
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None
    return [task.result() for task in tasks]


async def _at(message: int, place: int, image: ImagePart, config: ImagesConfig) -> ImagePart:
    try:
        return await _image(image, config)
    except BackendError as error:
        error.param = image_at(message, place)
        raise


async def _image(part: ImagePart, config: ImagesConfig) -> ImagePart:
    if part.url[:5].lower() != "data:":
        return ImagePart(await _fetched(part.url, config))
    await asyncio.to_thread(_check_url, part.url, config)
    return part


async def _fetched(url: str, config: ImagesConfig) -> str:
    # Here: most servers never fetch anything, and do without the library.
    from proxy.images.fetch import Fetcher

    data = await Fetcher(config).fetch(url)
    header = _check(data, config)
    return f"data:{header.media_type};base64,{base64.b64encode(data).decode()}"


def _check_url(url: str, config: ImagesConfig) -> None:
    _check(_data(url), config)


def _data(url: str) -> bytes:
    head, comma, text = url.partition(",")
    if not comma or not head.lower().endswith(";base64"):
        raise _wrong("An image is no base64 data: URL.")
    try:
        return _decoded("".join(text.split()))
    except (binascii.Error, ValueError):
        raise _wrong("An image is no base64 data: URL.") from None


def _decoded(text: str) -> bytes:
    """Piece by piece: threads take turns between them, and 20 MB at once hold up every answer."""
    pieces = range(0, len(text), _PIECE)
    return b"".join([base64.b64decode(text[at : at + _PIECE], validate=True) for at in pieces])


def _check(data: bytes, config: ImagesConfig) -> Header:
    """Whatever its URL says it is: decoders look at the bytes, and so does this."""
    if len(data) > config.max_bytes:
        raise _wrong(f"An image has more than {config.max_bytes} bytes.")
    header = read_header(data)
    if header is None:
        raise _wrong("An image is no PNG, JPEG, GIF or WebP, or is not whole.")
    if header.moves:
        raise _wrong("An image has several frames: send the one that matters.")
    if min(header.width, header.height) < config.min_side:
        raise _wrong(f"An image has a side of less than {config.min_side} pixels.")
    if header.width * header.height > config.max_pixels:
        raise _wrong(f"An image has more than {config.max_pixels} pixels.")
    return header


def _wrong(message: str) -> InvalidRequestError:
    return InvalidRequestError(message, param="images")


def image_at(message: int, part: int) -> str:
    """In the words of the contract."""
    return f"prompt[{message}].content[{part}]"


def path_of_image(param: str, paths: Mapping[str, str]) -> str | None:
    """The client's name for the image that `param` blames; `None` where it blames none.

    `paths` leads there from `image_at` of each image of the request. An engine that takes no
    images, or not this one, does not say which: it can be told only where there is no other.
    """
    if param == "images" and len(paths) == 1:
        return next(iter(paths.values()))
    return paths.get(param)

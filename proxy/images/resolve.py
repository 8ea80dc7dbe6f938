"""Replace every image of a request by a validated data URL."""

import asyncio
import base64
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from msgspec.structs import replace

from adapters.errors import BackendError, InvalidRequestError
from adapters.request import GenerationRequest, ImagePart, Message
from proxy.base64_text import compact_pieces, decode_pieces
from proxy.config import ImagesConfig
from proxy.images.header import Header, read_header

T = TypeVar("T")
Fetch = Callable[[str, ImagesConfig], Awaitable[bytes]]
"""Downloads the image at a URL that is no data URL; errors as `Fetcher.fetch`."""
Place = tuple[int, int]
"""Index of the message, index of the part."""
_LONGEST_SHAPE = 200
"""Length of an image in its widths. Processors of models enlarge the shorter side, to 336 pixels
for example, so that a strip of a few kilobytes would take gigabytes; those of Qwen refuse it."""
_NOT_BASE64 = "An image is not a valid base64 data: URL."
_DECODERS = ThreadPoolExecutor(2, "pictures")
"""Two pictures are decoded at a time, of all requests, so that many requests do not take the memory
of all of them."""


def has_images(request: GenerationRequest) -> bool:
    return isinstance(request.prompt, tuple) and any(
        message.has_images for message in request.prompt
    )


async def fetch_image(url: str, config: ImagesConfig) -> bytes:
    """Download from the web; errors as `Fetcher.fetch`."""
    # Imported here: most servers never download images and do not need httpx for it.
    from proxy.images.fetch import Fetcher

    return await Fetcher(config).fetch(url)


async def resolve_images(
    request: GenerationRequest, config: ImagesConfig, fetch: Fetch = fetch_image
) -> GenerationRequest:
    """Return `request` with all images downloaded and validated, in the same order.

    Raises:
        UnsupportedParameterError: the config does not allow the URL of an image.
        InvalidRequestError: there are too many images, or one is invalid or too large. If the error
            is about one image, `param` is its place as written by `image_at`.
    """
    messages = request.prompt
    if not isinstance(messages, tuple):
        return request
    images = {
        (at, place): part
        for at, message in enumerate(messages)
        for place, part in enumerate(message.content)
        if isinstance(part, ImagePart)
    }
    if len(images) > config.max_count:
        raise _invalid(
            f"The request has {len(images)} images; at most {config.max_count} are allowed."
        )
    try:
        async with asyncio.timeout(config.timeout):
            validated = await _gather(
                _validate(place, image, config, fetch) for place, image in images.items()
            )
    except TimeoutError:
        raise _invalid(
            f"Downloading the images took too long: more than {config.timeout:g} s."
        ) from None
    return replace(
        request, prompt=_replace_images(messages, dict(zip(images, validated, strict=True)))
    )


def _replace_images(
    messages: tuple[Message, ...], images: dict[Place, ImagePart]
) -> tuple[Message, ...]:
    changed = {at: list(messages[at].content) for at, _ in images}
    for (at, place), image in images.items():
        changed[at][place] = image
    return tuple(
        replace(message, content=tuple(changed[at])) if at in changed else message
        for at, message in enumerate(messages)
    )


async def _gather(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Run `work` concurrently and return the results in order.

    The first failure cancels the rest and is raised without an `ExceptionGroup`.
    """
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(coroutine) for coroutine in work]
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None
    return [task.result() for task in tasks]


async def _validate(
    place: Place, image: ImagePart, config: ImagesConfig, fetch: Fetch
) -> ImagePart:
    try:
        if image.url[:5].lower() != "data:":
            return ImagePart(_to_data_url(await fetch(image.url, config), config))
        loop = asyncio.get_running_loop()
        return ImagePart(await loop.run_in_executor(_DECODERS, _checked_url, image.url, config))
    except BackendError as error:
        error.param = image_at(*place)
        raise


def _checked_url(url: str, config: ImagesConfig) -> str:
    """Return `url`, a valid image, with its head in small letters and no space in its base64."""
    data = _decode(url, config.max_bytes)
    _check(data, config)
    begin = url.find(",") + 1
    head = url[:begin].lower()
    is_compact = len(url) - begin == (len(data) + 2) // 3 * 4
    if is_compact and url.startswith(head):
        return url
    return head + "".join(compact_pieces(url, begin))


def _to_data_url(data: bytes, config: ImagesConfig) -> str:
    header = _check(data, config)
    return f"data:{header.media_type};base64,{base64.b64encode(data).decode()}"


def _decode(url: str, max_bytes: int) -> bytearray:
    """Decode without copies: a picture is held once, beside its text.

    Raises:
        InvalidRequestError: it is no base64 data URL, or has more than `max_bytes`.
    """
    begin = url.find(",") + 1
    if not begin or not url[: begin - 1].lower().endswith(";base64"):
        raise _invalid(_NOT_BASE64)
    data = bytearray()
    try:
        for piece in decode_pieces(url, begin):
            data += piece
            if len(data) > max_bytes:
                raise _invalid(f"An image has more than {max_bytes} bytes.")
        return data
    except ValueError:
        raise _invalid(_NOT_BASE64) from None


def _check(data: bytes | bytearray, config: ImagesConfig) -> Header:
    """Check the bytes, as decoders do, and not the media type of the URL."""
    if len(data) > config.max_bytes:
        raise _invalid(f"An image has more than {config.max_bytes} bytes.")
    header = read_header(data)
    if header is None:
        raise _invalid("An image is not a complete PNG, JPEG, GIF or WebP file.")
    if header.animated:
        raise _invalid("An image has several frames: send a single frame.")
    if min(header.width, header.height) < config.min_side:
        raise _invalid(f"An image has a side of less than {config.min_side} pixels.")
    if max(header.width, header.height) > _LONGEST_SHAPE * min(header.width, header.height):
        raise _invalid(f"An image is more than {_LONGEST_SHAPE} times as long as it is wide.")
    if header.width * header.height > config.max_pixels:
        raise _invalid(f"An image has more than {config.max_pixels} pixels.")
    return header


def _invalid(message: str) -> InvalidRequestError:
    return InvalidRequestError(message, param="images")


def image_at(message: int, part: int) -> str:
    """Format the place of an image as backends do in the `param` of an error."""
    return f"prompt[{message}].content[{part}]"


def path_of_image(param: str, paths: Mapping[str, str]) -> str | None:
    """Translate `param` of an error to the client's path of the image; `None` if there is none.

    `paths` maps `image_at` of each image of the request to the path. The `param` of a backend that
    rejects an image is `images`, which identifies the image only if the request has a single one.
    """
    if param == "images" and len(paths) == 1:
        return next(iter(paths.values()))
    return paths.get(param)

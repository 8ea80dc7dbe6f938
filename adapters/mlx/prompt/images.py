"""Prompts with images: rendered by the template, expanded by the processor of the model.

Images are decoded and scaled on a thread of their own, which takes up to a second for a large one;
text is rendered and tokenized where that of other requests is.
"""

import asyncio
from base64 import b64decode
from concurrent.futures import Executor

from adapters.errors import InvalidRequestError, UnsupportedParameterError
from adapters.mlx.models.load import LoadedModel
from adapters.mlx.prompt.chat import Prompt, Rendered, render, render_text, tokenize, with_thinking
from adapters.mlx.vision.protocol import ImagePrompt
from adapters.request import GenerationRequest, ImagePart


async def render_prompt(
    loaded: LoadedModel, request: GenerationRequest, tokenizing: Executor
) -> Prompt:
    """Render and tokenize the prompt, with its images if it has some.

    Raises:
        InvalidRequestError: an image, or where it stands, is not for this model; and see `render`.
        UnsupportedParameterError: the model takes no images.
    """
    loop, messages = asyncio.get_running_loop(), request.prompt
    if not isinstance(messages, tuple) or not any(message.has_images for message in messages):
        return await loop.run_in_executor(tokenizing, render, loaded, request)
    if loaded.vision is None or loaded.vision_thread is None:
        reason = f": {loaded.blind}" if loaded.blind else ""
        raise UnsupportedParameterError(
            f"'{request.model}' takes no images{reason}.", param="images"
        )
    rendered = await loop.run_in_executor(tokenizing, render_text, loaded, request, messages)
    images = await loop.run_in_executor(loaded.vision_thread, _read, loaded, rendered, tokenizing)
    prompt = await loop.run_in_executor(
        tokenizing, with_thinking, loaded, request, list(images.ids)
    )
    if images.end >= len(prompt.ids):
        raise InvalidRequestError(
            "The prompt ends with an image: the model needs text after it.", param="messages"
        )
    return prompt._replace(rewritten=rendered.rewritten, images=images)


def _read(loaded: LoadedModel, rendered: Rendered, tokenizing: Executor) -> ImagePrompt:
    def encode(text: str) -> list[int]:
        # Tokenizers are not for two threads at once.
        job = tokenizing.submit(tokenize, loaded, text, is_hidden=rendered.is_hidden)
        return job.result()

    assert loaded.vision is not None  # noqa: S101 - checked by the caller.
    return loaded.vision.read(rendered.text, [*map(_to_bytes, rendered.images)], encode)


def _to_bytes(image: ImagePart) -> bytes:
    """Decode a data URL; the proxy has validated it for requests of clients.

    Raises:
        InvalidRequestError: it is none.
    """
    head, comma, text = image.url.partition(",")
    try:
        if not (comma and head.startswith("data:") and head.lower().endswith(";base64")):
            raise ValueError("no data URL")
        return b64decode("".join(text.split()), validate=True)
    except ValueError:
        raise InvalidRequestError(
            "An image is not a valid base64 data: URL.", param="images"
        ) from None

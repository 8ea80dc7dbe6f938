"""Placement of images among the texts of a message.

Ollama's messages have one text and a list of images, which it puts before the text, one directly
after the other. Where it renders a chat with a template in Go, each `[img]` in the text is the
place of the next image; elsewhere the same is five characters of text. One image before or after
all text needs no place.

Two images with nothing between them are more than a matter of style. Where a model has no token of
its own around an image (LLaVA), llama-server fails at every prompt that shares exactly the first of
them with the prompt before.
"""

from itertools import groupby

from msgspec.structs import replace

from adapters.request import ImagePart, Message, TextPart

_PLACE = TextPart("[img]")


def placed(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """Return the messages with `[img]` at the places of their images."""
    result: list[Message] = []
    for message in messages:
        if is_mixed(message):
            words = (_PLACE if isinstance(part, ImagePart) else part for part in message.content)
            message = replace(message, content=(*words, *message.images))
        result.append(message)
    return tuple(result)


def is_mixed(message: Message) -> bool:
    """True where a message has several images, or one between texts, and no text has `[img`."""
    if not message.has_images:
        return False
    turns = [kind for kind, _ in groupby(message.content, key=type)]
    return (len(message.images) > 1 or len(turns) > 2) and "[img" not in message.text

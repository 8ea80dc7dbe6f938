"""Images among texts, and beside each other.

Ollama's messages have one text and a list of images, which it puts before the text, one directly
after the other. Where it renders a chat by a template in Go, each `[img]` in the text is the place
of the next image; elsewhere the same is read as five characters. What says only "look at this"
needs no place: one image before or after all words stays where Ollama puts it.

Two images with nothing between them are more than a matter of style. Where a model puts no token of
its own around an image (LLaVA's), llama-server fails at every prompt that shares the first of them
with the prompt before, and no more.
"""

from itertools import groupby

from msgspec.structs import replace

from adapters.request import ContentPart, ImagePart, Message, TextPart

_PLACE = TextPart("[img]")


def placed(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """With the places of images as words of their own."""
    return tuple(_placed(message) if is_mixed(message) else message for message in messages)


def is_mixed(message: Message) -> bool:
    """It has several images, or one between words; none of the words looks like a place itself."""
    if not message.has_images:
        return False
    turns = [kind for kind, _ in groupby(message.content, key=type)]
    return (len(message.images) > 1 or len(turns) > 2) and "[img" not in message.text


def _placed(message: Message) -> Message:
    words = (_PLACE if isinstance(part, ImagePart) else part for part in message.content)
    content: tuple[ContentPart, ...] = (*words, *message.images)
    return replace(message, content=content)

"""Images among texts, where the model's template heeds their places.

Ollama's messages have one text and a list of images, which it puts before the text. Where it
renders a chat by a template in Go, each `[img]` in the text is the place of the next image;
elsewhere the same is read as five characters. What says only "look at this" needs no place: images
before or after all words stay where Ollama puts them.

Source: https://github.com/ollama/ollama/blob/main/server/prompt.go
"""

import re
from itertools import groupby

from msgspec.structs import replace

from adapters.ollama.wire import Show
from adapters.request import ContentPart, GenerationRequest, ImagePart, Message, TextPart

_PLACE = "[img]"
_BUILT_IN = re.compile(r"^(RENDERER|PARSER) ", re.MULTILINE)
"""Renderers in Ollama's own code: what they make of it has changed from version to version."""
_NONE = "{{ .Prompt }}"
"""What Ollama shows of a model without a template, whose chats llama-server renders."""


def places_images(shown: Show) -> bool:
    template = shown.template
    in_go = "{{" in template and "{%" not in template and template.strip() != _NONE
    return in_go and not _BUILT_IN.search(shown.modelfile)


def placed(request: GenerationRequest) -> GenerationRequest | None:
    """`request` with the places of its images as words of their own; `None` where none has one."""
    messages = request.prompt
    if not isinstance(messages, tuple) or not any(map(_is_mixed, messages)):
        return None
    return replace(request, prompt=tuple(_placed(m) if _is_mixed(m) else m for m in messages))


def _is_mixed(message: Message) -> bool:
    """An image between words, or words between images; none of which looks like a place itself."""
    if not message.images:
        return False
    turns = [kind for kind, _ in groupby(message.content, key=type)]
    return len(turns) > 2 and "[img" not in message.text


def _placed(message: Message) -> Message:
    words = (TextPart(_PLACE) if isinstance(each, ImagePart) else each for each in message.content)
    content: tuple[ContentPart, ...] = (*words, *message.images)
    return replace(message, content=content)

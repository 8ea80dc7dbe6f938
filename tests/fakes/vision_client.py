"""Ask a vision model in two ways: through the backend, and through mlx-vlm's own `generate`."""

import io
from base64 import b64decode
from pathlib import Path
from typing import Any, NamedTuple, cast

import mlx.core as mx
from fakes.pictures import blank, data_url, photo
from mlx_vlm.generate import stream_generate
from mlx_vlm.models.cache import make_prompt_cache
from mlx_vlm.utils import load
from PIL import Image

from adapters import sink
from adapters.events import Finished, TextDelta, Usage
from adapters.mlx.backend import MLXBackend
from adapters.request import GenerationRequest, ImagePart, Message, Sampling, TextPart

PHOTO, DARK, WIDE = photo("png"), blank(64, 64, 0), blank(140, 84)
Part = str | bytes
"""A text, or the file of an image."""


class Answer(NamedTuple):
    data: bytes
    """The text as bytes, because models with random weights write parts of characters; names of
    tokens that are in no text."""
    logprobs: tuple[float, ...]
    usage: Usage

    @property
    def cached(self) -> int:
        """Prompt tokens found in the prefix cache."""
        return self.usage.cached_tokens or 0


def user(*parts: Part, role: Any = "user") -> Message:
    content = [
        TextPart(part) if isinstance(part, str) else ImagePart(data_url(part)) for part in parts
    ]
    return Message(role=role, content=tuple(content))


def request(model: str, *messages: Message, tokens: int = 8, **fields: Any) -> GenerationRequest:
    own = {"sampling": Sampling(temperature=0.0), "top_logprobs": 0, "max_tokens": tokens}
    return GenerationRequest(model=model, prompt=messages, **(own | fields))


async def answer(backend: MLXBackend, asked: GenerationRequest) -> Answer:
    """Return the first choice."""
    data, logprobs, usage = b"", list[float](), Usage(prompt_tokens=0, completion_tokens=0)
    async for event in sink.events(backend, asked):
        if isinstance(event, TextDelta) and event.choice == 0:
            for token in event.logprobs or ():
                data += bytes(token.bytes) if token.bytes else token.token.encode()
                logprobs.append(token.logprob)
        elif isinstance(event, Finished) and event.choice == 0:
            usage = event.usage or usage
    return Answer(data, tuple(logprobs), usage)


class Reference:
    """mlx-vlm itself, on the same folder."""

    def __init__(self, folder: Path) -> None:
        self._model, self._processor = cast(Any, load(str(folder)))
        self._tokenizer = getattr(self._processor, "tokenizer", self._processor)
        own = getattr(self._processor, "image_processor", None)
        if hasattr(own, "valid_kwargs"):
            self._processor.image_processor = _WithoutTextOptions(own)

    def answer(self, *parts: Part, tokens: int = 8) -> tuple[bytes, int]:
        """Return the greedy text of a chat of one message, and the tokens of its prompt."""
        found = self.chat(user(*parts), tokens=tokens)
        return found.data, found.usage.prompt_tokens

    def chat(self, *messages: Message, tokens: int = 8) -> Answer:
        """Return the greedy answer to a chat."""
        images = [image for message in messages for image in _images(message)]
        text = self._tokenizer.apply_chat_template(
            [*map(_as_parts, messages)], tokenize=False, add_generation_prompt=True
        )
        pictures: Any = [image.convert("RGB") for image in images] or None
        results: Any = stream_generate(
            self._model, self._processor, text, image=pictures, max_tokens=tokens, temperature=0.0
        )
        steps = list(results)
        # The last one repeats the token before it.
        drawn = [step for step in steps[:-1] if step.token is not None]
        logprobs = tuple(float(step.logprobs[step.token].item()) for step in drawn)
        usage = Usage(prompt_tokens=steps[-1].prompt_tokens, completion_tokens=len(drawn))
        return Answer(b"".join(self._to_bytes(step.token) for step in drawn), logprobs, usage)

    def _to_bytes(self, token: int) -> bytes:
        """Return a byte of the vocabulary, or the name of a control token."""
        text = self._tokenizer.convert_ids_to_tokens(token)
        return bytes([_BYTES[text]]) if text in _BYTES else text.encode()


def token_answer(folder: Path, *messages: Message, tokens: int = 8) -> Answer:
    """Return the greedy answer to a chat without images of the language model of mlx-vlm alone,
    which reads tokens where `generate` reads embeddings."""
    loaded: Any = load(str(folder))
    model, tokenizer = loaded[0].language_model, loaded[1].tokenizer
    text = tokenizer.apply_chat_template(
        [*map(_as_parts, messages)], tokenize=False, add_generation_prompt=True
    )
    ids = tokenizer.encode(text, add_special_tokens=False)
    cache = make_prompt_cache(model)
    model(mx.array([ids[:-1]]), cache=cache)
    data, logprobs, token = b"", list[float](), ids[-1]
    for _ in range(tokens):
        logits = model(mx.array([[token]]), cache=cache).logits[0, -1]
        scores = logits - mx.logsumexp(logits)
        best: Any = mx.argmax(scores).item()
        token = int(best)
        if tokenizer.stopping_criteria(token):
            break
        name = tokenizer.convert_ids_to_tokens(token)
        data += bytes([_BYTES[name]]) if name in _BYTES else name.encode()
        logprob: Any = scores[token].item()
        logprobs.append(float(logprob))
    return Answer(data, tuple(logprobs), Usage(prompt_tokens=len(ids), completion_tokens=0))


def _as_parts(message: Message) -> dict[str, Any]:
    parts = [
        {"type": "text", "text": part.text} if isinstance(part, TextPart) else {"type": "image"}
        for part in message.content
    ]
    return {"role": message.role, "content": parts}


def _images(message: Message) -> list[Image.Image]:
    files = [b64decode(image.url.partition(",")[2]) for image in message.images]
    return [Image.open(io.BytesIO(file)) for file in files]


_TEXT_OPTIONS = frozenset({"padding", "padding_side", "add_special_tokens"})


class _WithoutTextOptions:
    """mlx-vlm 0.7.10 passes the tokenizer's options to the image processor of LLaVA, which
    transformers 5.23 refuses."""

    def __init__(self, processor: Any) -> None:
        self._processor = processor

    def __getattr__(self, name: str) -> Any:
        return getattr(self._processor, name)

    def __call__(self, images: Any, **options: Any) -> Any:
        own = {name: value for name, value in options.items() if name not in _TEXT_OPTIONS}
        return self._processor(images, **own)


def _bytes_of_alphabet() -> dict[str, int]:
    """Source: `bytes_to_unicode` of GPT-2's tokenizer."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [value for value in range(256) if value not in shown]
    return {chr(value): value for value in shown} | {
        chr(256 + place): value for place, value in enumerate(hidden)
    }


_BYTES = _bytes_of_alphabet()

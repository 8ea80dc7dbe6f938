"""One answer as the engine sees it: token ids in, token ids out."""

import asyncio
import secrets
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, Protocol

from msgspec import Struct

from adapters.errors import BackendError
from adapters.mlx.vision.protocol import ImagePrompt
from adapters.request import Sampling

if TYPE_CHECKING:
    # Importing it costs an idle server memory.
    import mlx.core as mx

Finish = Literal["stop", "length"]


PLAUSIBLE = 4096
"""Tokens reserved for an answer of unbounded length."""


def usual_length(context_length: int | None) -> int:
    """Return how many tokens, prompt included, memory is reserved for by default."""
    return PLAUSIBLE if context_length is None else min(context_length, PLAUSIBLE)


class LogitsProcessor(Protocol):
    """Shapes the logits of one row before a token is drawn; a grammar, for example.

    Called once per token, on the engine's thread, and never for the tokens of the prompt alone.
    A processor that raises, or sets `error`, ends its own row and no other.
    """

    error: BackendError | None
    """The reason why this row cannot go on; the logits returned with it are not drawn from."""

    def __call__(self, tokens: "mx.array", logits: "mx.array") -> "mx.array":
        """Return the logits to draw from, (1, vocabulary) like `logits`.

        `tokens` are (length,) int32, prompt and answer so far, a cached prefix included; the last
        of them may not be evaluated yet.
        """
        ...


class Sampled(Struct, frozen=True):
    """One token. `finish` is "stop" for an end token, "length" for the last one allowed."""

    token: int
    finish: Finish | None
    logprob: float | None = None
    """Natural, of the model's own distribution: before bias, penalties, grammar and temperature.
    `None` unless `Sequence.top_logprobs` is set."""
    top: tuple[tuple[int, float], ...] = ()
    """The likeliest tokens at this place and their natural logprobs, likeliest first."""


class PromptRead(Struct, frozen=True):
    """The logprobs of the prompt; comes before any token of the answer."""

    tokens: tuple[Sampled, ...]
    """All tokens of the prompt but the first, which has nothing before it."""
    finish: Finish | None = None
    """"length" where the request wants no answer."""


class ChunkRead(Struct, frozen=True):
    """A chunk of the prompt was read, and more is to be read."""

    read: int
    """Tokens of the prompt that were read so far, those from a cache included."""
    finish: Finish | None = None
    """Never an end: the answer follows."""


Post = Sampled | PromptRead | ChunkRead | BackendError | None
"""A result of a sequence; `None`: it was admitted, and its prompt is being read."""


class Sequence:
    """The prompt and the sampling of one choice. Made on the event loop, advanced by the engine."""

    receive: "Receiver"
    """Set by `Engine.submit`."""

    def __init__(
        self,
        model: str,
        prompt: list[int],
        max_tokens: int,
        sampling: Sampling,
        *,
        processors: tuple[LogitsProcessor, ...] = (),
        top_logprobs: int | None = None,
        client: str = "",
        choice: int = 0,
        bounded: bool = True,
        reports_prompt: bool = False,
        turns: tuple[int, ...] = (),
        images: ImagePrompt | None = None,
    ) -> None:
        """`bounded`: `max_tokens` is the request's own limit, not only the end of the context.

        `reports_prompt`: the first post after the admission is a `PromptRead`. Only then
        `max_tokens` may be 0.

        `turns`: lengths of beginnings of the prompt that later prompts are likely to share.
        """
        self.model = model
        self.prompt = prompt
        self.images = images
        self.keys = prompt if images is None else images.keys(prompt)
        """The prompt as the prefix cache knows it: placeholders are hashes of their images."""
        self.turns = turns
        self.max_tokens = max_tokens
        self.sampling = sampling
        self.processors = processors
        self.top_logprobs = top_logprobs
        self.reports_prompt = reports_prompt
        self.client = client
        self.choice = choice
        self.expected = len(prompt) + (max_tokens if bounded else min(max_tokens, PLAUSIBLE))
        """Tokens that memory is reserved for."""
        self.cached_tokens = 0
        """Prompt tokens found in the prefix cache; set by the engine before the first token."""
        self.entropy = secrets.randbits(64)
        self.loop = asyncio.get_running_loop()
        self.cancelled = False
        """Set on the event loop: the engine drops it before the next step."""
        self.ended = False
        """Set by the engine, with the last post."""


Receiver = Callable[[Sequence, Post], None]
"""Takes the posts of a sequence, in order, on its event loop; also posts of the step that ran while
it was released. Must not raise."""

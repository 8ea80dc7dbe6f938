"""What passes between the event loop and the engine's thread: one answer in the making."""

import asyncio
import secrets
from typing import TYPE_CHECKING, Literal, Protocol, TypeVar

from msgspec import Struct

from adapters.errors import BackendBusyError, BackendError, GenerationError
from adapters.request import Sampling

if TYPE_CHECKING:
    # Importing it costs an idle server memory.
    import mlx.core as mx

Finish = Literal["stop", "length"]


PLAUSIBLE = 4096
"""Tokens of an answer that nobody bounded; what memory is counted with."""


def usual_length(context_length: int | None) -> int:
    """Tokens of one answer with its prompt, that memory is set aside for."""
    return PLAUSIBLE if context_length is None else min(context_length, PLAUSIBLE)


class LogitsProcessor(Protocol):
    """Shapes the logits of one row before it is drawn: a grammar, say.

    Called once per token, on the engine's thread, and never for the tokens of the prompt alone.
    Whoever raises here, or sets `error`, ends its own row and no other.
    """

    error: BackendError | None
    """Why this row cannot go on; the logits returned with it are not drawn from."""

    def __call__(self, tokens: "mx.array", logits: "mx.array") -> "mx.array":
        """
        `tokens` are (length,) int32, prompt and answer so far, a cached prefix included; the last
        of them may not be evaluated yet. `logits` are (1, vocabulary), and so is what comes back.
        """
        ...


class Sampled(Struct, frozen=True):
    """One token. `finish` is "stop" where it is an end token, "length" where it is the last one."""

    token: int
    finish: Finish | None
    logprob: float | None = None
    """Natural, of the model's own distribution: before bias, penalties, grammar and temperature.
    `None` unless `Sequence.top_logprobs` asks."""
    top: tuple[tuple[int, float], ...] = ()
    """The likeliest tokens at this place and their natural logprobs, likeliest first."""


class PromptRead(Struct, frozen=True):
    """What the model thought of the prompt, which comes before any token of the answer."""

    tokens: tuple[Sampled, ...]
    """All of the prompt but the first, which nothing came before."""
    finish: Finish | None = None
    """"length" where no answer was asked for."""


Post = Sampled | PromptRead | BackendError | None
"""What comes of a sequence; `None`: it was admitted, and its prompt is being read."""
P = TypeVar("P", Sampled, PromptRead)


class Sequence:
    """Token ids in, token ids out. Made and read on the event loop, advanced by the engine."""

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
    ) -> None:
        """`bounded`: `max_tokens` is the caller's own, not only where the context ends.

        `reports_prompt`: wait for `prompt_read` first. Only then `max_tokens` may be 0.
        """
        self.model = model
        self.prompt = prompt
        self.max_tokens = max_tokens
        self.sampling = sampling
        self.processors = processors
        self.top_logprobs = top_logprobs
        self.reports_prompt = reports_prompt
        self.client = client
        self.choice = choice
        self.expected = len(prompt) + (max_tokens if bounded else min(max_tokens, PLAUSIBLE))
        """Tokens that memory is set aside for."""
        self.cached_tokens = 0
        """Prompt tokens that were not read anew; the engine fills it before the first token."""
        self.entropy = secrets.randbits(64)
        self.loop = asyncio.get_running_loop()
        self.cancelled = False
        self.ended = False
        self._mailbox: asyncio.Queue[Sampled | PromptRead | BackendError] = asyncio.Queue()
        self._turned = asyncio.Event()
        self._refusal: BackendError | None = None

    def deliver(self, post: Post) -> None:
        """On the event loop; `None` is its admission. The mailbox holds at most `max_tokens`
        small structs."""
        if isinstance(post, BackendError) and not self._turned.is_set():
            self._refusal = post
        self._turned.set()
        if post is not None:
            self.ended = isinstance(post, BackendError) or post.finish is not None
            self._mailbox.put_nowait(post)

    async def admitted(self, patience: float | None = None) -> None:
        """Wait for its turn, so many seconds at most: afterwards its prompt is being read.

        Raises:
            BackendError: it will not have one.
        """
        try:
            async with asyncio.timeout(patience):
                await self._turned.wait()
        except TimeoutError:
            raise BackendBusyError(f"No row was free within {patience:g} seconds.") from None
        if self._refusal is not None:
            raise self._refusal

    async def next(self) -> Sampled:
        """
        Raises:
            BackendError: the engine gave this sequence up.
        """
        return await self._take(Sampled)

    async def prompt_read(self) -> PromptRead:
        """
        Raises:
            BackendError: the engine gave this sequence up.
        """
        return await self._take(PromptRead)

    async def _take(self, kind: type[P]) -> P:
        post = await self._mailbox.get()
        if isinstance(post, kind):
            return post
        raise post if isinstance(post, BackendError) else GenerationError("Tokens out of order.")

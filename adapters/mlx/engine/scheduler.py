"""Scheduler of one model: queue, prefill, decode.

A step decodes one token of each answer, encodes a piece of an image, then reads one chunk of one
prompt, or of several short ones together; while many short prompts wait for few rows it only reads.
Unmergeable and quantised caches have one row at a time; nothing else differs.
"""

# pyright: basic
import logging
import time
from collections import deque
from collections.abc import Callable

import mlx.core as mx
from mlx_lm.generate import generation_stream
from mlx_lm.models.cache import make_prompt_cache
from msgspec import Struct

from adapters.config import MLXConfig
from adapters.errors import BackendBusyError, BackendError, GenerationError
from adapters.mlx.engine.admission import Budget, Group, Queue, default_budget, measure_footprint
from adapters.mlx.engine.decode import DecodeBatch, Newcomers, Read, Step
from adapters.mlx.engine.encoding import Encoding
from adapters.mlx.engine.kv_pool import Pool
from adapters.mlx.engine.prefill import Prefill, Prefills, read, width
from adapters.mlx.engine.prefix_cache import Prefix, create_prefix_cache
from adapters.mlx.engine.speculative import SpeculativeBatch
from adapters.mlx.models.load import LoadedModel
from adapters.mlx.sequence import ChunkRead, Post, PromptRead, Sequence

logger = logging.getLogger(__name__)


class PrefillChunk(Struct, frozen=True):
    """Prompt tokens that one step may read: the cost of a new prompt for the rows that decode.

    Half as many again where that finishes a prompt: a few tokens cost what many do.
    """

    alone: int
    beside_decoding: int
    together: int
    """For several short prompts, padding included, while no row decodes or the rows pause."""


def choose_prefill_chunk(config: MLXConfig) -> PrefillChunk:
    if config.prefill_chunk is not None:
        return PrefillChunk(config.prefill_chunk, config.prefill_chunk, config.prefill_chunk)
    if mx.default_device() == mx.Device(mx.cpu):
        # A cancel waits for the chunk that runs: 128 tokens of a small model take half a second.
        # Four prompts of 100 tokens are cheaper together than alone, eight are not.
        return PrefillChunk(128, 96, 400)
    return PrefillChunk(2048, 512, 512)


class Scheduler:
    def __init__(
        self,
        loaded: LoadedModel,
        config: MLXConfig,
        pool: Pool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`clock` tells seconds, for `config.max_wait`."""
        self.loaded = loaded
        self._clock = clock
        self.prefixes = create_prefix_cache(loaded, config)
        self._unkept: list[Read] = []
        is_batched = loaded.batchable and loaded.kv_bits is None and loaded.draft is None
        self.max_rows = config.max_concurrent if is_batched else 1
        self.budget = Budget(
            measure_footprint(loaded.model),
            config.kv_budget_bytes or default_budget(),
            loaded,
            pool,
        )
        self._max_wait = config.max_wait
        self._chunk = choose_prefill_chunk(config)
        self._reads_together = loaded.reads_together
        self._queue = Queue()
        self._prefills = Prefills()
        self._encodings: deque[Encoding] = deque()
        """Prompts with images: encoded one after the other, before they are read."""
        self._ready: list[Prefill] = []
        """Prompts that were read, with choices that wait for a row."""
        self._steps = 0
        self._overtaken = 0
        """Prompts that were read since the rows had their last step."""
        self._decoding = self._create_batch()

    def _create_batch(self) -> DecodeBatch:
        if self.loaded.draft is not None:
            return SpeculativeBatch(self.loaded)
        return DecodeBatch(self.loaded)

    def add(self, sequences: tuple[Sequence, ...]) -> None:
        """Queue the choices of one request."""
        self._queue.add(Group(sequences, self._clock()))

    def remove(self, sequence: Sequence) -> None:
        """Free the row of `sequence`, if it has one."""
        self._queue.remove(sequence)
        self._decoding.remove(sequence)
        for prefill in self._admitted():
            if sequence in prefill.group.waiting:
                prefill.group.waiting.remove(sequence)
                self._note(prefill)
                self._drop_if_empty(prefill)

    def step(self) -> Step:
        """Advance the rows and the prompts; sequences that ended are dropped."""
        self._steps += 1
        step = self._expire() + self._admit()
        only_reads = not self._decoding.rows or self._reads_first()
        if not only_reads:
            step += self._decoding.step()
            self._overtaken = 0
            # New rows and the other choices of older requests take turns: neither starves.
            if self._steps % 2:
                self._start_answers()
            step += self._admit()
        if self._encodings:
            step += self._encode()
        if self._prefills:
            together = self._chunk.together if only_reads else self._chunk.beside_decoding
            step += self._read(together)
        self._start_answers()
        return step

    def _reads_first(self) -> bool:
        """Return whether the rows pause for a prompt that one chunk finishes.

        A step costs about the same for one row as for eight, so steps are expensive while a burst
        of short prompts waits. Rows pause for no more prompts than there can be rows.
        """
        chunk = self._chunk_tokens()
        short = sum(prefill.pieces(chunk) <= 1 for prefill in self._prefills)
        rows = len(self._decoding.rows)
        return 0 < rows <= 2 * short and self._overtaken < self.max_rows

    def keep_prefixes(self) -> None:
        """Cache the prompts of the last step; called when its tokens have been handed over."""
        self._unkept += self._decoding.take_ended()
        with mx.stream(generation_stream):
            while self._unkept:
                self.prefixes.save(*self._unkept.pop())

    def drop_all(self) -> list[Sequence]:
        """Drop every row, after `step` raised or to unload; return the live sequences.

        In a batch that raised, caches are ahead of their tokens: it is never used again.
        """
        groups = [*self._queue.groups(), *(prefill.group for prefill in self._admitted())]
        sequences = [sequence for group in groups for sequence in group.waiting]
        sequences += [row.sequence for row in self._decoding.rows]
        self._queue.clear()
        while self._encodings:
            self._encodings.pop().close()
        self._prefills.clear()
        self._ready.clear()
        self._unkept.clear()
        self._decoding = self._create_batch()
        return sequences

    @property
    def reserved(self) -> int:
        """Bytes that are reserved for its rows."""
        return self.budget.cost(self._lengths()) + self._image_bytes()

    def __len__(self) -> int:
        """Count the sequences that wait, are read or decode."""
        reading = sum(len(prefill.group.waiting) for prefill in self._admitted())
        return len(self._queue) + reading + len(self._decoding.rows)

    def _admitted(self) -> list[Prefill]:
        """Return the prompts that are encoded or read, or that wait for rows."""
        return [*(e.prefill for e in self._encodings), *self._prefills, *self._ready]

    def _expire(self) -> Step:
        late = self._queue.expire(self._clock() - self._max_wait)
        words = f"The model was busy with other requests for {self._max_wait:g} s; retry later."
        return [(sequence, BackendBusyError(words)) for group in late for sequence in group.waiting]

    def _admit(self) -> Step:
        """Admit requests in turn while there are rows and memory for them."""
        admitted: Step = []
        while (group := self._queue.first()) is not None and self._has_room(group):
            self._queue.take()
            admitted += [(sequence, None) for sequence in group.waiting]
            admitted += self._begin(group)
        return admitted

    def _begin(self, group: Group) -> Step:
        # The logprob of a token is known only while the model reads the one before.
        may_skip = not group.reports_prompt
        prefix = self.prefixes.find(group.client, group.keys) if may_skip else Prefix()
        for sequence in group.waiting:
            sequence.cached_tokens = prefix.tokens
        cache = make_prompt_cache(self.loaded.model)
        if prefix.caches is not None:
            cache[: len(prefix.caches)] = prefix.caches
        prefill = Prefill(group, cache, prefix.tokens, self.prefixes.stops(group.keys, group.turns))
        if group.images is not None and self.loaded.vision is not None:
            model, vision = self.loaded.model, self.loaded.vision
            encoding = Encoding(prefill, vision, group.images, lambda: make_prompt_cache(model))
            self._encodings.append(encoding)
            return []
        if prefill.remaining == 0:
            return self._end_reading(prefill)
        self._prefills.add(prefill)
        return []

    def _encode(self) -> Step:
        """Do a piece of the oldest encoding; an image that fails ends its own request only."""
        encoding = self._encodings[0]
        try:
            with mx.stream(generation_stream):
                if not encoding.advance():
                    return []
        except Exception as error:
            logger.exception("an image of %s could not be encoded", self.loaded.name)
            self._encodings.popleft()
            own = isinstance(error, BackendError)
            shown = error if own else GenerationError("The engine failed while it read an image.")
            return [(sequence, shown) for sequence in encoding.prefill.group.waiting]
        prefill = self._encodings.popleft().prefill
        if prefill.remaining == 0:
            return self._end_reading(prefill)
        self._prefills.add(prefill)
        return []

    def _has_room(self, group: Group) -> bool:
        lengths = self._lengths()
        more = self._image_bytes() + group.image_bytes
        return len(lengths) < self.max_rows and self.budget.fits([*lengths, group.expected], more)

    def _image_bytes(self) -> int:
        """Return the bytes of images in prompts that are not read yet."""
        reading = [*(encoding.prefill for encoding in self._encodings), *self._prefills]
        return sum(prefill.group.image_bytes for prefill in reading)

    def _read(self, together: int) -> Step:
        """Read a chunk of the next prompts, in one pass of `together` tokens at most."""
        chunk = self._chunk_tokens()
        party = self._prefills.pick(chunk, together if self._reads_together else 0)
        # A rectangle may be wider than any of its rows, because their offsets differ.
        while len(party) > 1 and not self.budget.fits(self._lengths(least=width(party))):
            party.pop()
        if self._decoding.rows:
            self._overtaken += len(party)
        for prefill in read(self.loaded.model, party, chunk, self.loaded.kv_bits):
            self._note(prefill)
        step: Step = []
        for prefill in party:
            if prefill.remaining == 0:
                self._prefills.remove(prefill)
                step += self._end_reading(prefill)
            else:
                step.append((prefill.group.waiting[0], ChunkRead(prefill.done)))
        return step

    def _end_reading(self, prefill: Prefill) -> Step:
        """Let its choices wait for rows, unless the request wants no answer."""
        group, step = prefill.group, list[tuple[Sequence, Post]]()
        if prefill.noted is not None:
            report = PromptRead(tuple(prefill.noted), None if group.is_answered else "length")
            step += [(sequence, report) for sequence in group.waiting]
        if group.is_answered:
            self._ready.append(prefill)
        return step

    def _chunk_tokens(self) -> int:
        return self._chunk.beside_decoding if self._decoding.rows else self._chunk.alone

    def _note(self, prefill: Prefill) -> None:
        if not prefill.started:
            tokens = prefill.group.keys[: prefill.done]
            self._unkept.append((prefill.group.client, tokens, prefill.cache))

    def _start_answers(self) -> None:
        """Create rows for prompts that were read: for as many of their choices as have room."""
        newcomers: list[Newcomers] = []
        for prefill in tuple(self._ready):
            waiting = prefill.group.waiting
            count = self._rows_for(prefill, newcomers)
            now, prefill.group.waiting = waiting[:count], waiting[count:]
            if now:
                prefill.started = True
                newcomers.append(Newcomers(now, prefill.cache, bool(prefill.group.waiting)))
            self._drop_if_empty(prefill)
        if newcomers:
            self._decoding.join(newcomers)

    def _rows_for(self, prefill: Prefill, before: list[Newcomers]) -> int:
        """Return how many choices of `prefill` get a row: its own place, and those that are free
        beyond the places reserved for others or taken `before` it."""
        lengths = self._lengths(beside=prefill)
        lengths += [sequence.expected for new in before for sequence in new.sequences]
        count = min(len(prefill.group.waiting), self.max_rows - len(lengths))
        while count > 1 and not self.budget.fits([*lengths, *[prefill.group.expected] * count]):
            count -= 1
        return count

    def _lengths(self, *, beside: Prefill | None = None, least: int = 0) -> list[int]:
        """Return the lengths of all rows, and of the admitted prompts without one."""
        promised = [prefill for prefill in self._admitted() if not prefill.started]
        expected = [row.sequence.expected for row in self._decoding.rows] + [
            prefill.group.expected for prefill in promised if prefill is not beside
        ]
        return [max(tokens, least) for tokens in expected]

    def _drop_if_empty(self, prefill: Prefill) -> None:
        if prefill.group.waiting:
            return
        encoding = next((e for e in self._encodings if e.prefill is prefill), None)
        if encoding is not None:
            self._encodings.remove(encoding)
            encoding.close()
        elif prefill in self._ready:
            self._ready.remove(prefill)
        else:
            self._prefills.remove(prefill)

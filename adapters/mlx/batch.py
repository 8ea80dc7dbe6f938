"""One loaded model's share of the engine: the rows it generates, a token each per step.

`BatchLane` runs all rows together on mlx-lm's `BatchGenerator`; `SerialLane` runs one after the
other on `generate_step`, for models whose caches cannot be merged. The engine sees no difference.
"""

# pyright: basic
from collections import deque
from collections.abc import Iterator
from typing import Protocol

import mlx.core as mx
from mlx_lm.generate import BatchGenerator, generate_step
from msgspec import Struct

from adapters.config import MLXConfig
from adapters.mlx.models import LoadedModel
from adapters.mlx.sampling import create_sampler
from adapters.mlx.sequence import Finish, Sampled, Sequence

Step = list[tuple[Sequence, Sampled]]
_FINISH: dict[str | None, Finish | None] = {None: None, "stop": "stop", "length": "length"}


class PrefillChunk(Struct, frozen=True):
    """How many prompt tokens one step may read: what a newcomer costs those who decode."""

    alone: int
    beside_decoding: int


def choose_prefill_chunk(config: MLXConfig) -> PrefillChunk:
    if config.prefill_chunk is not None:
        return PrefillChunk(config.prefill_chunk, config.prefill_chunk)
    if mx.default_device() == mx.Device(mx.cpu):
        # A cancel waits for the chunk that runs: 128 tokens of a small model take half a second.
        return PrefillChunk(128, 64)
    return PrefillChunk(2048, 512)


class Lane(Protocol):
    loaded: LoadedModel

    def add(self, sequence: Sequence) -> None: ...
    def remove(self, sequence: Sequence) -> None:
        """Free the row of `sequence`; nothing happens if it has none."""
        ...

    def step(self) -> Step:
        """Advance every row that can be; the sequences that ended are gone afterwards."""
        ...

    def drop_all(self) -> list[Sequence]:
        """Forget every row, after `step` raised or to unload; says whose they were."""
        ...

    def __len__(self) -> int:
        """How many rows there are, those that wait included."""
        ...


def create_lane(loaded: LoadedModel, config: MLXConfig) -> Lane:
    kind = BatchLane if loaded.batchable else SerialLane
    return kind(loaded, config)


class BatchLane:
    def __init__(self, loaded: LoadedModel, config: MLXConfig) -> None:
        self.loaded = loaded
        self._chunk = choose_prefill_chunk(config)
        self._max_rows = config.max_concurrent
        # Prompts read together are padded to one length, which not every recurrent model of
        # mlx-lm 0.32 masks (mamba): those read one prompt at a time.
        self._max_prompts = 1 if loaded.recurrent else self._max_rows
        self._rows: dict[int, Sequence] = {}
        self._decoding: set[int] = set()
        self._generator = self._create_generator()

    def _create_generator(self) -> BatchGenerator:
        return BatchGenerator(
            self.loaded.model,
            stop_tokens=[[token] for token in self.loaded.end_tokens],
            completion_batch_size=self._max_rows,
            prefill_batch_size=self._max_prompts,
        )

    def add(self, sequence: Sequence) -> None:
        [uid] = self._generator.insert(
            [sequence.prompt],
            max_tokens=[sequence.max_tokens],
            samplers=[create_sampler(sequence.sampling, sequence.entropy)],
        )
        self._rows[uid] = sequence

    def remove(self, sequence: Sequence) -> None:
        for uid in [uid for uid, row in self._rows.items() if row is sequence]:
            self._generator.remove([uid])
            self._forget(uid)

    def step(self) -> Step:
        self._generator.prefill_step_size = self._prompt_tokens_each()
        _, responses = self._generator.next()
        self._decoding.update(response.uid for response in responses)
        step = [
            (self._rows[response.uid], Sampled(response.token, _FINISH[response.finish_reason]))
            for response in responses
        ]
        for response in responses:
            if response.finish_reason is not None:
                self._forget(response.uid)
        return step

    def drop_all(self) -> list[Sequence]:
        # A generator that raised has rows whose caches are ahead of their tokens: never reuse it.
        sequences = list(self._rows.values())
        self._generator.close()
        self._generator = self._create_generator()
        self._rows.clear()
        self._decoding.clear()
        return sequences

    def __len__(self) -> int:
        return len(self._rows)

    def _prompt_tokens_each(self) -> int:
        """The chunk, shared out among the prompts that are read in the same step."""
        chunk = self._chunk.beside_decoding if self._decoding else self._chunk.alone
        reading = min(len(self._rows) - len(self._decoding), self._max_prompts)
        return max(chunk // max(reading, 1), 16)

    def _forget(self, uid: int) -> None:
        del self._rows[uid]
        self._decoding.discard(uid)


class _LeftInPrefillError(Exception):
    """Out of `generate_step`'s progress callback: whoever asked is gone."""


class SerialLane:
    def __init__(self, loaded: LoadedModel, config: MLXConfig) -> None:
        self.loaded = loaded
        self._chunk = choose_prefill_chunk(config).alone
        self._waiting: deque[Sequence] = deque()
        self._current: Sequence | None = None
        self._tokens: Iterator[Sampled] = iter(())

    def add(self, sequence: Sequence) -> None:
        self._waiting.append(sequence)

    def remove(self, sequence: Sequence) -> None:
        if sequence is self._current:
            self._end()
        elif sequence in self._waiting:
            self._waiting.remove(sequence)

    def step(self) -> Step:
        if self._current is None:
            self._current = self._waiting.popleft()
            self._tokens = self._generate(self._current)
        try:
            sequence, sampled = self._current, next(self._tokens)
        except _LeftInPrefillError:
            self._end()
            return []
        if sampled.finish is not None:
            self._end()
        return [(sequence, sampled)]

    def drop_all(self) -> list[Sequence]:
        sequences = [*([self._current] if self._current else []), *self._waiting]
        self._waiting.clear()
        self._end()
        return sequences

    def __len__(self) -> int:
        return len(self._waiting) + (self._current is not None)

    def _generate(self, sequence: Sequence) -> Iterator[Sampled]:
        steps = generate_step(
            mx.array(sequence.prompt),
            self.loaded.model,
            max_tokens=sequence.max_tokens,
            sampler=create_sampler(sequence.sampling, sequence.entropy),
            prefill_step_size=self._chunk,
            prompt_progress_callback=lambda _done, _total: _stay(sequence),
        )
        for count, (token, _) in enumerate(steps, start=1):
            finish = self._finish(int(token), last=count == sequence.max_tokens)
            yield Sampled(int(token), finish)
            if finish is not None:
                return

    def _finish(self, token: int, *, last: bool) -> Finish | None:
        if token in self.loaded.end_tokens:
            return "stop"
        return "length" if last else None

    def _end(self) -> None:
        self._current = None
        self._tokens = iter(())


def _stay(sequence: Sequence) -> None:
    if sequence.cancelled:
        raise _LeftInPrefillError

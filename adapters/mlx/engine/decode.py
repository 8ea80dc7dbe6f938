"""Decoding: the rows of one model advance together, by a token per step.

The next step is computed while the tokens of the last one are handed over, as mlx-lm does: the
inputs of a step are the tokens that the step before it drew, and are read only once the new step
is under way. Rows are drawn in one pass; a row with a failing grammar ends alone.
"""

# pyright: basic
import copy
import logging
from collections.abc import Sequence as Ordered
from typing import Any

import mlx.core as mx
from mlx_lm.generate import generation_stream, maybe_quantize_kv_cache
from mlx_lm.models.cache import TokenBuffer
from msgspec import Struct

from adapters.errors import BackendError, GenerationError
from adapters.mlx.engine.sampling import Drawing, Report, RowNoise, report
from adapters.mlx.models.load import LoadedModel
from adapters.mlx.sequence import Finish, Post, Sampled, Sequence

logger = logging.getLogger(__name__)
Cache = list[Any]
"""mlx-lm's prompt cache: one object for each layer."""
Step = list[tuple[Sequence, Post]]
"""Results of sequences, in order."""
Read = tuple[str, list[int], Cache]
"""The client, the tokens that were read, and the cache of exactly these."""


def merge(caches: Ordered[Cache]) -> Cache:
    """Return one cache of as many rows."""
    return [layers[0].merge(list(layers)) for layers in zip(*caches, strict=True)]


class Newcomers(Struct, frozen=True):
    """Sequences that start from `cache`, which has read their prompt but for its last token."""

    sequences: list[Sequence]
    cache: Cache
    shared: bool
    """`cache` is used by others too."""


class Row:
    def __init__(self, sequence: Sequence) -> None:
        self.sequence = sequence
        self.dice = RowNoise(
            sequence.sampling, sequence.entropy, sequence.prompt, sequence.max_tokens
        )
        self.count = 0
        self.written: list[int] = []
        self.fresh = True
        """Its next input is the prompt's last token, which is not part of the answer."""
        self.error: BackendError | None = None
        self._context: TokenBuffer | None = None

    def process(self, token: mx.array, logits: mx.array) -> mx.array:
        """Return the logits after this row's processors, (1, vocabulary); never raises."""
        if self._context is None:
            self._context = TokenBuffer(self.sequence.prompt[:-1])
        tokens = self._context.update_and_fetch(token)
        try:
            shaped = logits
            for processor in self.sequence.processors:
                shaped = processor(tokens, shaped)
                if processor.error is not None:
                    self.error = processor.error
                    return logits
            if shaped.shape != logits.shape:
                raise ValueError(
                    f"a processor returned logits of {shaped.shape} for {logits.shape}"
                )
            return shaped
        except Exception:
            logger.exception("a logits processor failed")
            self.error = GenerationError("A constraint of this answer failed.")
        return logits

    def finish(self, token: int, end_tokens: frozenset[int]) -> Finish | None:
        if token in end_tokens:
            return "stop"
        return "length" if self.count >= self.sequence.max_tokens else None


class DecodeBatch:
    def __init__(self, loaded: LoadedModel) -> None:
        self.rows: list[Row] = []
        self._loaded = loaded
        self._kv_bits = loaded.kv_bits
        self._cache: Cache = []
        # A single row keeps its own cache: no padding, no mask, no need for `merge`.
        self._merged = False
        self._inputs: Any = None
        """The next inputs, (rows,) ids; an array while there are rows."""
        self._drawing: Drawing | None = None
        self._reporting: list[int] = []
        self._report: Report | None = None
        self._ended: list[Read] = []

    def join(self, newcomers: Ordered[Newcomers]) -> None:
        """Add rows, all at once: each merge copies the caches of the rows before them."""
        sequences = [sequence for new in newcomers for sequence in new.sequences]
        if not self.rows and len(sequences) == 1:
            [only] = newcomers
            self._cache = copy.deepcopy(only.cache) if only.shared else only.cache
            self._merged = False
        else:
            caches = merge([new.cache for new in newcomers for _ in new.sequences])
            if not self.rows:
                self._cache = caches
            else:
                if not self._merged:
                    self._cache = [layer.merge([layer]) for layer in self._cache]
                for mine, theirs in zip(self._cache, caches, strict=True):
                    mine.extend(theirs)
            self._merged = True
        last = mx.array([sequence.prompt[-1] for sequence in sequences], dtype=mx.uint32)
        self._inputs = last if self._inputs is None else mx.concatenate([self._inputs, last])
        self.rows += [Row(sequence) for sequence in sequences]
        self._changed()

    def step(self) -> Step:
        """Advance all rows; raises whatever the model raises, and cannot be used afterwards."""
        inputs, reported = self._inputs, self._report
        is_last = all(
            row.count + 1 == row.sequence.max_tokens and not row.fresh for row in self.rows
        )
        if not is_last:
            with mx.stream(generation_stream):
                self._advance(inputs)
        step, keep = self._read(inputs.tolist(), self._lists(reported))
        self._note_ended(keep, unread=1 if is_last else 0)
        self._keep(keep)
        return step

    def remove(self, sequence: Sequence) -> None:
        keep = [i for i, row in enumerate(self.rows) if row.sequence is not sequence]
        self._note_ended(keep, unread=0)
        self._keep(keep)

    def take_ended(self) -> list[Read]:
        """Return the tokens and caches of rows that ended since the last call, not evaluated."""
        ended, self._ended = self._ended, []
        return ended

    def _note_ended(self, keep: list[int], *, unread: int) -> None:
        """Remember the rows that end; their last `unread` tokens were never fed to the model."""
        for i in set(range(len(self.rows))).difference(keep):
            row = self.rows[i]
            tokens = [*row.sequence.keys, *row.written]
            fed = len(tokens) - (1 if row.fresh else unread)
            self._ended.append((row.sequence.client, tokens[:fed], self.extract(i)))

    def extract(self, place: int) -> Cache:
        """Return the cache of one row, not evaluated: until then it keeps the batch in memory."""
        if not self._merged:
            return self._cache
        return [layer.extract(place) for layer in self._cache]

    def _advance(self, inputs: mx.array) -> None:
        logits = self._loaded.model(inputs[:, None], cache=self._cache)[:, -1, :]
        if self._kv_bits is not None:
            maybe_quantize_kv_cache(self._cache, 0, 64, self._kv_bits)
        if self._drawing is None:
            self._drawing = Drawing([row.dice for row in self.rows], logits.shape[-1])
        self._inputs = self._drawing.draw(self._processed(inputs, logits))
        self._report = None
        if self._reporting:
            width = max(self.rows[row].sequence.top_logprobs or 0 for row in self._reporting)
            rows = mx.array(self._reporting)
            self._report = report(logits[rows], self._inputs[rows], width)
        mx.async_eval(self._inputs, self._report)

    def _processed(self, inputs: mx.array, logits: mx.array) -> mx.array:
        if not any(row.sequence.processors for row in self.rows):
            return logits
        # Started before a grammar needs the last token and computes its mask.
        mx.async_eval(logits)
        parts = [logits[i : i + 1] for i in range(len(self.rows))]
        for i, row in enumerate(self.rows):
            if row.sequence.processors:
                parts[i] = row.process(inputs[i : i + 1], parts[i])
        return mx.concatenate(parts, axis=0)

    def _read(self, tokens: list[int], reported: dict[int, Any]) -> tuple[Step, list[int]]:
        """Return the rows' results, and the places of the rows that go on."""
        step: Step = []
        keep: list[int] = []
        for i, (row, token) in enumerate(zip(self.rows, tokens, strict=True)):
            finish = None
            if not row.fresh:
                row.count += 1
                row.written.append(token)
                finish = row.finish(token, self._loaded.end_tokens)
                step.append((row.sequence, Sampled(token, finish, *reported.get(i, ()))))
            row.fresh = False
            if finish is None and row.error is not None:
                step.append((row.sequence, row.error))
            elif finish is None:
                keep.append(i)
        return step, keep

    def _lists(self, reported: Report | None) -> dict[int, Any]:
        """Return, by place in the batch, the drawn token's logprob and the top list."""
        if reported is None:
            return {}
        lists: list[Any] = [array.tolist() for array in reported]
        drawn, ids, tops = lists
        by_place: dict[int, Any] = {}
        # Rows that joined since are the last ones and not in the report yet.
        for i, place in enumerate(self._reporting[: len(drawn)]):
            width = self.rows[place].sequence.top_logprobs
            by_place[place] = drawn[i], tuple(zip(ids[i][:width], tops[i][:width], strict=True))
        return by_place

    def _keep(self, keep: list[int]) -> None:
        if len(keep) == len(self.rows):
            return
        self._changed()
        kept = mx.array(keep) if keep else None
        self._inputs = None if kept is None else self._inputs[kept]
        if kept is None:
            self._cache = []
        else:
            for layer in self._cache:
                layer.filter(keep)
        self._filter_report(keep)
        self.rows = [self.rows[i] for i in keep]
        self._reporting = self._reporting_rows()

    def _filter_report(self, keep: list[int]) -> None:
        """Keep the rows' part of the pending report: its tokens are not handed over yet."""
        if self._report is None:
            return
        drawn, ids, tops = self._report
        covered = self._reporting[: drawn.shape[0]]
        places = [at for at, place in enumerate(covered) if place in set(keep)]
        kept = mx.array(places) if places else None
        self._report = None if kept is None else (drawn[kept], ids[kept], tops[kept])

    def _changed(self) -> None:
        """Rebuild the arrays of drawing and reports with the next step: rows came or went."""
        if self._drawing is not None:
            self._drawing.store()
            self._drawing = None
        self._reporting = self._reporting_rows()

    def _reporting_rows(self) -> list[int]:
        return [i for i, row in enumerate(self.rows) if row.sequence.top_logprobs is not None]

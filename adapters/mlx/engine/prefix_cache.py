"""The prefix cache: prompts that were read are kept for requests with the same beginning.

Keys and values of plain attention depend on nothing that comes later, so they are kept in blocks
of a fixed number of tokens, and prompts with a common beginning share its blocks, the last one in
part: `BlockStore`.
Other states (rotating windows, recurrent layers) cover exactly the tokens they have read and cannot
be cut: `SnapshotStore` keeps them unchanged. Everything here runs on the engine's thread.
"""

# pyright: basic
import copy
import logging
from array import array
from collections import OrderedDict, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice
from typing import Any, Protocol

import mlx.core as mx
from mlx.utils import tree_map
from mlx_lm.models.cache import KVCache
from msgspec import Struct

from adapters.config import MLXConfig
from adapters.mlx.device import system_memory
from adapters.mlx.engine.prefix_disk import BlockFolder, fingerprint
from adapters.mlx.models.load import LoadedModel

logger = logging.getLogger(__name__)

_CLOSING_SECONDS = 3.0
"""Less than the five seconds that the engine's thread has to end."""

_LEAST, _LOOKED_AT = 8, 64
"""The fewest tokens worth cutting a block for; the most blocks that are compared."""

Caches = list[Any]
"""One cache of mlx_lm.models.cache per layer, for one row."""


@dataclass(frozen=True)
class Prefix:
    """The cached beginning of a prompt. `caches` are copies that the caller may change."""

    tokens: int = 0
    caches: Caches | None = None


class Store(Protocol):
    nbytes: int

    def find(self, client: str, prompt: list[int]) -> Prefix: ...
    def stops(self, prompt: list[int], turns: tuple[int, ...]) -> tuple[int, ...]: ...
    def save(self, client: str, tokens: list[int], caches: Caches) -> None: ...
    def trim(self, budget: int) -> None:
        """Drop the least recently used until no more than `budget` bytes are left."""
        ...

    def close(self) -> None: ...


class PrefixCache:
    """The prefixes of one loaded model. A failure to keep or find one fails no answer."""

    def __init__(self, store: Store | None) -> None:
        self.store = store
        self.hits = 0
        """Prompts that began with a cached prefix."""

    @property
    def nbytes(self) -> int:
        return self.store.nbytes if self.store is not None else 0

    @property
    def enabled(self) -> bool:
        return self.store is not None

    def find(self, client: str, prompt: list[int]) -> Prefix:
        """Return the longest beginning of `prompt` that `client` has sent before; never all of it,
        as the model needs one token to decode the first of the answer."""
        if self.store is None:
            return Prefix()
        try:
            prefix = self.store.find(client, prompt)
        except Exception:
            logger.exception("a cached prefix could not be used")
            return Prefix()
        self.hits += prefix.caches is not None
        return prefix

    def stops(self, prompt: list[int], turns: tuple[int, ...] = ()) -> tuple[int, ...]:
        """Return the lengths of `prompt`'s beginnings after which to call `save`, ascending. The
        last is the prompt without its last token; `turns` are those that later prompts may
        share."""
        return self.store.stops(prompt, turns) if self.store is not None else ()

    def save(self, client: str, tokens: list[int], caches: Caches) -> None:
        """Keep `caches`, which have read `tokens`. They may be lazy; the copies are evaluated and
        share no memory with the batch that they were cut from."""
        if self.store is None or not tokens:
            return
        try:
            self.store.save(client, tokens, caches)
        except Exception:
            logger.exception("a prefix could not be kept")

    def trim(self, nbytes: int) -> int:
        """Free at least `nbytes`, oldest first, or all there are; return how many were freed."""
        before = self.nbytes
        if self.store is not None:
            self.store.trim(max(before - nbytes, 0))
        return before - self.nbytes

    def close(self) -> None:
        """Drop everything; pending writes to disk have a few seconds to end."""
        if self.store is not None:
            self.store.close()


def create_prefix_cache(loaded: LoadedModel, config: MLXConfig) -> PrefixCache:
    budget = prefix_cache_bytes(config)
    if budget == 0:
        return PrefixCache(None)
    block = choose_block()
    if loaded.takes_snapshots:
        return PrefixCache(SnapshotStore(budget, block))
    folder = None
    if config.prefix_cache_folder is not None:
        mark = fingerprint(
            loaded.files, f"{config.dequantize} {mx.default_device()} {block} {loaded.library}"
        )
        folder = BlockFolder.open(config.prefix_cache_folder, mark, config.prefix_cache_disk_bytes)
    return PrefixCache(BlockStore(budget, block, folder))


def prefix_cache_bytes(config: MLXConfig) -> int:
    if config.prefix_cache_bytes is not None:
        return config.prefix_cache_bytes
    return system_memory() // 20


def choose_block() -> int:
    """Return the tokens per block: the most that is read again because it fills no block.

    A GPU reads 256 in a fraction of a second, and fewer blocks are fewer buffers (Metal limits
    them). A CPU takes two seconds for as many. Cutting and joining 600 tokens of a 135M model on
    two cores: 11 and 10 ms in blocks of 32, 8 and 7 ms in blocks of 64, 6 and 5 ms of 128; a
    plain copy takes 7 ms.
    """
    return 32 if mx.default_device() == mx.Device(mx.cpu) else 256


class Block(Struct, frozen=True):
    arrays: list[mx.array]
    """Keys and values of the first layer, those of the second, …: (1, heads, block, head size)."""
    tokens: list[int]
    parent: bytes
    """The name of the block before it, or of the root."""

    def begins(self, tokens: list[int]) -> int:
        """Return how many of `tokens` it begins with."""
        pairs = enumerate(zip(self.tokens, tokens, strict=False))
        return next(
            (place for place, (mine, other) in pairs if mine != other),
            min(len(self.tokens), len(tokens)),
        )

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.arrays)


class BlockStore:
    """Blocks, named by a hash of the client and of all tokens up to tchild end."""

    def __init__(self, budget: int, block: int, folder: BlockFolder | None = None) -> None:
        self.nbytes = 0
        self._budget = budget
        self._block = block
        self._folder = folder
        self._blocks: OrderedDict[bytes, Block] = OrderedDict()
        """Least recently used first."""
        self._children: defaultdict[bytes, dict[bytes, None]] = defaultdict(dict)
        """The blocks that follow each block, the latest last."""

    def find(self, client: str, prompt: list[int]) -> Prefix:
        tokens = prompt[:-1]
        name, names, blocks = _root(client), list[bytes](), list[list[mx.array]]()
        for next_name in self._names(client, tokens):
            own = tokens[len(blocks) * self._block : (len(blocks) + 1) * self._block]
            if (block := self._blocks.get(next_name) or self._read(next_name, name, own)) is None:
                break
            name = next_name
            names.append(name)
            blocks.append(block.arrays)
        count = len(blocks) * self._block
        if (child := self._nearest(name, tokens[count : count + self._block])) is not None:
            child_name, shared = child
            names.append(child_name)
            blocks.append([part[..., :shared, :] for part in self._blocks[child_name].arrays])
            count += shared
        if not blocks:
            return Prefix()
        self._touch(names)
        self.trim(self._budget)
        layers = zip(*blocks, strict=True)
        joined = [mx.concatenate(list(parts), axis=2) for parts in layers]
        caches = []
        for keys, values in zip(joined[::2], joined[1::2], strict=True):
            cache = KVCache()
            cache.state = (keys, values, keys.shape[2])
            caches.append(cache)
        return Prefix(count, caches)

    def _nearest(self, name: bytes, tokens: list[int]) -> tuple[bytes, int] | None:
        """Return the block after `name` with the longest common beginning with `tokens`, and its
        length: texts that differ within a block may share a system prompt, for example."""
        children = islice(reversed(self._children.get(name, {})), _LOOKED_AT)
        lengths = [(self._blocks[child].begins(tokens), child) for child in children]
        shared, child = max(lengths, default=(0, b""))
        return (child, shared) if shared >= _LEAST else None

    def stops(self, prompt: list[int], turns: tuple[int, ...]) -> tuple[int, ...]:
        return (len(prompt) - 1,) if len(prompt) > 1 else ()

    def save(self, client: str, tokens: list[int], caches: Caches) -> None:
        names = list(self._names(client, tokens))
        new = [i for i, name in enumerate(names) if name not in self._blocks]
        if new:
            caches = [cache for cache in caches if hasattr(cache, "keys")]
            arrays = [array for cache in caches for array in (cache.keys, cache.values)]
            block_bytes = sum(array[..., : self._block, :].nbytes for array in arrays)
            room = self._budget // max(block_bytes, 1)
            new = [i for i in new if i < room]
            parents = [_root(client), *names]
            for i, arrays in zip(new, self._cut(caches, new), strict=True):
                part = tokens[i * self._block : (i + 1) * self._block]
                self._keep(names[i], Block(arrays, part, parents[i]))
                if self._folder is not None:
                    self._folder.write(names[i].hex(), arrays)
        self._touch(name for name in names if name in self._blocks)
        self.trim(self._budget)

    def close(self) -> None:
        self.trim(0)
        if self._folder is not None:
            self._folder.close(_CLOSING_SECONDS)

    def _names(self, client: str, tokens: list[int]) -> Iterator[bytes]:
        name = _root(client)
        for end in range(self._block, len(tokens) + 1, self._block):
            part = array("I", tokens[end - self._block : end]).tobytes()
            name = blake2b(name + part, digest_size=16).digest()
            yield name

    def _read(self, name: bytes, parent: bytes, tokens: list[int]) -> Block | None:
        """Read a block from disk, if it is there."""
        arrays = self._folder.read(name.hex()) if self._folder is not None else None
        if arrays is None:
            return None
        return self._keep(name, Block(arrays, tokens, parent))

    def _keep(self, name: bytes, block: Block) -> Block:
        self._blocks[name] = block
        self._children[block.parent][name] = None
        self.nbytes += block.nbytes
        return block

    def _cut(self, caches: Caches, numbers: list[int]) -> list[list[mx.array]]:
        """Copy the blocks of these numbers, layer by layer: memory doubles for one layer only."""
        cut: list[list[mx.array]] = [[] for _ in numbers]
        for cache in caches:
            for full in (cache.keys, cache.values):
                for number, arrays in zip(numbers, cut, strict=True):
                    start = number * self._block
                    # A slice alone would keep the array that it was cut from.
                    part = mx.contiguous(full[..., start : start + self._block, :])
                    arrays.append(part)
            mx.eval([arrays[-2:] for arrays in cut])
        return cut

    def _touch(self, names: "Iterator[bytes] | list[bytes]") -> None:
        """Mark as used, deepest first: a block is useless without those before it, so it has to be
        dropped sooner."""
        for name in reversed(list(names)):
            self._blocks.move_to_end(name)

    def trim(self, budget: int) -> None:
        while self.nbytes > budget:
            name, block = self._blocks.popitem(last=False)
            self.nbytes -= block.nbytes
            del self._children[block.parent][name]
            if not self._children[block.parent]:
                del self._children[block.parent]


def _root(client: str) -> bytes:
    """Return the name before the first block: no client finds the blocks of another."""
    return blake2b(client.encode(), digest_size=16).digest()


class Snapshot(Struct, frozen=True):
    length: int
    caches: Caches
    nbytes: int


class SnapshotStore:
    """Uncut states, named by a hash of the client and of exactly the tokens they have read."""

    def __init__(self, budget: int, block: int) -> None:
        self.nbytes = 0
        self._budget = budget
        self._block = block
        self._snapshots: OrderedDict[bytes, Snapshot] = OrderedDict()
        """Least recently used first."""

    def find(self, client: str, prompt: list[int]) -> Prefix:
        names = self._names(client, prompt[:-1], {s.length for s in self._snapshots.values()})
        kept = [name for name in names if name in self._snapshots]
        if not kept:
            return Prefix()
        self._snapshots.move_to_end(kept[-1])
        snapshot = self._snapshots[kept[-1]]
        return Prefix(snapshot.length, copy.deepcopy(snapshot.caches))

    def stops(self, prompt: list[int], turns: tuple[int, ...]) -> tuple[int, ...]:
        """Stop at the ends of turns, because a state cannot be cut to one later.

        Stop at the end of the last full block too, where turns are not known: a template may end a
        prompt with text that it leaves out once that turn is history.
        """
        last = len(prompt) - 1
        full = () if turns else (last - last % self._block,)
        return tuple(length for length in sorted({*turns, *full, last}) if 0 < length <= last)

    def save(self, client: str, tokens: list[int], caches: Caches) -> None:
        [name] = self._names(client, tokens, {len(tokens)})
        if name in self._snapshots:
            self._snapshots.move_to_end(name)
            return
        nbytes = sum(cache.nbytes for cache in caches)
        if nbytes > self._budget:
            return
        mine = copy.deepcopy(caches)
        for cache in mine:
            _settle(cache)
        self._snapshots[name] = Snapshot(len(tokens), mine, nbytes)
        self.nbytes += nbytes
        self.trim(self._budget)

    def close(self) -> None:
        self.trim(0)

    def _names(self, client: str, tokens: list[int], lengths: set[int]) -> Iterator[bytes]:
        """Name the beginnings of `tokens` with these lengths, shortest first, in one pass."""
        running = blake2b(client.encode() + b"\0", digest_size=16)
        start = 0
        for length in sorted(n for n in lengths if n <= len(tokens)):
            running.update(array("I", tokens[start:length]).tobytes())
            start = length
            yield running.digest()

    def trim(self, budget: int) -> None:
        while self.nbytes > budget:
            _, snapshot = self._snapshots.popitem(last=False)
            self.nbytes -= snapshot.nbytes


def _settle(cache: Any) -> None:
    """Evaluate all arrays of a cache, in memory of their own: a row may be a view of the batch."""
    for name, value in vars(cache).items():
        setattr(cache, name, tree_map(_settled, value))


def _settled(leaf: Any) -> Any:
    if isinstance(leaf, mx.array):
        leaf = mx.contiguous(leaf)
        mx.eval(leaf)
    elif hasattr(leaf, "__dict__"):  # One of several caches of a layer.
        _settle(leaf)
    return leaf

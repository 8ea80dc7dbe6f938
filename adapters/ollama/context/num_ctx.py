"""Choose `num_ctx` for each request; correct token estimates from the response."""

from urllib.parse import urlsplit

from msgspec import UNSET, Struct
from msgspec.structs import replace

from adapters.config import OllamaConfig
from adapters.errors import ContextLengthError, InsufficientMemoryError
from adapters.memory import MemoryBudget, UnlimitedMemory
from adapters.ollama.catalog import Catalog, full_name
from adapters.ollama.context.kv_size import choose, longest, room_in_memory, system_memory
from adapters.ollama.context.token_estimate import Count, Texts, TokenCounter, texts_of
from adapters.ollama.in_flight import InFlight
from adapters.ollama.model_info import ModelInfo, open_vocabulary
from adapters.ollama.wire import ChatBody, RawBody

_LOCAL = frozenset({"127.0.0.1", "localhost", "::1"})


class Size(Struct, frozen=True, kw_only=True):
    """The `num_ctx` of one request, and the figures it was chosen by."""

    num_ctx: int
    limit: int | None
    """The longest context that the model, the memory and the settings allow."""
    fixed: bool
    """The request itself sets `num_ctx`."""
    texts: Texts
    count: Count
    counter: TokenCounter
    room: int = 0
    is_parsed: bool = False
    """See `ModelInfo.is_parsed`."""

    def learn(self, prompt_tokens: int) -> None:
        """Correct the estimate by the `prompt_tokens` that Ollama has counted."""
        self.counter.learn(self.texts, self.count, prompt_tokens)


class _Known(Struct, frozen=True):
    """Figures that all requests to one model share, until `facts` or `budget` change."""

    facts: ModelInfo
    counter: TokenCounter
    budget: int | None
    limit: int | None


class ContextSizing:
    def __init__(self, host: str, catalog: Catalog, work: InFlight, config: OllamaConfig) -> None:
        self._catalog = catalog
        self._work = work
        self._config = config
        self.local = urlsplit(host).hostname in _LOCAL
        self.memory: MemoryBudget = UnlimitedMemory()
        self._own_budget = config.memory_bytes or (system_memory() if self.local else None)
        self._counters: dict[tuple[str, ModelInfo], TokenCounter] = {}
        self._known: dict[str, _Known] = {}
        self._used: dict[str, int] = {}
        """Runner -> the longest context it was loaded with here."""

    async def size(self, body: ChatBody | RawBody) -> Size:
        """Choose the context of `body`.

        Raises:
            ContextLengthError: the prompt is longer than any context it can get.
            InsufficientMemoryError: the model exceeds the memory even with the shortest context.
        """
        known = await self._figures(body.model)
        facts, limit, counter = known.facts, known.limit, known.counter
        texts = texts_of(body)
        count = await counter.count(texts)
        answer = body.options.num_predict
        room = answer if answer is not UNSET and answer > 0 else self._config.answer_room
        if (requested := body.options.num_ctx) is not UNSET:
            # Like Ollama, and like MLX here; what the model has is in `Started.context`.
            num_ctx = limit = longest(max(requested, facts.least_context), limit) or requested
        else:
            num_ctx = await self._chosen(body.model, facts, count.tokens + room, limit)
        size = Size(
            num_ctx=num_ctx,
            limit=limit,
            fixed=requested is not UNSET,
            texts=texts,
            count=count,
            counter=counter,
            room=room,
            is_parsed=facts.is_parsed,
        )
        _require_room(size, body.model)
        return size

    async def count(self, body: ChatBody | RawBody) -> Count:
        """Estimate the tokens of `body`."""
        return await (await self._figures(body.model)).counter.count(texts_of(body))

    async def loading(self, model: str) -> int | None:
        """Return the `num_ctx` to load `model` with, enough for a short request."""
        facts = await self._catalog.facts(model)
        floor = self._floor(model, facts)
        return await self._chosen(model, facts, floor, self._limit(model, facts))

    def grown(self, size: Size, error: ContextLengthError, model: str) -> Size:
        """Return the context to try after Ollama has refused `size` with `error`.

        Raises:
            ContextLengthError: no longer context is allowed.
        """
        tokens = error.prompt_tokens
        if size.fixed or (size.limit is not None and size.num_ctx >= size.limit):
            raise too_long(model, size.num_ctx, tokens) if tokens else error
        if tokens is None:
            if size.limit is None:
                raise error
            return replace(size, num_ctx=size.limit)
        if size.limit is not None and tokens >= size.limit:
            raise too_long(model, size.limit, tokens)
        num_ctx = choose(tokens + size.room, loaded=None, floor=size.num_ctx, limit=size.limit)
        return replace(size, num_ctx=num_ctx)

    def used(self, model: str, size: Size) -> None:
        """Note that a request to `model` runs with `size`."""
        runner = self._catalog.runner(model)
        if not size.fixed:
            self._used[runner] = max(size.num_ctx, self._used.get(runner, 0))
        self._catalog.note_loaded(full_name(model), size.num_ctx)

    async def _figures(self, model: str) -> "_Known":
        facts = await self._catalog.facts(model)
        known = self._known.get(model)
        if known is None or known.facts is not facts or known.budget != self._budget:
            known = await self._know(model, facts)
        return known

    async def _know(self, model: str, facts: ModelInfo) -> "_Known":
        key = (full_name(model), facts)
        if key not in self._counters:
            tokenizer = await open_vocabulary(facts) if self.local else None
            self._counters.setdefault(key, TokenCounter(tokenizer))
        counter = self._counters[key]
        known = _Known(facts, counter, self._budget, self._limit(model, facts))
        self._known[model] = known
        return known

    async def _chosen(self, model: str, facts: ModelInfo, needed: int, limit: int | None) -> int:
        tag = await self._catalog.loaded(model)
        loaded = tag.context_length if tag is not None else None
        # The context of another request in progress is newer.
        promised = self._work.longest_context(model) or loaded
        return choose(needed, loaded=promised, floor=self._floor(model, facts), limit=limit)

    @property
    def _budget(self) -> int | None:
        return longest(self._own_budget, self.memory.budget if self.local else None)

    def _floor(self, model: str, facts: ModelInfo) -> int:
        used = self._used.get(self._catalog.runner(model), 0)
        return max(self._config.min_context, facts.num_ctx or 0, facts.least_context, used)

    def _limit(self, model: str, facts: ModelInfo) -> int | None:
        least = facts.least_context
        room = room_in_memory(facts.cost, facts.size, self._budget)
        if room is not None and room < least:
            needs = facts.footprint(least).known
            raise InsufficientMemoryError(
                f"'{model}' needs {needs} bytes of memory; {self._budget} are allowed."
            )
        limit = longest(facts.context_length, self._config.max_context, room)
        return None if limit is None else max(limit, least)


def too_long(model: str, limit: int, tokens: int, least: bool = False) -> ContextLengthError:
    few = "at least " if least else ""
    error = ContextLengthError(
        f"The context of '{model}' holds {limit} tokens; the prompt alone has {few}{tokens}.",
        param="messages",
    )
    error.limit, error.prompt_tokens = limit, None if least else tokens
    return error


def _require_room(size: Size, model: str) -> None:
    if size.limit is not None and size.count.least >= size.limit:
        raise too_long(model, size.limit, size.count.least, least=not size.count.exact)

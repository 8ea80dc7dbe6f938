"""What a model's answers have taught of those to come: how many tokens a prompt will be, and how
many are answered."""

from collections.abc import Sequence

from msgspec import Struct

from adapters.events import Usage
from proxy.memory.ledger import Key
from proxy.routing.requirements import Demand

_NEWEST = 0.2
"""What the newest answer counts for against all that came before."""
_TELLING = 200
"""Bytes below which a prompt tells more of its template than of its text."""
_BOUNDS = (1.0, 16.0)
"""Bytes that a token has: what lies outside was counted otherwise (a prompt that was cut, say)."""


class Habit(Struct):
    """What is believed of one model, to begin with."""

    bytes_per_token: float = 4.0
    around: float = 12.0
    """Tokens that a template puts around each message, and once around all."""
    answer: float = 256.0
    """Tokens of an answer that no limit has cut."""
    limit: int | None = None
    """Tokens that a prompt was too long for: memory and settings may leave less than is told."""

    def learn(self, demand: Demand, usage: Usage) -> None:
        tokens = usage.prompt_tokens - demand.prompt_tokens
        if demand.prompt_bytes >= _TELLING:
            text = max(tokens - self.around * _frames(demand), 1)
            least, most = _BOUNDS
            seen = min(max(demand.prompt_bytes / text, least), most)
            self.bytes_per_token = _mean(self.bytes_per_token, seen)
        elif demand.messages:
            rest = tokens - demand.prompt_bytes / self.bytes_per_token
            self.around = _mean(self.around, max(rest / _frames(demand), 0.0))
        self.answer = _mean(self.answer, usage.completion_tokens)
        if self.limit is not None and usage.prompt_tokens >= self.limit:
            self.limit = None


class Habits:
    def __init__(self) -> None:
        self._habits: dict[Key, Habit] = {}

    def prompt_tokens(self, key: Key, demand: Demand) -> int:
        """About how many the prompt has for the model `key`."""
        habit = self._habits.get(key) or Habit()
        text = demand.prompt_bytes / habit.bytes_per_token
        return int(demand.prompt_tokens + text + habit.around * _frames(demand))

    def answer_tokens(self, keys: Sequence[Key], demand: Demand) -> float:
        """About how many will be said, all choices together, by a model that is called `keys`."""
        known = [self._habits[key].answer for key in keys if key in self._habits]
        usual = sum(known) / len(known) if known else Habit().answer
        return demand.n * (usual if demand.max_tokens is None else min(usual, demand.max_tokens))

    def learn(self, key: Key, demand: Demand, usage: Usage) -> None:
        """`usage` is that of one choice."""
        self._habits.setdefault(key, Habit()).learn(demand, usage)

    def limit(self, key: Key) -> int | None:
        """The tokens that it seems to have room for, where that proved to be too few once."""
        habit = self._habits.get(key)
        return habit.limit if habit is not None else None

    def refused(self, key: Key, limit: int | None) -> None:
        """A prompt was too long for `limit` tokens."""
        self._habits.setdefault(key, Habit()).limit = limit


def _frames(demand: Demand) -> int:
    return demand.messages + 1 if demand.messages else 0


def _mean(known: float, newest: float) -> float:
    return (1 - _NEWEST) * known + _NEWEST * newest

"""What a model's answers have taught of those to come: how many tokens a prompt will be, and how
many are answered."""

from collections.abc import Sequence

from msgspec import Struct

from adapters.events import Usage
from proxy.memory.ledger import Key
from proxy.routing.requirements import Requirements

_NEWEST = 0.2
"""What the newest answer counts for against all that came before."""
_TELLING = 200
"""Bytes below which a prompt tells more of its template than of its text."""
_BOUNDS = (1.0, 16.0)
"""Bytes that a token has: what lies outside was counted otherwise (a prompt that was cut, say)."""


class Estimate(Struct):
    """What is believed of one model, to begin with."""

    bytes_per_token: float = 4.0
    around: float = 12.0
    """Tokens that a template puts around each message, and once around all."""
    answer: float = 256.0
    """Tokens of an answer that no limit has cut."""
    limit: int | None = None
    """Tokens that a prompt was too long for: memory and settings may leave less than is told."""

    def learn(self, requirements: Requirements, usage: Usage) -> None:
        tokens = usage.prompt_tokens - requirements.prompt_tokens
        if requirements.prompt_bytes >= _TELLING:
            text = max(tokens - self.around * _frames(requirements), 1)
            least, most = _BOUNDS
            seen = min(max(requirements.prompt_bytes / text, least), most)
            self.bytes_per_token = _mean(self.bytes_per_token, seen)
        elif requirements.messages:
            rest = tokens - requirements.prompt_bytes / self.bytes_per_token
            self.around = _mean(self.around, max(rest / _frames(requirements), 0.0))
        self.answer = _mean(self.answer, usage.completion_tokens)
        if self.limit is not None and usage.prompt_tokens >= self.limit:
            self.limit = None


class Estimates:
    def __init__(self) -> None:
        self._estimates: dict[Key, Estimate] = {}

    def prompt_tokens(self, key: Key, requirements: Requirements) -> int:
        """About how many the prompt has for the model `key`."""
        estimate = self._estimates.get(key) or Estimate()
        text = requirements.prompt_bytes / estimate.bytes_per_token
        return int(requirements.prompt_tokens + text + estimate.around * _frames(requirements))

    def answer_tokens(self, keys: Sequence[Key], requirements: Requirements) -> float:
        """About how many will be said, all choices together, by a model that is called `keys`."""
        known = [self._estimates[key].answer for key in keys if key in self._estimates]
        usual = sum(known) / len(known) if known else Estimate().answer
        return requirements.n * (
            usual if requirements.max_tokens is None else min(usual, requirements.max_tokens)
        )

    def learn(self, key: Key, requirements: Requirements, usage: Usage) -> None:
        """`usage` is that of one choice."""
        self._estimates.setdefault(key, Estimate()).learn(requirements, usage)

    def limit(self, key: Key) -> int | None:
        """The tokens that it seems to have room for, where that proved to be too few once."""
        estimate = self._estimates.get(key)
        return estimate.limit if estimate is not None else None

    def refused(self, key: Key, limit: int | None) -> None:
        """A prompt was too long for `limit` tokens."""
        self._estimates.setdefault(key, Estimate()).limit = limit


def _frames(requirements: Requirements) -> int:
    return requirements.messages + 1 if requirements.messages else 0


def _mean(known: float, newest: float) -> float:
    return (1 - _NEWEST) * known + _NEWEST * newest

"""Estimates learned from a model's answers: tokens of a prompt, and tokens of an answer."""

from collections.abc import Sequence

from msgspec import Struct

from adapters.events import Usage
from proxy.memory.ledger import Key
from proxy.routing.requirements import Requirements

_NEWEST = 0.2
"""The weight of the newest answer against all earlier ones."""
_LONG_ENOUGH = 200
"""Bytes; a shorter prompt says more about the template than about the text."""
_BOUNDS = (1.0, 16.0)
"""Bytes per token; figures outside were counted differently (a truncated prompt, say)."""


class Estimate(Struct):
    """The estimates for one model, with their initial values."""

    bytes_per_token: float = 4.0
    overhead: float = 12.0
    """Tokens that a template adds to each message, and once to the whole chat."""
    answer: float = 256.0
    """Tokens of an answer that no limit truncates."""
    limit: int | None = None
    """A context, in tokens, that proved too short for a prompt: memory and settings may leave less
    than the model declares."""

    def learn(self, requirements: Requirements, usage: Usage) -> None:
        tokens = usage.prompt_tokens - requirements.prompt_tokens
        if requirements.prompt_bytes >= _LONG_ENOUGH:
            text = max(tokens - self.overhead * _frames(requirements), 1)
            least, most = _BOUNDS
            measured = min(max(requirements.prompt_bytes / text, least), most)
            self.bytes_per_token = _mean(self.bytes_per_token, measured)
        elif requirements.messages:
            rest = tokens - requirements.prompt_bytes / self.bytes_per_token
            self.overhead = _mean(self.overhead, max(rest / _frames(requirements), 0.0))
        self.answer = _mean(self.answer, usage.completion_tokens)
        if self.limit is not None and usage.prompt_tokens >= self.limit:
            self.limit = None


class Estimates:
    """The estimates for all models, by backend and the backend's name of the model."""

    def __init__(self) -> None:
        self._estimates: dict[Key, Estimate] = {}

    def prompt_tokens(self, key: Key, requirements: Requirements) -> int:
        """Estimate the tokens of a prompt for the model `key`."""
        estimate = self._estimates.get(key) or Estimate()
        text = requirements.prompt_bytes / estimate.bytes_per_token
        return int(requirements.prompt_tokens + text + estimate.overhead * _frames(requirements))

    def answer_tokens(self, keys: Sequence[Key], requirements: Requirements) -> float:
        """Estimate the tokens of an answer, all choices together, by the model known as `keys`."""
        known = [self._estimates[key].answer for key in keys if key in self._estimates]
        usual = sum(known) / len(known) if known else Estimate().answer
        return requirements.n * (
            usual if requirements.max_tokens is None else min(usual, requirements.max_tokens)
        )

    def learn(self, key: Key, requirements: Requirements, usage: Usage) -> None:
        """Learn from one choice of an answer; `usage` is of that choice alone."""
        self._estimates.setdefault(key, Estimate()).learn(requirements, usage)

    def limit(self, key: Key) -> int | None:
        """The context, in tokens, that proved too short for a prompt, if one did."""
        estimate = self._estimates.get(key)
        return estimate.limit if estimate is not None else None

    def refused(self, key: Key, limit: int | None) -> None:
        """Note that a prompt was too long for the model `key` and its `limit` in tokens."""
        self._estimates.setdefault(key, Estimate()).limit = limit


def _frames(requirements: Requirements) -> int:
    return requirements.messages + 1 if requirements.messages else 0


def _mean(known: float, newest: float) -> float:
    return (1 - _NEWEST) * known + _NEWEST * newest

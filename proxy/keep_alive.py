"""Parse `keep_alive` and `ttl`: how long a model stays loaded, in Ollama's and LM Studio's form."""

from adapters.errors import InvalidRequestError
from proxy.durations import to_seconds

KeepAlive = int | float | str


def to_keep_alive(keep_alive: KeepAlive | None, ttl: float | None) -> float | None:
    """The seconds that a model stays loaded unused; negative: for ever, `None`: not given.

    Raises:
        InvalidRequestError: `keep_alive` is not a duration, or differs from `ttl`.
    """
    seconds = _to_seconds(keep_alive) if isinstance(keep_alive, str) else keep_alive
    if ttl is not None and seconds is not None and ttl != seconds:
        raise InvalidRequestError("'ttl' conflicts with 'keep_alive'.", param="ttl")
    return ttl if seconds is None else seconds


def _to_seconds(text: str) -> float:
    if (seconds := to_seconds(text)) is None:
        raise InvalidRequestError(
            "'keep_alive' must be a number of seconds or a duration such as '5m' or '1h30m'.",
            param="keep_alive",
        )
    return seconds

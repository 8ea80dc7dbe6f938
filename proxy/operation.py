"""What the OpenAPI document tells of a route where its handler cannot: bodies are read raw."""

from typing import Any

from msgspec import Struct


class Operation(Struct, frozen=True, kw_only=True):
    """Given to a route as `operation=`. Types are what msgspec has a schema for."""

    summary: str
    answers: tuple[Any, ...]
    """One of them is the whole answer."""
    asks: tuple[Any, ...] = ()
    """One of them is the body; none: there is no body."""
    may_be_empty: bool = False
    """The body may be left out."""
    events: tuple[Any, ...] = ()
    """What a streamed answer is made of."""
    media_type: str = "text/event-stream"
    """Of a streamed answer."""
    may_force: bool = False
    """It looks at the request's header `x-tandem-backend`."""

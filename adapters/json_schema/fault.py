"""Name what is wrong with a part of a schema."""

from typing import NamedTuple

from adapters.errors import InvalidRequestError, UnsupportedParameterError


class Fault(NamedTuple):
    """A part of a schema that is not enforced."""

    path: str
    """Place in the schema, such as `.properties.a.not`; "" for the schema as a whole."""
    keyword: str
    """Its name; "" for a subschema or the schema as a whole."""
    reason: str
    is_mistake: bool = False
    """The schema is wrong by itself; otherwise another engine may enforce it."""
    is_annotation: bool = False
    """No answer can violate it, so that a strict schema may have it."""

    def to_error(self, place: str) -> InvalidRequestError:
        """Return the error for a strict schema, which stands at `place` in the request."""
        kind = InvalidRequestError if self.is_mistake else UnsupportedParameterError
        return kind(self.reason, param=place + self.path)

"""The backend that a request requires: by `BACKEND/MODEL`, a header, or `backend` in its body."""

from collections.abc import Collection, Mapping

from adapters.errors import InvalidRequestError

HEADER = "x-tandem-backend"
"""The response has a header of the same name, with the backend that answered."""
_LONGEST = 80
"""Characters of an unknown name that the error repeats."""


def to_override(
    model: str, headers: Mapping[str, str], field: str | None, backends: Collection[str]
) -> str:
    """`model` as `BACKEND/MODEL` if the request requires one of `backends`, else unchanged.

    Raises:
        InvalidRequestError: there is no such backend, or the request names two.
    """
    prefix, slash, _ = model.partition("/")
    in_name = {"model": prefix} if slash and prefix in backends else {}
    others = {HEADER: headers.get(HEADER), "backend": field}
    required = in_name | {param: name for param, name in others.items() if name is not None}
    if not required:
        return model
    first = next(iter(required.values()))
    for param, name in required.items():
        if name not in backends:
            raise InvalidRequestError(
                f"'{param}' requires the backend {name[:_LONGEST]!r}, which does not exist; use "
                f"{' or '.join(backends)}.",
                param=param,
            )
    for param, name in required.items():
        if name != first:
            raise InvalidRequestError(
                f"The request requires two backends, {first!r} and {name!r}.", param=param
            )
    return model if in_name else f"{first}/{model}"

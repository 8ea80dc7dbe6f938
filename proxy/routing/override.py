"""The backend that a request insists on: `mlx/NAME`, a header, or `backend` in its body."""

from collections.abc import Collection, Mapping

from adapters.errors import InvalidRequestError

HEADER = "x-tandem-backend"
"""The reply has one of the same name, which says who answered."""
_LONGEST = 80


def to_override(
    model: str, headers: Mapping[str, str], field: str | None, kinds: Collection[str]
) -> str:
    """`model` as `KIND/NAME` where the request insists on one of `kinds`, else as it is.

    Raises:
        InvalidRequestError: there is no such backend, or the request names two.
    """
    kind, slash, _ = model.partition("/")
    in_name = {"model": kind} if slash and kind in kinds else {}
    others = {HEADER: headers.get(HEADER), "backend": field}
    asked = in_name | {param: said for param, said in others.items() if said is not None}
    if not asked:
        return model
    for param, said in asked.items():
        _check_kind(param, said, kinds)
    _check_agreement(asked)
    return model if in_name else f"{next(iter(asked.values()))}/{model}"


def _check_kind(param: str, said: str, kinds: Collection[str]) -> None:
    if said not in kinds:
        raise InvalidRequestError(
            f"'{param}' asks for the backend {said[:_LONGEST]!r}; there is {' and '.join(kinds)}.",
            param=param,
        )


def _check_agreement(asked: Mapping[str, str]) -> None:
    first = next(iter(asked.values()))
    for param, said in asked.items():
        if said != first:
            raise InvalidRequestError(
                f"The request insists on two backends, {first!r} and {said!r}.", param=param
            )

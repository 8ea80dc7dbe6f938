"""Counterparts: models of two backends that are the same, by the config or by their weights.

Similar names are never taken as evidence.
"""

from collections.abc import Callable, Iterable, Mapping

from adapters.backend import Model

Models = Mapping[str, Model]
"""A backend's models, by its own names."""
Key = tuple[str, str]
"""A backend's name, and its own name of a model."""


class DeclaredCounterparts:
    """The pairs of the config. A model that is paired with two others has no counterpart."""

    def __init__(self, aliases: Iterable[Mapping[str, str]]) -> None:
        """`aliases`: a model's names by backend, each."""
        self._others: dict[tuple[Key, str], set[str]] = {}
        for names in aliases:
            for key in names.items():
                for other in names.keys() - {key[0]}:
                    self._others.setdefault((key, other), set()).add(names[other])

    def counterpart(self, key: Key, other: str) -> str | None:
        """The name of the model `key` on the backend `other`, if both sides agree on one."""
        backend, _ = key
        names = self._others.get((key, other), set())
        is_mutual = all(len(self._others[(other, name), backend]) == 1 for name in names)
        return next(iter(names)) if len(names) == 1 and is_mutual else None


def by_name(name: str, _here: Models, there: Models) -> str | None:
    """Match a model that both backends list by the same name, as imports are."""
    return name if name in there else None


def by_origin(name: str, here: Models, there: Models) -> str | None:
    """Match the only model there with weights from the same GGUF file.

    Tags that differ only in their template share an origin and are ambiguous, so they have no
    counterpart; names of one digest are one model. A primed model is a model of its own, and so
    are models of two servers with different digests: their templates differ.
    """
    if (model := here.get(name)) is None or model.origin is None:
        return None
    ours, theirs = _with_origin(model.origin, here), _with_origin(model.origin, there)
    if _count(ours) != 1 or _count(theirs) != 1:
        return None
    both = (*ours, *theirs)
    if any(model.primed for model in both) or len({model.digest for model in both} - {None}) > 1:
        return None
    return min(model.name for model in theirs)


INFERRED: tuple[Callable[[str, Models, Models], str | None], ...] = (by_name, by_origin)
"""Rules that find the name there of the model `name` here, in order of precedence."""


def _with_origin(origin: str, models: Models) -> list[Model]:
    return [model for model in models.values() if model.origin == origin]


def _count(models: Iterable[Model]) -> int:
    return len({model.digest or model.name for model in models})

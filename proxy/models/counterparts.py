"""Which models of two backends are one and the same: said in the config, or known by their weights.

Nothing is ever guessed from names that are merely alike.
"""

from collections.abc import Callable, Iterable, Mapping

from adapters.backend import Model

Models = Mapping[str, Model]
"""A backend's models, by its own names."""
Key = tuple[str, str]
"""A backend's kind, and its own name of a model."""


class DeclaredCounterparts:
    """The pairs of the config. A model that it pairs with two others is paired with none."""

    def __init__(self, entries: Iterable[Mapping[str, str]]) -> None:
        """Each entry has a model's names by kind."""
        self._others: dict[tuple[Key, str], set[str]] = {}
        for names in entries:
            for key in names.items():
                for other in names.keys() - {key[0]}:
                    self._others.setdefault((key, other), set()).add(names[other])

    def counterpart(self, key: Key, other: str) -> str | None:
        found = self._others.get((key, other), set())
        return next(iter(found)) if len(found) == 1 and self._is_mutual(key, other) else None

    def _is_mutual(self, key: Key, other: str) -> bool:
        kind, _ = key
        return all(len(self._others[(other, name), kind]) == 1 for name in self._others[key, other])


def by_name(name: str, _here: Models, there: Models) -> str | None:
    """The other backend's name of a model that both call the same, as imports are."""
    return name if name in there else None


def by_origin(name: str, here: Models, there: Models) -> str | None:
    """The other backend's name of the one model that has its weights from the same file.

    Where several have, as tags do that differ in their template, nobody knows which is meant;
    names of one digest are one model. One that is primed is another.
    """
    if (model := here.get(name)) is None or model.origin is None:
        return None
    ours, theirs = _of_origin(model.origin, here), _of_origin(model.origin, there)
    if len(_distinct(ours)) != 1 or len(_distinct(theirs)) != 1:
        return None
    if any(each.primed for each in (*ours, *theirs)):
        return None
    return min(each.name for each in theirs)


FOUND: tuple[Callable[[str, Models, Models], str | None], ...] = (by_name, by_origin)


def _of_origin(origin: str, models: Models) -> list[Model]:
    return [model for model in models.values() if model.origin == origin]


def _distinct(models: Iterable[Model]) -> set[str]:
    return {model.digest or model.name for model in models}

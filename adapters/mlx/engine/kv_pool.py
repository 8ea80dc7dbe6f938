"""The KV memory of all models on the engine. Changed on its thread only."""


class Pool:
    def __init__(self) -> None:
        self.limit: int | None = None
        """Bytes; `None`: each model has its own limit only."""
        self.least: dict[str, int] = {}
        """Bytes guaranteed to each loaded model: enough for one answer."""
        self.rows: dict[str, int] = {}
        """Bytes reserved for the rows of each model."""

    def fits(self, model: str, nbytes: int) -> bool:
        """Return whether the rows of `model` may take `nbytes` in all."""
        if self.limit is None:
            return True
        others = sum(self.share(name) for name in self.least if name != model)
        return others + nbytes <= self.limit

    def most(self, model: str) -> int | None:
        """Return the most that the rows of `model` may take while no other model has rows."""
        if self.limit is None:
            return None
        return self.limit - sum(self.least.values()) + self.least.get(model, 0)

    def share(self, model: str) -> int:
        return max(self.least.get(model, 0), self.rows.get(model, 0))

    @property
    def taken(self) -> int:
        return sum(self.share(name) for name in tuple(self.least))

    def drop(self, model: str) -> None:
        self.least.pop(model, None)
        self.rows.pop(model, None)

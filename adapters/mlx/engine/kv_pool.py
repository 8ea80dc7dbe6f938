"""What the rows of all models on the engine may take together. Changed on its thread only."""


class Pool:
    def __init__(self) -> None:
        self.limit: int | None = None
        """Bytes; `None`: each model has its own limit, and no more."""
        self.least: dict[str, int] = {}
        """What each loaded model always has: enough for one answer."""
        self.rows: dict[str, int] = {}
        """What the rows of each model are set aside for now."""

    def fits(self, model: str, nbytes: int) -> bool:
        """Whether the rows of `model` may take so much in all."""
        if self.limit is None:
            return True
        others = sum(self.share(name) for name in self.least if name != model)
        return others + nbytes <= self.limit

    def most(self, model: str) -> int | None:
        """What the rows of `model` may take when no other model answers anybody."""
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

"""Run an image encoder a layer at a time, whichever model it belongs to.

Arrays of MLX are lazy: running a model only describes the computation. The layers note what they
return, and these results are computed one after the other, so that other models have a step in
between and a cancelled request stops the encoder.
"""

# pyright: basic
from collections.abc import Callable, Iterator
from typing import Any

import mlx.core as mx
from mlx import nn

from adapters.mlx.jobs import Pieces


class LayerTape:
    """The results of all layers outside the language model, in the order of their calls."""

    def __init__(self, model: Any) -> None:
        """Make the layers of `model` note their results."""
        self._results: list[mx.array] = []
        for layer in {id(layer): layer for layer in _layers(model)}.values():
            self._observe(layer)

    def run(self, compute: Callable[[], Any], *, layers: bool) -> Pieces[Any]:
        """Return what `compute` returns, still lazy; `layers`: with the layers that it used
        computed, one for each piece."""
        self._results = []
        try:
            returned = compute()
            results, self._results = self._results, []
            results.reverse()
            yield
            while layers and results:
                mx.eval(results.pop())
                yield
            return returned
        finally:
            self._results = []

    def _observe(self, layer: nn.Module) -> None:
        kind = type(layer)

        def call(module: Any, *args: Any, **kwargs: Any) -> Any:
            returned = kind.__call__(module, *args, **kwargs)
            self._note(returned)
            return returned

        # A class of its own: Python looks up `__call__` on classes.
        layer.__class__ = type(kind.__name__, (kind,), {"__call__": call})

    def _note(self, returned: Any) -> None:
        if isinstance(returned, (tuple, list)):
            returned = next((part for part in returned if isinstance(part, mx.array)), None)
        if isinstance(returned, mx.array):
            self._results.append(returned)


def _layers(model: Any) -> Iterator[nn.Module]:
    """Yield the modules in lists of several, except those of the language model."""
    for name, child in model.children().items():
        if name != "language_model":
            yield from _listed(child)


def _listed(value: Any) -> Iterator[nn.Module]:
    if isinstance(value, list):
        if len(value) > 1:
            yield from (each for each in value if isinstance(each, nn.Module))
        for each in value:
            yield from _listed(each)
    elif isinstance(value, nn.Module):
        for child in value.children().values():
            yield from _listed(child)
    elif isinstance(value, dict):
        for child in value.values():
            yield from _listed(child)

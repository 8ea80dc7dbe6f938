"""The non-linear functions by the names that `config.json` has for them."""

# pyright: basic
from collections.abc import Callable

import mlx.core as mx
from mlx import nn

_ACTIVATIONS: dict[str, Callable[[mx.array], mx.array]] = {
    "gelu": nn.gelu,
    "gelu_new": nn.gelu_approx,
    "gelu_pytorch_tanh": nn.gelu_approx,
    "relu": nn.relu,
    "silu": nn.silu,
    "swish": nn.silu,
    "tanh": mx.tanh,
    "identity": lambda x: x,
}


def activation(name: str) -> Callable[[mx.array], mx.array]:
    """
    Raises:
        ValueError: there is no such function here.
    """
    if name not in _ACTIVATIONS:
        raise ValueError(f"the activation {name!r} is not known")
    return _ACTIVATIONS[name]

"""The same weights for MLX: a GGUF file becomes a folder that mlx-lm loads.

    architectures.py   which tensors a model has, what MLX calls them, its `config.json`
    packing.py         GGUF's blocks <-> MLX's packed integers with a scale and a bias
    weights.py         writes `model.safetensors` and reads it back to check every tensor
    ../../gguf/tokenizer.py  `tokenizer.json` and `tokenizer_config.json` from the GGUF's vocabulary
    convert.py         all of it, into a folder that is there whole or not at all

What cannot be carried over is refused by name. mlx is not imported: `mx.load` reads some GGUF
types wrongly without a word, and a converter needs no GPU. `python -m adapters.mlx.gguf` runs it.
"""

from adapters.gguf.conversion import InexactGGUFError, UnsupportedGGUFError
from adapters.mlx.gguf.convert import Report, convert

__all__ = ["InexactGGUFError", "Report", "UnsupportedGGUFError", "convert"]

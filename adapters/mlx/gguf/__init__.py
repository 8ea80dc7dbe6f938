"""Convert a GGUF file to a folder that mlx-lm loads.

    architectures/     tensors of each architecture, their names in MLX, `config.json`
    packing.py         GGUF's blocks <-> MLX's packed integers with a scale and a bias
    weights.py         writes `model.safetensors` and reads it back to check every tensor
    ../../gguf/tokenizer.py  `tokenizer.json` and `tokenizer_config.json` from the GGUF's vocabulary
    convert.py         the conversion as a whole; the folder appears complete or not at all

Tensors and settings that are not supported are rejected by name. mlx is not imported: `mx.load`
silently misreads some GGUF types, and a converter needs no GPU. `python -m adapters.mlx.gguf`
runs it.
"""

from adapters.gguf.conversion import InexactGGUFError, UnsupportedGGUFError
from adapters.mlx.gguf.convert import Report, convert

__all__ = ["InexactGGUFError", "Report", "UnsupportedGGUFError", "convert"]

"""The other way: an MLX folder becomes a GGUF file that Ollama and llama.cpp run.

    arrays.py      what lies in the folder's `*.safetensors`, without loading it
    blocks.py      MLX's affine groups -> GGUF's blocks
    settings.py    `config.json` -> metadata
    vocabulary.py  `tokenizer.json` -> metadata
    write.py       all of it, into one file, each tensor read back

mlx is not imported. What cannot be carried over is refused by name.
"""

from adapters.mlx.to_gguf.write import Written, write_gguf

__all__ = ["Written", "write_gguf"]

"""Convert an MLX folder to a GGUF file for Ollama and llama.cpp.

    arrays.py      reads the folder's `*.safetensors` lazily
    blocks.py      MLX's affine groups -> GGUF's blocks
    settings.py    `config.json` -> metadata
    vocabulary.py  `tokenizer.json` -> metadata
    write.py       writes one file and reads every tensor back

mlx is not imported. Tensors and settings that are not supported are rejected by name.
"""

from adapters.mlx.to_gguf.write import Written, write_gguf

__all__ = ["Written", "write_gguf"]

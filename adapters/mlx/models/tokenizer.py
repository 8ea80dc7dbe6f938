"""The tokenizer of a model's folder."""

# pyright: basic
from pathlib import Path
from typing import Any

from mlx_lm.utils import load_tokenizer

from adapters.errors import GenerationError


def open_tokenizer(folder: Path, ends: Any = None) -> Any:
    """Load a tokenizer as mlx-lm does.

    Code of the folder is never run: without the setting, transformers would ask at the terminal.

    `ends`: ids of the tokens that end an answer, where config.json has any.

    Raises:
        GenerationError: the tokenizer is code of the folder.
    """
    try:
        return load_tokenizer(folder, {"trust_remote_code": False}, eos_token_ids=ends)
    except ValueError as error:
        if "trust_remote_code" not in str(error):
            raise
        raise GenerationError(
            "The tokenizer of this model is a program in its folder: such programs are not run.",
            lasting=True,
        ) from error

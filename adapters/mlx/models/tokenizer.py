"""The tokenizer of a model's folder."""

# pyright: basic
from collections.abc import Mapping
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


def rename_tokens(described: dict[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Return the JSON of a tokenizer with other names for some of its added tokens.

    The post-processor, which names tokens, is left out, and so are merges of these tokens: added
    tokens are found before any merge. A vocabulary has names with ids, or pairs of name and score.
    """
    model = dict(described["model"])
    if isinstance(model["vocab"], dict):
        model["vocab"] = {names.get(name, name): token for name, token in model["vocab"].items()}
    else:
        model["vocab"] = [[names.get(name, name), score] for name, score in model["vocab"]]
    if "merges" in model:
        model["merges"] = [pair for pair in model["merges"] if "".join(pair) not in names]
    if model.get("unk_token") in names:
        model["unk_token"] = names[model["unk_token"]]
    added = [
        {**token, "content": names.get(token["content"], token["content"])}
        for token in described["added_tokens"]
    ]
    return {**described, "added_tokens": added, "model": model, "post_processor": None}

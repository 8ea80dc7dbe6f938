"""Results of costly tests of models, kept in the user's state folder for later starts.

Imports neither mlx nor transformers: the catalogue keeps results with it too.
"""

import logging
import os
from pathlib import Path
from typing import TypeVar

import msgspec

from adapters.config import make_private_folder, user_state_folder

logger = logging.getLogger(__name__)
T = TypeVar("T")


def read_result(folder: str, key: str, kind: type[T]) -> T | None:
    """Return what was kept for `key`; `None` if there is nothing, or nothing of this type."""
    try:
        return msgspec.json.decode(_file(folder, key).read_bytes(), type=kind)
    except (OSError, msgspec.MsgspecError):
        return None


def keep_result(folder: str, key: str, result: msgspec.Struct) -> None:
    """Keep `result`, in place of an earlier one; a folder that cannot be written keeps nothing."""
    file = _file(folder, key)
    try:
        make_private_folder(file.parent)
        partial = file.with_name(f".{file.name}")
        partial.write_bytes(msgspec.json.encode(result))
        partial.rename(file)
    except (OSError, UnicodeError) as error:
        logger.info("a result is not kept in %s: %s", folder, error)


def _file(folder: str, key: str) -> Path:
    return user_state_folder(os.environ) / folder / f"{key}.json"

"""Remove the files of models that were downloaded or imported, and of no others."""

import shutil
from pathlib import Path

from adapters.config import MLXConfig
from adapters.errors import InvalidRequestError
from adapters.mlx.models.bundled import imports_folder
from adapters.mlx.models.catalog import ModelFolder, huggingface_cache


def to_removable(folder: ModelFolder, config: MLXConfig) -> Path:
    """Return the folder to remove with `remove`.

    Raises:
        InvalidRequestError: it lies in a folder of the user, or has no files of its own.
    """
    name, path = folder.model.name, folder.path
    if folder.base is not None or name in config.models:
        raise _refusal(name, "it is made from other models by `backends.mlx.models`")
    if path is None:
        raise _refusal(name, "it is part of the installation")
    if not (_is_downloaded(path, config) or _is_imported(path, config)):
        raise _refusal(name, "only what was downloaded or imported is deleted, and it is neither")
    return path


def remove(path: Path, config: MLXConfig) -> None:
    """Remove the folder of a model, all of its revisions included, from `to_removable`.

    Raises:
        OSError: the files cannot be removed.
    """
    if _is_downloaded(path, config):
        _remove_from_hub_cache(huggingface_cache(), path)
    else:
        shutil.rmtree(path)


def _is_downloaded(path: Path, config: MLXConfig) -> bool:
    return config.huggingface_cache and path.is_relative_to(huggingface_cache())


def _is_imported(path: Path, config: MLXConfig) -> bool:
    return path.is_relative_to(imports_folder(config.cache_folder))


def _remove_from_hub_cache(cache: Path, path: Path) -> None:
    """Remove the repository with the snapshot `path`, by the hub's client, which shares files."""
    # Imported here: it takes megabytes that few servers need.
    from huggingface_hub import scan_cache_dir

    repository = cache / path.relative_to(cache).parts[0]
    found = scan_cache_dir(cache)
    revisions = [
        revision.commit_hash
        for repo in found.repos
        if repo.repo_path == repository.resolve()
        for revision in repo.revisions
    ]
    found.delete_revisions(*revisions).execute()


def _refusal(name: str, reason: str) -> InvalidRequestError:
    return InvalidRequestError(f"'{name}' cannot be deleted: {reason}.", param="model")

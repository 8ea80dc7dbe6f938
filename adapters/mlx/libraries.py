"""The first import of MLX and mlx-lm, before the modules here that use them."""

import logging

from adapters.descriptors import kept_limit
from adapters.errors import BackendUnavailableError

logger = logging.getLogger(__name__)


def import_libraries() -> None:
    """Import MLX and mlx-lm, on the engine's thread; once imported, a call costs nothing.

    Raises:
        BackendUnavailableError: one of them cannot be imported. A GPU's driver may be missing, or a
            file of the installation.
    """
    try:
        with kept_limit():
            import mlx_lm as _  # noqa: F401
    except Exception as error:
        logger.exception("MLX cannot be used")
        raise BackendUnavailableError(
            f"MLX cannot be used ({type(error).__name__}); `tandem doctor` shows the reason."
        ) from error

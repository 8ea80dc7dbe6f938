"""Audio of requests and answers: files to samples, samples to files. Needs the extra `audio`."""

from importlib.util import find_spec

from adapters.errors import UnsupportedParameterError


def require_codecs(param: str) -> None:
    """Check that audio files can be read and written.

    Raises:
        UnsupportedParameterError: the extra is not installed; names it.
    """
    if find_spec("av") is None:
        raise UnsupportedParameterError(
            "Audio needs the extra tandem-proxy[audio]: pip install 'tandem-proxy[audio]'.",
            param=param,
        )

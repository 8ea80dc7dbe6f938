"""Errors that a backend raises deliberately.

    BackendError
    ├── InvalidRequestError         the request is wrong
    │   ├── UnsupportedParameterError   … a feature this backend or model does not support
    │   └── ContextLengthError          … more tokens than the model's context length
    ├── ModelNotFoundError          no backend has a model of that name
    ├── BackendBusyError            the queue is full; retry later
    │   └── NoDescriptorsError          … this process has too many open connections
    ├── InsufficientMemoryError     the model does not fit; retries are useless
    ├── BackendUnavailableError     not running, or disconnected before it answered
    ├── BackendTimeoutError         running, but does not respond in time
    ├── BadUpstreamError            unexpected or truncated response
    └── GenerationError             the engine failed to generate

Exceptions of libraries (httpx, ollama, mlx, jinja2) are converted to one of these where they are
caught. Any other exception that reaches a caller is a bug in Tandem.
"""


class BackendError(Exception):
    """Base class. `param` is the field of the request that caused the error, if there is one."""

    retry_after: float | None = None
    """Seconds after which to retry."""
    lasting = False
    """True if the same request will fail again, so that clients must not retry."""

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        retry_after: float | None = None,
        lasting: bool | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        if retry_after is not None:
            self.retry_after = retry_after
        if lasting is not None:
            self.lasting = lasting


class InvalidRequestError(BackendError):
    pass


class UnsupportedParameterError(InvalidRequestError):
    pass


class ContextLengthError(InvalidRequestError):
    prompt_tokens: int | None = None
    """Number of tokens of the prompt, if the engine reported it."""
    limit: int | None = None
    """Context length in tokens, if known."""


class ModelNotFoundError(BackendError):
    pass


class BackendBusyError(BackendError):
    retry_after = 1.0


class NoDescriptorsError(BackendBusyError):
    pass


class InsufficientMemoryError(BackendError):
    lasting = True


class BackendUnavailableError(BackendError):
    retry_after = 5.0


class BackendTimeoutError(BackendError):
    pass


class BadUpstreamError(BackendError):
    pass


class GenerationError(BackendError):
    pass

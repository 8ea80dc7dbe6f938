"""Everything a backend raises on purpose.

    BackendError
    ├── InvalidRequestError         the caller's mistake
    │   ├── UnsupportedParameterError   … something this backend or model cannot honour
    │   └── ContextLengthError          … more tokens than the model's context holds
    ├── ModelNotFoundError          nobody has a model of that name
    ├── BackendBusyError            its queue is full: later
    ├── InsufficientMemoryError     the model does not fit: not later either
    ├── BackendUnavailableError     it is not there, or went away before it answered
    ├── BackendTimeoutError         it is there and says nothing
    ├── BadUpstreamError            what it says makes no sense, or breaks off
    └── GenerationError             it failed at the work itself

Foreign exceptions (httpx, ollama, mlx, jinja2) become one of these where they are met; what
reaches a caller as anything else is a defect of Tandem.
"""


class BackendError(Exception):
    """The root. `param` names what in the request is to blame, if anything is."""

    retry_after: float | None = None
    """Seconds after which another try may go better."""
    lasting = False
    """True where the same request will fail again, so that clients must not repeat it."""

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
    """How many the prompt has, where the engine has told."""
    limit: int | None = None
    """How many there is room for, where that is known."""


class ModelNotFoundError(BackendError):
    pass


class BackendBusyError(BackendError):
    retry_after = 1.0


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

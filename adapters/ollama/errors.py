"""Translation of foreign failures to Tandem's errors: three tables, read top to bottom.

A failure is looked up by exception where no response came, by Ollama's message where it is known,
and otherwise by HTTP status. The message goes first because the status does not tell the client's
mistakes from the server's: an option of a wrong type is a 500 there.

Ollama's own words are not repeated but for the parts that a row of the table names: an error of a
server, or of a proxy before it, may hold paths, keys and prompts.
"""

import logging
import re
import socket
import ssl
from collections.abc import Callable

import httpx
import msgspec
from msgspec import Struct

from adapters.errors import (
    BackendBusyError,
    BackendError,
    BackendTimeoutError,
    BackendUnavailableError,
    BadUpstreamError,
    ContextLengthError,
    GenerationError,
    InsufficientMemoryError,
    InvalidRequestError,
    ModelNotFoundError,
    UnsupportedParameterError,
)
from adapters.ollama.official import ollama
from adapters.ollama.wire import ErrorBody, RunnerError, RunnerErrorBody

log = logging.getLogger("tandem")

_MOST_WORDS = 200


class Row(Struct, frozen=True):
    before: type[BackendError]
    """The error before the first line of an answer, …"""
    after: type[BackendError]
    """… and after it."""
    message: str


_ABSENT = Row(BackendUnavailableError, BadUpstreamError, "Ollama cannot be reached.")
ENDED_EARLY = "Ollama's response ended before it was done."
_LOST = Row(BackendUnavailableError, BadUpstreamError, ENDED_EARLY)
SILENT = "Ollama did not respond in time."
_SILENT = Row(BackendTimeoutError, BackendTimeoutError, SILENT)
UNEXPECTED = "Unexpected response from Ollama."
_NONSENSE = Row(BadUpstreamError, BadUpstreamError, UNEXPECTED)

EXCEPTIONS: dict[type[Exception], Row] = {
    httpx.ConnectError: _ABSENT,
    httpx.ConnectTimeout: _ABSENT,
    httpx.ProxyError: _ABSENT,
    ConnectionError: _ABSENT,  # What the official client makes of httpx.ConnectError.
    httpx.PoolTimeout: Row(BackendBusyError, BackendBusyError, "Too many requests to Ollama."),
    httpx.TimeoutException: _SILENT,
    TimeoutError: _SILENT,
    httpx.NetworkError: _LOST,
    httpx.RemoteProtocolError: _LOST,
    httpx.StreamError: _LOST,
    httpx.LocalProtocolError: _NONSENSE,
    httpx.ProtocolError: _NONSENSE,
    httpx.DecodingError: _NONSENSE,
    httpx.TooManyRedirects: _NONSENSE,
    httpx.HTTPStatusError: _NONSENSE,
    httpx.UnsupportedProtocol: _ABSENT,
    httpx.InvalidURL: _ABSENT,
    ollama.ResponseError: _NONSENSE,
    msgspec.MsgspecError: _NONSENSE,
    UnicodeError: _NONSENSE,
    RecursionError: _NONSENSE,  # The decoder's, for a response that is nested too deeply.
}


_REASONS: tuple[tuple[type[Exception], str], ...] = (
    (
        ssl.SSLCertVerificationError,
        "Ollama's certificate is not trusted ({reason}): name one that is in $SSL_CERT_FILE.",
    ),
    (ssl.SSLError, "Ollama's address is https, but the server does not use TLS: try http."),
    (socket.gaierror, "The name of Ollama's host cannot be resolved."),
)
"""Why there is no connection, where the configuration can be corrected."""


def find_row(error: type[Exception]) -> Row:
    """Return the row of the nearest base class.

    Raises:
        KeyError: there is none; a test walks the foreign exceptions for that.
    """
    for kind in error.__mro__:
        if kind in EXCEPTIONS:
            return EXCEPTIONS[kind]
    raise KeyError(error)


FOREIGN = tuple(EXCEPTIONS)


def translate(error: Exception, began: bool) -> BackendError:
    """Return the error for `error`, one of `FOREIGN`; `began`: the answer had begun."""
    row = find_row(type(error))
    return (row.after if began else row.before)(_reason(error.__cause__) or row.message)


def _reason(cause: BaseException | None) -> str | None:
    detail = getattr(cause, "verify_message", "")
    words = (words for kind, words in _REASONS if isinstance(cause, kind))
    return next((text.format(reason=detail) for text in words), None)


class TemplateRefusalError(InvalidRequestError):
    """The chat template of the model raises an exception for these messages."""


class RunnerFailedError(GenerationError):
    """The process that computes the model has ended, or does not start: it will again."""

    lasting = True


MODEL_FAULTS = (BadUpstreamError, RunnerFailedError)


class LostAnswerError(BadUpstreamError):
    """The model has answered, and the parser of its answers cannot read it."""


class UnwantedThoughtError(LostAnswerError):
    """The answer begins with a thought, which the request excludes: renderers of models that always
    think ignore `think: false`, and some parsers begin in a thought that no prompt opens."""


class UnexplainedError(BadUpstreamError):
    """A failure in words that no row knows: of each parser that is built into Ollama, for one."""


def _too_long(_words: str, runner: RunnerError | None) -> ContextLengthError:
    if runner is None or runner.n_prompt_tokens is None or runner.n_ctx is None:
        return ContextLengthError("The prompt is longer than the context.", param="messages")
    error = ContextLengthError(
        f"The context holds {runner.n_ctx} tokens; the prompt alone has {runner.n_prompt_tokens}.",
        param="messages",
    )
    error.prompt_tokens, error.limit = runner.n_prompt_tokens, runner.n_ctx
    return error


def _refuses(param: str, what: str) -> Callable[[str, RunnerError | None], BackendError]:
    message = f"This model of Ollama does not support {what}."
    return lambda _words, _runner: UnsupportedParameterError(message, param=param)


def _refused_by_template(words: str, _runner: RunnerError | None) -> TemplateRefusalError:
    """Keep the template's own reason, of the many lines that llama-server has around it."""
    reason = words.rpartition("Jinja Exception: ")[2] if "Jinja Exception: " in words else ""
    what = f": {_shown(reason)}" if reason else "."
    return TemplateRefusalError(
        f"The model's chat template rejects these messages{what}", param="messages"
    )


def _as(
    kind: type[BackendError], message: str, param: str | None = None, *, lasting: bool | None = None
) -> Callable[[str, RunnerError | None], BackendError]:
    """Make an error with `message`, in which `{}` is the text that the row has found."""
    return lambda words, _runner: kind(message.format(words), param=param, lasting=lasting)


_NO_MODEL = "Ollama has no such model."
_OF_A_MODEL = r"""(?:["'][\w./:@-]{1,200}["'] )?"""

_WORDS: tuple[tuple[str, Callable[[str, RunnerError | None], BackendError]], ...] = (
    # First, because the text of the model follows.
    (
        r"^error parsing tool call: raw=",
        _as(LostAnswerError, "The model's answer is not of the form that its template expects."),
    ),
    (r"exceeds? (the |maximum )?(available )?context (size|length)", _too_long),
    (r"prompt (is )?too long", _too_long),
    (r"does not support tools", _refuses("tools", "tools")),
    (r"does not support thinking", _refuses("reasoning_effort", "reasoning")),
    (
        r"invalid think value|think value .* not supported",
        _refuses("reasoning_effort", "this reasoning_effort"),
    ),
    (r"does not support insert", _refuses("suffix", "a suffix")),
    (
        r"does not support (multimodal|images|vision)|image input is not supported"
        r"|missing data required for image input",
        _refuses("images", "images"),
    ),
    (
        _OF_A_MODEL + r"does not support (embeddings|chat|generate)",
        _as(InvalidRequestError, "This model of Ollama: {}.", "model"),
    ),
    (
        r"illegal base64|failed to (load|process|decode) image|(de|en)code WebP image",
        _as(InvalidRequestError, "Ollama cannot decode an image: it is damaged.", "images"),
    ),
    (
        r"JSON schema|json_schema|^invalid format: |failed to parse grammar",
        lambda _words, _runner: InvalidRequestError(
            "Ollama cannot make a grammar of this schema: it may be too large, or refer to itself"
            " without an end.",
            param="response_format",
        ),
    ),
    (
        r"(?s:(?:Unable to generate parser|While executing).*)?Jinja Exception: [^\n]*"
        r"|Jinja Exception|While executing|Unable to generate parser",
        _refused_by_template,
    ),
    (
        r"does not match the expected [\w-]+ format|returned invalid tool call arguments",
        _as(LostAnswerError, "The model's answer is not of the form that its template expects."),
    ),
    (
        r"top_logprobs must be",
        _as(InvalidRequestError, "'top_logprobs' must be from 0 to 20.", "logprobs"),
    ),
    (r"option \"\w+\" must be of type \w+", _as(InvalidRequestError, "Ollama: {}.")),
    (
        r"cannot unmarshal .*\.tools\.",
        lambda _words, _runner: InvalidRequestError(
            "Ollama cannot read the parameters of a tool: they are not of the form of a JSON"
            " schema.",
            param="tools",
        ),
    ),
    # About the recipe of a model. Source: `server/create.go` of Ollama.
    (
        r"no files provided to convert|only one adapter is currently supported"
        r"|supplied file was not in GGUF format|neither 'from' or 'files' was specified"
        r"|file path must be relative|invalid digest format"
        r"|unsupported quantization type(?: \w+ - supported types are [\w, ]+)?",
        _as(InvalidRequestError, "Ollama cannot make this model: {}."),
    ),
    (
        r"requires more system memory( \([\d.]+ \w+\) than is available( \([\d.]+ \w+\))?)?"
        r"|out of memory|not enough memory",
        _as(InsufficientMemoryError, "The model does not fit into Ollama's memory: {}."),
    ),
    (r"(manifest|model).*(file )?does not exist", _as(ModelNotFoundError, _NO_MODEL, "model")),
    (r"invalid model name", _as(InvalidRequestError, "Ollama: {}.", "model")),
    # Not public, or not for this version of Ollama.
    (
        r"pull model manifest: (40[13]|412|realm host)",
        _as(
            ModelNotFoundError,
            "The registry has no such public model, or none for this version of Ollama.",
            "model",
        ),
    ),
    (
        r"pull model manifest|no such host|dial tcp|network is unreachable|i/o timeout"
        r"|max retries exceeded|connection (refused|reset)",
        _as(
            BackendUnavailableError, "Ollama cannot connect to another server, such as a registry."
        ),
    ),
    (r"server busy", _as(BackendBusyError, "Ollama's queue is full.")),
    (
        r"no space left on device|disk quota exceeded",
        _as(InsufficientMemoryError, "Ollama has no space for its files: {}."),
    ),
    (
        r"digest mismatch, file must be downloaded again",
        _as(BadUpstreamError, "The downloaded file is damaged: download the model again."),
    ),
    (r"digest mismatch", _as(InvalidRequestError, "The file has another digest: {}.")),
    (
        r"error was encountered while running the model: unexpected EOF",
        _as(BadUpstreamError, "Ollama's runner has ended within the answer."),
    ),
    # From the runner, about one prompt: it continues with others.
    (
        r"^got exception",
        _as(GenerationError, "Ollama's runner failed on this prompt.", lasting=True),
    ),
    (
        r"(unable|failed) to load model|error loading model"
        r"|runner (process )?(has terminated|has unexpectedly stopped|no longer running)",
        _as(RunnerFailedError, "Ollama's runner of the model has failed; Ollama's log says why."),
    ),
    (r"^model .* not found", _as(ModelNotFoundError, _NO_MODEL, "model")),
)

_STATUS: dict[int, tuple[type[BackendError], str, str | None]] = {
    400: (InvalidRequestError, "Ollama rejects this request.", None),
    404: (ModelNotFoundError, _NO_MODEL, "model"),
    413: (InvalidRequestError, "The request is too large for Ollama.", None),
    429: (BackendBusyError, "Ollama is busy.", None),
    500: (UnexplainedError, "Ollama answered with HTTP status 500.", None),
    503: (BackendBusyError, "Ollama is busy.", None),
}
"""Any other status is a fault of Ollama, or of a proxy in front of it."""
_STATUS_OF_OTHERS: dict[int, type[BackendError]] = {
    429: BackendBusyError,
    503: BackendUnavailableError,
}
"""For responses without a message, which Ollama itself always gives: a proxy in front of it."""


def blame_input(error: BackendError) -> None:
    """Name `input` as the parameter at fault: an embedding request has no messages."""
    if isinstance(error, ContextLengthError):
        error.param = "input"


def from_line(words: str) -> BackendError:
    """Return the error for a line `{"error": words}`, be it the first or a later one."""
    error = _from_words(words)
    if error is None:
        _note_unknown(words)
        error = UnexplainedError("Ollama failed; its log says why.")
    return error


def from_response(status: int, body: bytes, retry_after: str | None) -> BackendError:
    """Return the error for a response other than 200. Only Ollama's own message is repeated."""
    words = _error_words(body)
    error = words and _from_words(words)
    if not error:
        error = _from_status(status, words)
    seconds = _seconds(retry_after)
    if seconds is not None and isinstance(error, BackendBusyError | BackendUnavailableError):
        error.retry_after = seconds
    return error


def _from_status(status: int, words: str | None) -> BackendError:
    unknown = f"Ollama answered with HTTP status {status}."
    if words is None:
        return _STATUS_OF_OTHERS.get(status, BadUpstreamError)(unknown)
    _note_unknown(words)
    kind, message, param = _STATUS.get(status, (BadUpstreamError, unknown, None))
    return kind(message, param=param)


def _note_unknown(words: str) -> None:
    """Log words that no row knows. Not by default: they may have a part of a prompt."""
    log.debug("Ollama: %s", _shown(words))


def _from_words(words: str) -> BackendError | None:
    runner = _runner_error(words)
    message = runner.message if runner else words
    for pattern, make in _WORDS:
        if found := re.search(pattern, message, re.IGNORECASE):
            return make(found[0], runner)
    return None


def _error_words(body: bytes) -> str | None:
    """Return the text in `{"error": "…"}`; `None` for any other body."""
    try:
        return msgspec.json.decode(body, type=ErrorBody).error
    except (msgspec.MsgspecError, UnicodeError):
        return None


def _runner_error(words: str) -> RunnerError | None:
    try:
        return msgspec.json.decode(words, type=RunnerErrorBody).error
    except (msgspec.MsgspecError, UnicodeError):
        return None


_PATH = re.compile(r"(?<![\w.])(/[^\s/:\"']+){2,}|\b[A-Za-z]:\\\S+")


def _shown(words: str) -> str:
    """Return `words` on one line, 200 characters at most, without paths of the machine."""
    runner = _runner_error(words)
    line = " ".join((runner.message if runner else words).split())
    return _PATH.sub("…", line)[:_MOST_WORDS] or "Ollama failed without a message."


def _seconds(retry_after: str | None) -> float | None:
    """Return `Retry-After` in seconds; `None` for a date, which is left to the default."""
    return float(retry_after) if retry_after and re.fullmatch(r"\d{1,6}", retry_after) else None

"""The server that commands talk to: one that runs, or one that is started for the command."""

import json
import os
import signal
import subprocess
import sys
import weakref
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from adapters.config import make_private_folder
from proxy.access.keys import KEY_VARIABLE, find_own_key
from proxy.cli.command import CommandError
from proxy.config import Config, state_folder

if TYPE_CHECKING:
    import httpx

_PROBE_SECONDS = 2.0
_END_SECONDS = 2.0
"""For answers in progress at the server that a command has started, when the command ends."""
_ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104
_MARK = "x-tandem-backend"
"""Every response of Tandem has this header."""
_ADDRESS_FILE = "server.json"


class RunningServer:
    """A client of one server. Failures are `CommandError`s with the server's own message."""

    def __init__(self, url: str, key: str | None) -> None:
        """
        Raises:
            CommandError: `url` is none.
        """
        import httpx

        self.url, self.key = url, key
        headers = {"authorization": f"Bearer {key}"} if key else {}
        # Proxies of the environment are for other machines, and this is a server of the user's.
        # An answer may take minutes, and a download hours.
        limit = httpx.Timeout(None, connect=_PROBE_SECONDS)
        try:
            address = httpx.URL(url)
        except httpx.InvalidURL:
            address = httpx.URL()
        if address.scheme not in ("http", "https") or not address.host:
            raise CommandError(f"'{url}' is no address; write http://HOST:PORT.")
        self._client = httpx.Client(
            base_url=address, headers=headers, timeout=limit, trust_env=False
        )
        weakref.finalize(self, self._client.close)

    def is_there(self) -> bool:
        """True if Tandem responds at the address, whatever it answers."""
        import httpx

        try:
            return _MARK in self._client.get("/", timeout=_PROBE_SECONDS).headers
        except (httpx.HTTPError, httpx.InvalidURL):
            return False

    def get(self, path: str) -> Any:
        return self._request("GET", path)

    def post(self, path: str, body: object) -> Any:
        return self._request("POST", path, body)

    def delete(self, path: str, body: object) -> Any:
        return self._request("DELETE", path, body)

    def _request(self, method: str, path: str, body: object = None) -> Any:
        with self._opened(method, path, body) as response:
            content = response.read()
        return json.loads(content) if content else None

    def lines(self, path: str, body: object) -> Iterator[dict[str, Any]]:
        """The objects of an NDJSON stream.

        Raises:
            CommandError: the request, or the work on the way, failed.
        """
        with self._opened("POST", path, body) as response:
            for line in response.iter_lines():
                if line.strip():
                    yield _checked(json.loads(line))

    def events(self, path: str, body: object) -> Iterator[dict[str, Any]]:
        """The objects of a stream of server-sent events, without the last, `[DONE]`.

        Raises:
            CommandError: the request, or the answer on the way, failed.
        """
        with self._opened("POST", path, body) as response:
            for line in response.iter_lines():
                data = line.removeprefix("data:").strip()
                if line.startswith("data:") and data != "[DONE]":
                    yield _checked(json.loads(data))

    @contextmanager
    def _opened(self, method: str, path: str, body: object) -> "Generator[httpx.Response]":
        import httpx

        sent = None if body is None else _to_json(body)
        headers = {} if sent is None else {"content-type": "application/json"}
        try:
            with self._client.stream(method, path, content=sent, headers=headers) as response:
                if response.status_code >= 400:
                    response.read()
                    raise CommandError(_message(response.status_code, response.text))
                yield response
        except httpx.HTTPError as exc:
            reason = str(exc).rstrip(".")
            raise CommandError(
                f"The connection to {self.url} failed: {reason}. If the server has ended, `tandem "
                "logs` may say why, and `tandem serve` starts it."
            ) from exc


def _to_json(body: object) -> bytes:
    """
    Raises:
        CommandError: a text of it is not Unicode.
    """
    try:
        return json.dumps(body, ensure_ascii=False).encode()
    except UnicodeEncodeError as exc:  # Python reads such bytes as surrogates.
        raise CommandError(
            "The text has bytes that are no characters in this terminal's encoding. Convert it to "
            "UTF-8, as by `iconv -f LATIN1 -t UTF-8`."
        ) from exc


def _checked(event: dict[str, Any]) -> dict[str, Any]:
    """Return `event` unless it is an error."""
    if "error" in event:
        raise CommandError(_message(None, json.dumps(event)))
    return event


def _message(status: int | None, text: str) -> str:
    """The message of an error in any dialect, with the next step."""
    code: object = None
    try:
        error: Any = json.loads(text)["error"]
        if isinstance(error, dict):
            code, error = cast(Any, error).get("code"), cast(Any, error)["message"]
        message = str(error)
    except (ValueError, KeyError, TypeError):
        message = f"The server answered with status {status}."
    if code == "model_not_found" and "Did you mean" not in message:
        message += " `tandem models` lists all."
    if status in (401, 403):
        message += f" Set ${KEY_VARIABLE} to a key of this server that may do this."
    return message


def find_server(config: Config, url: str | None = None) -> RunningServer | None:
    """The server at `url`, else at the address of the settings, else the last that was started.

    Raises:
        CommandError: `url` is given and is none, or no Tandem responds there.
    """
    state = state_folder(config, os.environ)
    key = _own_key(state)
    if url is not None:
        with_scheme = url if "://" in url or not url else f"http://{url}"
        server = RunningServer(with_scheme.removesuffix("/").removesuffix("/v1"), key)
        if not server.is_there():
            raise CommandError(f"No Tandem responds at {url}. Start one with `tandem serve`.")
        return server
    candidates = (to_url(config.server.host, config.server.port), _noted_url(state))
    servers = (RunningServer(candidate, key) for candidate in candidates if candidate is not None)
    return next((server for server in servers if server.is_there()), None)


def require_server(config: Config, url: str | None = None) -> RunningServer:
    """The server that runs.

    Raises:
        CommandError: there is none.
    """
    server = find_server(config, url)
    if server is None:
        address = to_url(config.server.host, config.server.port)
        raise CommandError(
            f"No server responds at {address}. Start it with `tandem serve`, or give its address "
            "with `--url`."
        )
    return server


@contextmanager
def any_server(config: Config, url: str | None, file: str | None) -> Generator[RunningServer]:
    """The server that runs, else one that is started with the settings of `file` until the end."""
    if (server := find_server(config, url)) is not None:
        yield server
        return
    with _exit_on_signals(), started_server(config, file) as server:
        yield server


@contextmanager
def started_server(config: Config, file: str | None) -> Generator[RunningServer]:
    """A server with the settings of `file`, on any free port of this machine, until the end.

    Raises:
        CommandError: it does not start.
    """
    named = ("--config", file) if file is not None else ()
    # -P: not a folder named `proxy` in the working directory.
    command = (sys.executable, "-P", "-m", "proxy.cli.own_server")
    with _running((*command, "--host", "127.0.0.1", "--port", "0", *named)) as process:
        line = process.stdout.readline() if process.stdout is not None else ""
        start, _, address = line.strip().removesuffix("/v1").rpartition(" ")
        if not start.endswith("listens on"):
            raise CommandError("No server could be started. `tandem doctor` finds out why.")
        yield RunningServer(address, _own_key(state_folder(config, os.environ)))


@contextmanager
def _exit_on_signals() -> Generator[None]:
    """Turn the signals that end a command into exceptions, so that it ends its server first."""

    def leave(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    before = {each: signal.signal(each, leave) for each in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _running(command: Sequence[str]) -> Generator[subprocess.Popen[str]]:
    process = subprocess.Popen(  # noqa: S603
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        # The user's Ctrl-C is for the command, which ends the server.
        start_new_session=True,
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.communicate(timeout=_END_SECONDS)
        except subprocess.TimeoutExpired:
            process.terminate()  # The second signal cuts the answers that are in progress.
            process.communicate()


def to_url(host: str, port: int) -> str:
    """The URL of a server that listens on `host`."""
    name = _ANYWHERE.get(host, host)
    return f"http://[{name}]:{port}" if ":" in name else f"http://{name}:{port}"


def _own_key(state: Path) -> str | None:
    try:
        return find_own_key(os.environ, state)
    except ValueError as exc:
        raise CommandError(f"The key of this machine's commands cannot be used: {exc}") from exc


@contextmanager
def noted(state: Path, url: str) -> Generator[None]:
    """Note the address of a server for the commands of this user until the end."""
    file, note = state / _ADDRESS_FILE, {"url": url, "pid": os.getpid()}
    with suppress(OSError):  # A folder that cannot be written costs the note, not the server.
        make_private_folder(state)
        file.write_text(json.dumps(note), encoding="utf-8")
    try:
        yield
    finally:
        with suppress(OSError, ValueError):
            if json.loads(file.read_text(encoding="utf-8")) == note:
                file.unlink()


def _noted_url(state: Path) -> str | None:
    with suppress(OSError, ValueError, KeyError, TypeError):
        return str(json.loads((state / _ADDRESS_FILE).read_text(encoding="utf-8"))["url"])
    return None

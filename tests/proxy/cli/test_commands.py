"""Commands against a running server, and the messages of those that fail."""

import asyncio
import io
import json
import os
import pty
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import pytest
from fakes.waiting import until_now
from servers.server_process import Running, command, serving, write

from adapters.config import EMBEDDED
from adapters.mlx.kept_results import keep_result
from proxy.cli import main
from proxy.cli.chat import with_stdin
from proxy.cli.command import CommandError
from proxy.cli.conversation import Conversation
from proxy.cli.running_server import RunningServer, noted
from proxy.cli.serve import plain_options
from proxy.config import Config, StoreConfig
from proxy.doctor.machine import check_disk
from proxy.encryption import Encryption
from proxy.log_file import LOG_FILE, LogFile
from proxy.stored.entry import Page
from proxy.stored.store import Store

SETTINGS = (
    "backends: {mlx: null, ollama: null, echo: {models: [org/echo, other, 'model:1b']}}\n"
    "models: {fast: {echo: org/echo}}\n"
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with serving(write(tmp_path_factory.mktemp("server"), SETTINGS)) as running:
        yield running


@pytest.fixture
def tandem(
    server: Running, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Any:
    """Runs a command against the server; returns its status, stdout and stderr."""
    monkeypatch.setenv("TANDEM_URL", f"http://127.0.0.1:{server.port}")
    monkeypatch.delenv("TANDEM_CONFIG", raising=False)
    monkeypatch.setattr("sys.stdin", io.StringIO())

    def run(*words: str) -> tuple[int, str, str]:
        status = main(words)
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


pytestmark = pytest.mark.process


def test_models_of_the_server_are_listed(tandem: Any):
    status, out, err = tandem("models")
    rows = [line.split() for line in out.splitlines()]
    assert (status, err) == (0, "")
    assert ["fast", "echo", "org/echo"] in [row[:3] for row in rows]
    _, out, _ = tandem("models", "--json")
    assert "other" in [card["id"] for card in json.loads(out)["data"]]


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ("tandem show f", "fast"),
        ("tandem load --url {url} f", "fast"),
        ("tandem chat model:1", "1b"),
        ("tandem chat model:", "1b"),
        ("tandem bench model f", "fast"),
        ("tandem bench f", "fast"),
        ("tandem import f", "fast"),
        ("tandem connect codex --model f", "fast"),
        ("tandem doctor --model f", "fast"),
    ],
)
def test_shell_completes_models_of_the_server_of_the_command(
    server: Running, words: str, shown: str
):
    url = f"http://127.0.0.1:{server.port}"
    # Bash splits words at colons, and sends them in lines.
    lines = words.format(url=url).replace(" ", "\n").replace(":", "\n:\n").strip("\n")
    typed = {"COMP_WORDS": lines, "COMP_CWORD": str(lines.count("\n"))}
    given = {} if "--url" in words else {"TANDEM_URL": url}
    env = os.environ | typed | given | {"_TANDEM_COMPLETE": "complete_bash", "TANDEM_PORT": "9"}
    program = [sys.executable, "-c", "from proxy.cli import main; main()"]
    done = subprocess.run(program, capture_output=True, text=True, env=env)
    assert done.stdout.split() == [shown]


def test_model_with_a_slash_is_loaded_and_unloaded(tandem: Any):
    status, out, _ = tandem("load", "org/echo", "--keep-alive", "5m", "--json")
    assert (status, json.loads(out)["status"]) == (0, "loaded")
    assert tandem("load", "fast")[2] == "fast is loaded on echo\n"
    status, out, _ = tandem("unload", "org/echo", "--json")
    assert (status, json.loads(out)["status"]) == (0, "unloaded")


@pytest.mark.parametrize("keep_alive", ["soon", "5 m", "nan", "inf"])
def test_keep_alive_that_is_no_time_is_a_wrong_argument(
    tandem: Any, capsys: pytest.CaptureFixture[str], keep_alive: str
):
    with pytest.raises(SystemExit) as end:
        tandem("load", "fast", "--keep-alive", keep_alive)
    assert end.value.code == 2
    assert "such as 5m" in capsys.readouterr().err


def test_memory_of_the_server_is_shown(tandem: Any):
    status, out, _ = tandem("ps")
    assert status == 0
    assert "are in use." in out
    assert set(json.loads(tandem("ps", "--json")[1])) == {"budget", "used", "models", "loading"}


def test_model_is_shown_by_an_alias(tandem: Any):
    status, out, _ = tandem("show", "fast", "--json")
    shown = json.loads(out)
    assert (status, shown["card"]["id"]) == (0, "fast")
    assert shown["details"]["model_info"]["general.basename"] == "echo"
    assert "org/echo" in tandem("show", "fast")[1]


def test_route_is_explained(tandem: Any):
    status, out, _ = tandem("route", "fast", "Hello")
    assert status == 0
    assert out.startswith("echo answers with 'org/echo'.\n")
    assert json.loads(tandem("route", "fast", "--json")[1])["backend"] == "echo"


def test_one_answer_is_printed(tandem: Any):
    assert tandem("chat", "fast", "Hello there")[:2] == (0, "Hello there\n")
    answer = json.loads(tandem("chat", "fast", "Hello there", "--json")[1])
    assert (answer["text"], answer["model"]) == ("Hello there", "fast")
    assert answer["usage"]["completion_tokens"] == 2


def test_prompt_is_read_from_a_pipe(tandem: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("From a pipe"))
    assert tandem("chat", "fast")[1] == "From a pipe\n"


def test_prompt_follows_what_comes_through_a_pipe(tandem: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("A file\nof two lines\n"))
    assert tandem("chat", "fast", "Sum it up")[1] == "A file\nof two lines\nSum it up\n"


def test_prompt_goes_alone_when_stdin_is_closed(tandem: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sys.stdin", None)
    assert tandem("chat", "fast", "Hello there") == (0, "Hello there\n", "")
    status, _, err = tandem("chat", "fast")
    assert (status, "The prompt is empty" in err) == (2, True)


def test_prompt_goes_alone_when_an_open_pipe_stays_without_data(capsys: pytest.CaptureFixture[str]):
    reading, writing = os.pipe()
    with os.fdopen(reading) as pipe, os.fdopen(writing, "w"):
        assert with_stdin("Hello there", pipe, seconds=0.01) == "Hello there"
    assert "nothing came through stdin within 0.01 s" in capsys.readouterr().err


def test_prompt_that_is_empty_is_not_sent(tandem: Any):
    status, out, err = tandem("chat", "fast")
    assert (status, out) == (2, "")
    assert "The prompt is empty" in err


def test_image_by_path_is_sent(tandem: Any, tmp_path: Path):
    (tmp_path / "a.txt").write_text("no image")
    status, _, err = tandem("chat", "fast", "Look", "--image", str(tmp_path / "a.txt"))
    assert status == 1
    assert "is no image; use a file that ends with one of .png" in err
    status, _, err = tandem("chat", "fast", "Look", "--image", str(tmp_path / "gone.png"))
    assert (status, "cannot be read: No such file" in err) == (1, True)


@pytest.mark.parametrize("command", ["show", "load", "unload", "rm", "route", "chat"])
@pytest.mark.parametrize("name", ["", " ", "a\nb", "caf\udce9"])
def test_name_that_is_none_is_a_wrong_argument(
    tandem: Any, capsys: pytest.CaptureFixture[str], command: str, name: str
):
    with pytest.raises(SystemExit) as end:
        tandem(command, name)
    captured = capsys.readouterr()
    assert (end.value.code, captured.out) == (2, "")
    assert "`tandem models` lists all" in captured.err


@pytest.mark.parametrize("name", ["..", "../health", "org/../other"])
@pytest.mark.parametrize("command", ["show", "load", "unload"])
def test_name_is_no_path(tandem: Any, command: str, name: str):
    status, out, err = tandem(command, name)
    assert (status, out) == (1, "")
    assert f"Model '{name}' not found." in err


def test_prompt_that_is_no_text_is_not_sent(tandem: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"caf\xe9"), encoding="utf-8"))
    for words in (("chat", "fast"), ("chat", "fast", "caf\udce9"), ("route", "fast", "caf\udce9")):
        status, out, err = tandem(*words)
        assert (status, out) == (1, "")
        assert "iconv" in err


class _Scripted:
    """A server that fails, or sends words and then waits, and keeps the messages it was sent."""

    def __init__(self) -> None:
        self.end: BaseException | None = None
        self.contents: list[list[Any]] = []

    def events(self, path: str, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        self.contents.append([message["content"] for message in body["messages"]])
        if isinstance(self.end, CommandError):
            raise self.end
        yield {"choices": [{"delta": {"content": "Half"}}]}
        if self.end is not None:
            raise self.end


def test_server_that_is_gone_is_reported_with_the_next_step():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = RunningServer(f"http://127.0.0.1:{listener.getsockname()[1]}", None)
        accepting = threading.Thread(target=lambda: listener.accept()[0].close())
        accepting.start()
        with pytest.raises(CommandError) as failure:
            server.get("/health")
        accepting.join()
    assert ".." not in str(failure.value)
    assert "`tandem serve` starts it" in str(failure.value)


def test_conversation_keeps_what_was_interrupted_and_not_what_failed(tmp_path: Path):
    (tmp_path / "a.png").write_bytes(b"x")
    talk, server = Conversation("m", None, {}), _Scripted()
    for words, end in (
        (f"Look at {tmp_path / 'a.png'}", CommandError("no images")),
        ("One", KeyboardInterrupt()),
        ("Two", None),
    ):
        server.end = end
        with suppress(KeyboardInterrupt, CommandError):
            list(talk.ask(cast(RunningServer, server), words))
    assert server.contents[1:] == [["One"], ["One", "Half", "Two"]]


def test_unknown_model_has_the_servers_message(tandem: Any):
    status, out, err = tandem("load", "org/ecko")
    assert (status, out) == (1, "")
    assert err == "tandem: Model 'org/ecko' not found. Did you mean 'org/echo'?\n"


def test_model_is_not_deleted_without_a_confirmation(tandem: Any):
    status, _, err = tandem("rm", "fast")
    assert (status, err) == (1, "tandem: Nothing was deleted: confirm with --yes.\n")


def test_what_is_next_is_said_without_a_command(tandem: Any):
    status, out, _ = tandem()
    assert status == 0
    assert "models. Next:" in out
    assert "tandem chat" in out


def test_the_next_step_without_a_server_has_the_address_of_the_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.delenv("TANDEM_URL", raising=False)
    monkeypatch.setenv("TANDEM_CONFIG", str(write(tmp_path, "server: {port: 9}")))
    monkeypatch.setenv("TANDEM_STATE_FOLDER", str(tmp_path))
    assert main([]) == 0
    assert "start the server at http://127.0.0.1:9\n" in capsys.readouterr().out


def test_schema_is_printed_also_where_the_settings_are_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("TANDEM_CONFIG", str(write(tmp_path, "server: {port: x}")))
    for words in (["config", "schema"], ["config", "schema", "--json"]):
        assert main(words) == 0
        assert "properties" in json.loads(capsys.readouterr().out)


def test_reload_of_a_running_server_is_reported(tandem: Any):
    assert tandem("config", "reload")[1] == "Changed: nothing.\n"


def test_address_without_a_scheme_is_understood(tandem: Any, server: Running):
    status, out, err = tandem("models", "--url", f"127.0.0.1:{server.port}")
    assert (status, err) == (0, "")
    assert "org/echo" in out


@pytest.mark.parametrize("url", ["", "http://", "ftp://a", "//a", "http://[::1"])
def test_address_that_cannot_be_one_names_the_form(url: str, capsys: pytest.CaptureFixture[str]):
    assert main(["ps", "--url", url]) == 1
    assert capsys.readouterr().err.endswith("' is no address; write http://HOST:PORT.\n")


def test_download_without_a_backend_names_the_next_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("TANDEM_PORT", "10")
    config = write(tmp_path, "backends: {mlx: null, ollama: {host: 'http://127.0.0.1:9'}}")
    assert main(["pull", "x", "--config", str(config)]) == 1
    assert capsys.readouterr().err == (
        "tandem: x: Ollama cannot be reached. `tandem doctor` says what to do.\n"
    )


@pytest.mark.parametrize(
    "url", ["http://[::1", "http://a:b", "http://a:99999", "x y", "http://\x01"]
)
def test_address_that_is_none_is_reported(url: str, capsys: pytest.CaptureFixture[str]):
    assert main(["ps", "--url", url]) == 1
    assert capsys.readouterr().err.startswith("tandem: ")


def test_server_that_is_not_there_is_reported_with_the_next_step(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("TANDEM_PORT", "9")
    assert main(["ps"]) == 1
    err = capsys.readouterr().err
    assert err.startswith("tandem: No server responds at http://127.0.0.1:9. Start it with ")
    monkeypatch.setenv("TANDEM_URL", "http://127.0.0.1:9/v1")
    assert main(["models"]) == 1
    assert "No Tandem responds at http://127.0.0.1:9/v1" in capsys.readouterr().err


def test_wrong_settings_are_reported_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = write(tmp_path, "server:\n  port: x\n  prot: 1\n")
    with pytest.raises(SystemExit) as end:
        main(["config", "check", str(path), "--json"])
    told = json.loads(capsys.readouterr().out)
    assert (end.value.code, told["ok"]) == (2, False)
    assert [(p["line"], p["key"]) for p in told["problems"]] == [(2, "server.port"), (3, "server")]
    assert main(["config", "check", str(path)]) == 2
    assert capsys.readouterr().err.count("tandem: ") == 2


@pytest.mark.parametrize(
    ("server", "key"),
    [
        ("host: 0.0.0.0", "server.host"),
        ("keys: [{name: a, key: env:TANDEM_NO_SUCH_KEY}]", "server.keys[0].key"),
    ],
)
def test_settings_that_no_server_starts_with_are_reported(
    server: str, key: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    path = write(tmp_path, f"server:\n  {server}\n")
    assert main(["config", "check", str(path)]) == 2
    assert f"$.{key}: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("offered", "remark"), [("auto", "only where MLX"), ("never", "offered never"), ("always", "")]
)
def test_alias_of_a_model_that_may_be_withheld_is_named_with_the_setting(
    offered: str, remark: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    text = f"backends: {{mlx: {{embedded: {offered}}}}}\nmodels: {{a: {{mlx: {EMBEDDED}}}}}\n"
    assert main(["config", "check", str(write(tmp_path, text))]) == 0
    err = capsys.readouterr().err
    assert ("`embedded: always`" in err, remark in err) == (bool(remark), True)


def test_settings_that_are_not_there_name_the_command_that_finds_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(["config", "check", str(tmp_path / "none.yaml")]) == 2
    assert "No such file or directory; `tandem config path` names" in capsys.readouterr().err


def test_versions_are_printed(capsys: pytest.CaptureFixture[str]):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("tandem ")
    assert main(["version", "--json"]) == 0
    assert {"tandem", "python", "system"} <= set(json.loads(capsys.readouterr().out))


def test_help_has_no_section_on_errors(capsys: pytest.CaptureFixture[str]):
    assert main(["pull", "--help"]) == 0
    assert "Raises" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "options"),
    [
        ([], {}),
        (["--port", "8250", "--host=::1"], {"port": "8250", "host": "::1"}),
        (["--config", "a.yaml"], {"config": "a.yaml"}),
        (["--port", "x"], None),
        (["--port", "70000"], None),
        (["--port"], None),
        (["--help"], None),
        (["extra"], None),
    ],
)
def test_plain_options_of_serve_need_no_parser(words: list[str], options: object):
    assert plain_options(words) == options


def test_serve_imports_no_command_line_library():
    code = (
        "import sys, proxy.cli\n"
        "proxy.cli.main(['serve', '--config', '/nonexistent'])\n"
        "print(*{'typer', 'rich', 'click', 'httpx', 'tomlkit'} & set(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "\n"


def test_log_is_kept_and_replaced_when_it_is_full(tmp_path: Path, capsys: Any):
    log = LogFile(sys.stderr, tmp_path / "state" / LOG_FILE, max_bytes=10)
    log.write("first line\n")
    log.write("second\n")
    log.close()
    assert (tmp_path / "state" / f"{LOG_FILE}.1").read_text() == "first line\n"
    assert (tmp_path / "state" / LOG_FILE).read_text() == "second\n"
    assert (tmp_path / "state" / LOG_FILE).stat().st_mode & 0o777 == 0o600
    assert capsys.readouterr().err == "first line\nsecond\n"


def log_in(state: Path) -> None:
    log = LogFile(None, state / LOG_FILE)
    log.write("a line\n")
    log.close()


def note_in(state: Path) -> None:
    with noted(state, "http://127.0.0.1:1"):
        pass


def encrypt_in(state: Path) -> None:
    Encryption(state).encrypt("a text", "a purpose")


def store_in(state: Path) -> None:
    asyncio.run(_store_in(state))


async def _store_in(state: Path) -> None:
    store = Store(state / "stored", StoreConfig())
    async with store.opened():
        await store.list("response", "", Page())


def check_in(_state: Path) -> None:
    asyncio.run(check_disk(Config()))


def keep_in(_state: Path) -> None:
    keep_result("templates", "a-key", Page())


@pytest.mark.parametrize("write_in", [log_in, note_in, encrypt_in, store_in, check_in, keep_in])
def test_state_folder_is_private_under_any_umask(
    tmp_path: Path, write_in: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
):
    """It has the address and the key of the commands: others could put their own there."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    before = os.umask(0)
    try:
        write_in(tmp_path / "tandem")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "tandem").stat().st_mode) == 0o700


def test_log_that_cannot_be_written_is_given_up_once(tmp_path: Path, capsys: Any):
    (tmp_path / "file").touch()
    log = LogFile(sys.stderr, tmp_path / "file" / LOG_FILE)
    log.write("one\n")
    log.write("two\n")
    err = capsys.readouterr().err
    assert err.count("cannot be written") == 1
    assert err.endswith("one\ntwo\n")


def test_lines_of_the_log_are_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    config = write(tmp_path, f"server: {{state_folder: '{tmp_path}'}}")
    assert main(["logs", "--config", str(config)]) == 1
    assert "start a server with `tandem serve`" in capsys.readouterr().err
    (tmp_path / LOG_FILE).write_text(
        "method=GET status=200 streamed=False total_s=0.5\nWARNING tandem: Hm.\n"
    )
    assert main(["logs", "-n", "1", "--config", str(config)]) == 0
    assert capsys.readouterr().out == "WARNING tandem: Hm.\n"
    assert main(["logs", "--json", "--config", str(config)]) == 0
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == [
        {"method": "GET", "status": 200, "streamed": False, "total_s": 0.5},
        {"message": "WARNING tandem: Hm."},
    ]


def test_log_of_another_server_is_printed(tandem: Any, server: Running):
    tandem("route", "fast")
    logs = ("logs", "-n", "1", "--json", "--url", f"127.0.0.1:{server.port}")
    until_now(lambda: "/api/route" in tandem(*logs)[1])
    (line,) = tandem(*logs)[1].splitlines()
    assert (json.loads(line)["path"], json.loads(line)["status"]) == ("/api/route", 200)
    assert tandem("logs", "-n", "0")[:2] == (0, "")
    assert "outcome=ok" in tandem("logs")[1]


@pytest.mark.long
def test_hangup_reloads_the_settings(tmp_path: Path):
    config = write(tmp_path, SETTINGS)
    with serving(config) as running:
        config.write_text(SETTINGS.replace("fast:", "quick:"))
        running.process.send_signal(signal.SIGHUP)
        assert running.process.stderr is not None
        assert "Changed: models.quick, models.fast." in running.process.stderr.readline()
        assert running.get("/v1/models/quick")[0] == 200
        config.write_text("server: {port: x}")
        running.process.send_signal(signal.SIGHUP)
        line = running.process.stderr.readline()
        assert "is not reloaded, and the old one stays" in line
        assert "$.server.port" in line
        assert running.get("/v1/models/quick")[0] == 200
        config.unlink()
        os.mkfifo(config)  # Without a writer it is opened by no reader.
        running.process.send_signal(signal.SIGHUP)
        assert "not a regular file" in running.process.stderr.readline()
        assert running.get("/v1/models/quick")[0] == 200


@pytest.mark.long
def test_signals_without_a_meaning_end_no_server(tmp_path: Path):
    with serving(write(tmp_path, SETTINGS)) as running:
        for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM):
            running.process.send_signal(number)
            assert running.get("/livez")[0] == 200


@pytest.mark.long
def test_conversation_on_a_terminal(server: Running):
    controller, terminal = pty.openpty()
    url = f"http://127.0.0.1:{server.port}"
    process = subprocess.Popen(
        command("chat", "fast", "--url", url),
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        env=os.environ | {"TERM": "dumb", "COLUMNS": "100"},
    )
    os.close(terminal)
    shown = ""
    for sent, awaited in (
        ("", ">>> "),
        ("Hello **there**\n", "tokens"),
        ("/system Be brief.\n", ">>> "),
        ("/nonsense\n", "There is no command"),
        ("/model\n", "/model needs a name"),
        ("/model gone[vision]\n", "Model 'gone[vision]' not found"),
        ("/bye\n", ""),
    ):
        os.write(controller, sent.encode())
        part = ""
        while awaited not in part:
            part += os.read(controller, 4096).decode(errors="replace")
        shown += part
    assert process.wait(30) == 0
    os.close(controller)
    # Markdown is rendered.
    assert "Hello there" in shown


@pytest.mark.long
@pytest.mark.parametrize("columns", [80, 40])
@pytest.mark.parametrize("words", [("models",), ("show", "fast"), ("connect",)])
def test_tables_fit_into_the_terminal(server: Running, columns: int, words: tuple[str, ...]):
    controller, terminal = pty.openpty()
    url = f"http://127.0.0.1:{server.port}"
    with subprocess.Popen(
        command(*words, "--url", url),
        stdin=subprocess.DEVNULL,
        stdout=terminal,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"COLUMNS": str(columns)},
    ) as process:
        os.close(terminal)
        shown = b""
        with suppress(OSError):  # The terminal's end.
            while part := os.read(controller, 4096):
                shown += part
        assert process.stderr is not None
        remark = process.stderr.read()
    os.close(controller)
    lines = shown.decode().partition("\r\n\r\n`tandem connect")[0].splitlines()
    assert max(map(len, lines)) <= columns
    assert ("no room for" in remark) is (columns == 40 or words == ("connect",))
    if words != ("connect",):
        assert lines[0].startswith("MODEL")
        assert "fast" in shown.decode()


@pytest.mark.long
def test_a_server_is_started_for_a_command_that_needs_one(tmp_path: Path):
    config = write(tmp_path, SETTINGS)
    words = command("chat", "fast", "Hello alone", "--config", str(config))
    env = os.environ | {"TANDEM_PORT": "9"}
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=env)
    assert (done.returncode, done.stdout, done.stderr) == (0, "Hello alone\n", "")

"""`tandem` as a process: start, memory, signals, and error messages."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from fakes.tiny_model import write_tiny_model
from fakes.waiting import until, until_now
from servers.server_process import command, serving, write

pytestmark = pytest.mark.process

HEAVY = {"mlx", "mlx_lm", "transformers", "numpy", "openai", "torch", "faiss", "pytest"}


def echo(folder: Path, *, delay: float = 0, grace: float = 1) -> Path:
    return write(
        folder,
        f"server: {{shutdown_grace: {grace}}}\n"
        f"backends: {{mlx: null, ollama: null, echo: {{delay: {delay}}}}}\n",
    )


def both(folder: Path) -> Path:
    """Write a config with both engines, and an unreachable Ollama."""
    return write(folder, "backends: {ollama: {host: 'http://127.0.0.1:9'}}\n")


def run(*args: str) -> subprocess.CompletedProcess[str]:
    # No server of this machine's user, at the usual port, is meant.
    own = os.environ | {"TANDEM_PORT": "10"}
    return subprocess.run(command(*args), capture_output=True, text=True, timeout=60, env=own)


def test_serves_both_engines_in_88_mib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    # Coverage measurement adds about 5 MiB to the server.
    monkeypatch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)
    with serving(both(tmp_path)) as running:
        assert running.get("/v1/models")[0] == 200
        assert running.get("/health")[0] == 200
        ps = ["ps", "-o", "rss=", "-p", str(running.process.pid)]
        resident = subprocess.run(ps, capture_output=True, text=True, check=True).stdout
        assert 10 * 1024 < int(resident) < 88 * 1024


def test_server_imports_nothing_heavy(tmp_path: Path):
    code = (
        "import asyncio, sys\n"
        "from proxy.app import create_app\n"
        "from proxy.config import Config\n"
        "import proxy.cli, uvicorn\n"
        "async def main():\n"
        "    async with create_app(Config()).lifespan(): await asyncio.sleep(0.1)\n"
        "asyncio.run(main())\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "litestar" in done.stdout.split()
    assert HEAVY & set(done.stdout.split()) == set()


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_signal_stops_an_idle_server(tmp_path: Path, sent: signal.Signals):
    with serving(echo(tmp_path)) as running:
        assert running.get("/health")[0] == 200
        running.process.send_signal(sent)
        _out, err = running.process.communicate(timeout=30)
    assert running.process.returncode in (0, -sent)
    assert err == ""


def test_variables_of_other_servers_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LITESTAR_PDB", "1")
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path / "none"))
    monkeypatch.setenv("WEB_CONCURRENCY", "many")
    with serving(echo(tmp_path)) as running:
        assert running.get("/metrics")[0] == 200
        running.process.send_signal(signal.SIGTERM)
        _out, err = running.process.communicate(timeout=30)
    assert err == ""


@pytest.mark.parametrize(("word", "module"), [("serve", "litestar"), ("version", "typer")])
def test_ctrl_c_while_modules_are_imported_leaves_no_traceback(word: str, module: str):
    code = f"""
import os, signal, sys
class Interrupting:
    def find_spec(self, name, *_):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)
signal.signal(signal.SIGINT, signal.default_int_handler)
from proxy.cli import main
sys.meta_path.insert(0, Interrupting())
sys.exit(main([{word!r}]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


@pytest.mark.long
def test_closed_pipe_is_not_reported(tmp_path: Path):
    reader, writer = os.pipe()
    os.close(reader)
    command_line = command("models", "--json", "--config", str(echo(tmp_path)))
    ended = subprocess.run(command_line, stdout=writer, stderr=subprocess.PIPE, timeout=60)
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (1, b"")


@pytest.mark.parametrize(("option", "shown"), [("", "mod?les"), ("--json", "mod\\u00e8les")])
def test_output_that_has_not_all_characters_gets_the_others(option: str, shown: str):
    env = os.environ | {"PYTHONIOENCODING": "ascii:strict", "XDG_CONFIG_HOME": "/modèles"}
    words = command("config", "path", *option.split())
    done = subprocess.run(words, capture_output=True, text=True, env=env)
    assert (done.returncode, done.stderr) == (0, "")
    assert shown in done.stdout


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
@pytest.mark.parametrize("words", [("version",), ("--help",), ("config", "schema")])
def test_full_disk_is_reported_in_one_line(words: tuple[str, ...]):
    with open("/dev/full", "wb") as full:
        done = subprocess.run(command(*words), stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert done.stderr == "tandem: the output cannot be written: No space left on device\n"


def test_signal_ends_streams_with_an_error_after_the_shutdown_grace(tmp_path: Path):
    with serving(echo(tmp_path, delay=0.05)) as running, running.stream() as answer:
        assert b"assistant" in answer.readline()
        running.process.send_signal(signal.SIGTERM)
        rest = answer.read()
        _out, err = running.process.communicate(timeout=30)
    assert running.process.returncode in (0, -signal.SIGTERM)
    (line,) = err.splitlines()  # of the request log
    assert "outcome=shutdown error=server_shutdown model=echo" in line
    # The answer, of more than four minutes, went on during the grace and no longer.
    assert b'"content":"word' in rest
    assert b'"code":"server_shutdown"' in rest
    assert b"[DONE]" not in rest


def refuses(port: int) -> bool:
    """True if no server listens on `port`."""
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except ConnectionRefusedError:
        return True
    return False


@pytest.mark.long
async def test_second_signal_ends_streams_before_the_shutdown_grace(tmp_path: Path):
    with serving(echo(tmp_path, delay=0.05, grace=10)) as running, running.stream() as answer:
        answer.readline()
        running.process.send_signal(signal.SIGTERM)
        await until(lambda: refuses(running.port))
        running.process.send_signal(signal.SIGTERM)
        rest = answer.read()
        _out, err = running.process.communicate(timeout=30)
    assert rest.count(b'"code":"server_shutdown"') == 1
    assert b"[DONE]" not in rest
    assert "Traceback" not in err


def test_port_in_use_is_reported_in_one_line(tmp_path: Path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run("serve", "--port", str(port), "--config", str(echo(tmp_path)))
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert f"cannot listen on 127.0.0.1:{port}: Address already in use" in done.stderr


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGHUP])
def test_command_that_is_ended_ends_the_server_that_it_has_started(
    tmp_path: Path, sent: signal.Signals
):
    with subprocess.Popen(
        command("chat", "echo", "Hello you", "--config", str(echo(tmp_path, delay=60))),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        env=os.environ | {"TANDEM_PORT": "9"},
    ) as chat:
        until_now(lambda: bool(children(chat.pid)))
        (server,) = children(chat.pid)
        chat.send_signal(sent)
        assert chat.wait(20) == 128 + sent
    until_now(lambda: not is_running(server))


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (signal.SIGTERM, -signal.SIGTERM),
        (signal.SIGKILL, -signal.SIGKILL),
        (signal.SIGINT, 130),
    ],
)
def test_server_of_the_selftest_ends_with_it(tmp_path: Path, sent: signal.Signals, status: int):
    with subprocess.Popen(
        command("doctor", "--selftest", "--config", str(echo(tmp_path, delay=60))),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=os.environ | {"TANDEM_PORT": "9"},
    ) as doctor:
        assert doctor.stderr is not None
        while b"parity" not in doctor.stderr.readline():  # A request that takes minutes.
            assert doctor.poll() is None
        (server,) = children(doctor.pid, "own_server")
        doctor.send_signal(sent)
        assert doctor.wait(60) == status
    until_now(lambda: not is_running(server), seconds=60)


def is_running(pid: int) -> bool:
    """False also for an orphan that has ended and was not waited for."""
    found = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True)
    return found.stdout.strip()[:1] not in ("", "Z")


def children(pid: int, words: str = "") -> list[int]:
    """Processes that `pid` has started, with `words` in their command."""
    command = ["pgrep", "-P", str(pid), "-f", words]
    found = subprocess.run(command, capture_output=True, text=True)
    return [int(line) for line in found.stdout.split()]


@pytest.mark.parametrize("host", ["203.0.113.7", "no.such.host.invalid"])
def test_foreign_host_is_reported_in_one_line(tmp_path: Path, host: str):
    config = write(tmp_path, "server: {insecure: true}\n")
    done = run("serve", "--host", host, "--port", "0", "--config", str(config))
    assert done.returncode == 1
    assert done.stderr.startswith(f"tandem: cannot listen on {host}:0: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("name", ["serve", "models"])
def test_invalid_config_exits_with_2_and_names_the_key(tmp_path: Path, name: str):
    path = write(tmp_path, "server: {port: eighty}")
    done = run(name, "--config", str(path))
    assert done.returncode == 2
    assert done.stderr == (f"tandem: {path}: line 1: $.server.port: Expected `int`, got `str`\n")
    assert done.stdout == ""


@pytest.mark.parametrize("args", [["fly"], ["serve", "--port", "x"], ["serve", "--port", "70000"]])
def test_invalid_arguments_exit_with_2(args: list[str]):
    assert run(*args).returncode == 2


@pytest.mark.long
def test_models_are_printed_without_a_server(tmp_path: Path):
    done = run("models", "--config", str(echo(tmp_path)))
    head, row = (line.split() for line in done.stdout.splitlines())
    assert (done.returncode, done.stderr) == (0, "")
    assert head[:2] == ["MODEL", "BACKEND"]
    assert row[:3] == ["echo", "echo", "echo"]


@pytest.mark.long
def test_models_of_two_backends_have_a_line_for_each(tmp_path: Path):
    write_tiny_model(tmp_path / "models" / "tiny")
    config = write(
        tmp_path,
        f"backends: {{mlx: {{folders: ['{tmp_path / 'models'}'], embedded: never}}, "
        "ollama: {host: 'http://127.0.0.1:9'}, echo: {models: [tiny]}}\n",
    )
    done = run("models", "--config", str(config))
    rows = [line for line in done.stdout.splitlines() if "tiny" in line]
    first, second = [row.split()[:4] for row in rows]
    assert first == ["tiny", "mlx", "tiny", "-"]
    assert second == ["echo", "tiny", "-", "-"]
    assert rows[0].split()[4:] == ["0.00", "GB", "512", "chat", "no"]


def test_models_in_json_are_what_the_server_lists(tmp_path: Path):
    done = run("models", "--json", "--config", str(echo(tmp_path)))
    with serving(echo(tmp_path)) as running:
        assert json.loads(done.stdout) == json.loads(running.get("/v1/models")[1])


@pytest.mark.long
def test_models_report_what_cannot_be_used(tmp_path: Path):
    folder = write_tiny_model(tmp_path / "models" / "old")
    (folder / "model.safetensors").rename(folder / "weights.npz")
    mlx = f"{{folders: ['{tmp_path / 'models'}'], embedded: never, huggingface_cache: false}}"
    done = run("models", "--config", str(write(tmp_path, f"backends: {{mlx: {mlx}}}\n")))
    assert "old" not in done.stdout
    assert "tandem: mlx: 'old' cannot be used: its weights are in weights.npz" in done.stderr


@pytest.mark.long
def test_models_report_an_unreachable_backend(tmp_path: Path):
    config = write(tmp_path, "backends: {mlx: null, ollama: {host: 'http://127.0.0.1:9'}}")
    done = run("models", "--config", str(config))
    assert done.returncode == 0
    why = "http://127.0.0.1:9: Ollama cannot be reached."
    assert done.stderr == f"tandem: ollama does not respond. {why}\n"

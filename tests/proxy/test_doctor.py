"""`tandem doctor` in broken situations, each of which is really made."""

import asyncio
import http.server
import json
import os
import socket
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from fakes.recorded_ollama import says_lines, stand_in
from fakes.scripted_backend import ScriptedBackend
from fakes.tiny_model import write_tiny_model
from msgspec.structs import replace
from servers.served import served
from servers.server_process import command, serving, write

from proxy.access.config import KeyConfig
from proxy.config import Config, ServerConfig
from proxy.doctor.machine import check_port, examine_config
from proxy.doctor.report import Check, to_report

pytestmark = pytest.mark.process

NOWHERE = "http://127.0.0.1:9"
WITHOUT_MODELS = "mlx: {embedded: never, huggingface_cache: false}"


def doctor(
    folder: Path, text: str, **environ: str
) -> tuple[int, dict[str, dict[str, Any]], dict[str, Any]]:
    """Exit status, checks by id, and the whole report of `tandem doctor --json`."""
    done = subprocess.run(
        command("doctor", "--json", "--config", str(write(folder, text))),
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"TANDEM_PORT": "0"} | environ,
    )
    report = json.loads(done.stdout)
    return done.returncode, report["checks"], report


@contextmanager
def listening(handler: type[socketserver.BaseRequestHandler]) -> Iterator[int]:
    """The port of a server in a thread."""
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()


class Silent(socketserver.BaseRequestHandler):
    """Accepts, and never answers."""

    def handle(self) -> None:
        self.request.recv(65536)
        self.request.recv(65536)  # Until the client disconnects.


class OtherProgram(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"Hello")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Write nothing."""


def test_healthy_machine_is_ok_in_the_shape_of_the_report(tmp_path: Path):
    status, checks, report = doctor(tmp_path, "backends: {mlx: null, ollama: null, echo: true}")
    assert (status, report["overallStatus"], report["schemaVersion"]) == (0, "ok", 1)
    assert set(report) == {"schemaVersion", "generatedAt", "overallStatus", "checks"}
    assert checks["config.file"]["status"] == "ok"
    assert "the budget for models is" in checks["machine.memory"]["summary"]
    assert checks["machine.memory"]["details"]["budgetBytes"] > 0
    for check in checks.values():
        assert set(check) == {
            *("category", "status", "summary", "details", "remediation", "durationMs")
        }


async def test_check_that_answers_its_cancellation_does_not_go_on():
    async def hides() -> dict[str, Check]:
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        return {}

    reporting = asyncio.create_task(to_report([hides]))
    await asyncio.sleep(0)
    reporting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reporting


def test_server_that_would_not_start_is_reported(tmp_path: Path):
    file = tmp_path / "tandem.yaml"
    file.write_text("server: {host: 0.0.0.0}")
    check = examine_config(str(file), {}).checks["config.file"]
    assert check.status == "fail"
    assert check.summary.startswith("$.server.host: other machines can reach this server")


@pytest.mark.long
def test_wrong_key_is_reported_with_file_and_line(tmp_path: Path):
    text = "backends: {mlx: null, ollama: null}\nserver:\n  prot: 8006\n"
    status, checks, _ = doctor(tmp_path, text)
    check = checks["config.file"]
    assert (status, check["status"]) == (1, "fail")
    assert check["details"]["problems"] == [
        {
            "file": str(tmp_path / "tandem.yaml"),
            "line": 3,
            "key": "$.server",
            "message": "Object contains unknown field `prot`; did you mean `port`?",
        }
    ]


def test_port_of_another_program_is_a_failure(tmp_path: Path):
    with listening(OtherProgram) as port:
        status, checks, _ = doctor(
            tmp_path, "backends: {mlx: null, ollama: null, echo: true}", TANDEM_PORT=str(port)
        )
    assert (status, checks["server.port"]["status"]) == (1, "fail")
    assert "Another program answers" in checks["server.port"]["summary"]
    assert "server.port" in checks["server.port"]["remediation"]


@pytest.mark.long
def test_port_of_a_silent_program_is_a_failure(tmp_path: Path):
    with listening(Silent) as port:
        _, checks, _ = doctor(
            tmp_path, "backends: {mlx: null, ollama: null, echo: true}", TANDEM_PORT=str(port)
        )
    assert checks["server.port"]["status"] == "fail"
    assert "another program has it" in checks["server.port"]["summary"]


async def test_server_with_keys_is_recognised_with_the_key_of_the_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    keys = (KeyConfig(name="mine", key="a-key-0123456789"),)
    settings = ServerConfig(keys=keys, state_folder=str(tmp_path))
    async with served(ScriptedBackend(), Config(server=settings)) as port:
        here = Config(server=replace(settings, port=port))
        checks = []
        for key in ("", "another-key-0123456789", "a-key-0123456789", "no key"):
            monkeypatch.setenv("TANDEM_API_KEY", key)
            checks.append((await check_port(here))["server.port"])
    assert [check.status for check in checks] == ["warning", "warning", "ok", "fail"]
    assert "TANDEM_API_KEY" in (checks[0].remediation or "")
    assert "it needs a key" in checks[0].summary
    assert "is none of its own" in checks[1].summary


@pytest.mark.long
def test_running_server_is_recognised(tmp_path: Path):
    text = "backends: {mlx: null, ollama: null, echo: true}"
    with serving(write(tmp_path, text)) as running:
        _, checks, _ = doctor(tmp_path, text, TANDEM_PORT=str(running.port))
    assert checks["server.port"]["status"] == "ok"
    assert f"runs at http://127.0.0.1:{running.port}" in checks["server.port"]["summary"]


@pytest.mark.long
def test_ollama_that_does_not_run_is_reported_with_the_next_step(tmp_path: Path):
    _, checks, _ = doctor(
        tmp_path, f"backends: {{mlx: null, ollama: {{host: '{NOWHERE}'}}, echo: true}}"
    )
    check = checks["ollama.ollama.server"]
    assert check["status"] == "warning"
    assert f"Nothing listens at {NOWHERE}" in check["summary"]
    assert "correct `host`" in check["remediation"]


@pytest.mark.long
def test_ollama_that_hangs_is_reported(tmp_path: Path):
    with listening(Silent) as port:
        _, checks, _ = doctor(
            tmp_path, f"backends: {{mlx: null, ollama: {{host: '127.0.0.1:{port}'}}, echo: true}}"
        )
    assert "accepts and does not answer" in checks["ollama.ollama.server"]["summary"]


class Keyed(http.server.BaseHTTPRequestHandler):
    """A proxy in front of an Ollama without models, which wants a key."""

    def do_GET(self) -> None:
        is_allowed = self.headers["authorization"] == "Bearer right"
        body = {"version": "0.30.0", "models": []} if is_allowed else {}
        self.send_response(200 if is_allowed else 401)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Write nothing."""


@pytest.mark.long
@pytest.mark.parametrize(("key", "status"), [("right", "ok"), ("wrong", "fail")])
def test_ollama_behind_a_key_is_asked_with_it(tmp_path: Path, key: str, status: str):
    with listening(Keyed) as port:
        ollama = f"{{host: '127.0.0.1:{port}', api_key: {key}}}"
        _, checks, _ = doctor(tmp_path, f"backends: {{mlx: null, ollama: {ollama}, echo: true}}")
    check = checks["ollama.ollama.server"]
    assert check["status"] == status
    assert ("api_key" in (check["remediation"] or "")) == (status == "fail")


@pytest.mark.long
def test_ollama_with_an_unknown_name_in_the_environment_is_mended_there(tmp_path: Path):
    text = "backends: {mlx: null, echo: true}"
    _, checks, _ = doctor(tmp_path, text, OLLAMA_HOST="nowhere.invalid:1234")
    check = checks["ollama.ollama.server"]
    assert "The name in http://nowhere.invalid:1234 is not known" in check["summary"]
    assert "correct $OLLAMA_HOST" in check["remediation"]


@pytest.mark.long
def test_other_program_in_the_place_of_ollama_is_a_failure(tmp_path: Path):
    with listening(OtherProgram) as port:
        status, checks, _ = doctor(
            tmp_path, f"backends: {{mlx: null, ollama: {{host: '127.0.0.1:{port}'}}, echo: true}}"
        )
    assert (status, checks["ollama.ollama.server"]["status"]) == (1, "fail")
    assert "is not Ollama" in checks["ollama.ollama.server"]["summary"]


@pytest.mark.long
def test_machine_without_a_model_is_a_failure_that_says_how_to_get_one(tmp_path: Path):
    status, checks, _ = doctor(tmp_path, f"backends: {{{WITHOUT_MODELS}, ollama: null}}")
    assert (status, checks["models.any"]["status"]) == (1, "fail")
    assert "tandem pull" in checks["models.any"]["remediation"]


@pytest.mark.long
def test_model_without_weights_is_named_with_the_reason(tmp_path: Path):
    folder = write_tiny_model(tmp_path / "models" / "old")
    (folder / "model.safetensors").rename(folder / "weights.npz")
    mlx = f"mlx: {{folders: ['{tmp_path / 'models'}'], embedded: never, huggingface_cache: false}}"
    _, checks, _ = doctor(tmp_path, f"backends: {{{mlx}, ollama: null, echo: true}}")
    assert checks["models.mlx"]["status"] == "warning"
    assert "'old': its weights are in weights.npz" in checks["models.mlx"]["summary"]


@pytest.mark.long
def test_folder_of_models_that_does_not_exist_is_named(tmp_path: Path):
    mlx = f"mlx: {{folders: ['{tmp_path}/nowhere'], huggingface_cache: false}}"
    _, checks, _ = doctor(tmp_path, f"backends: {{{mlx}, ollama: null}}")
    assert checks["models.folders"]["status"] == "warning"
    assert f"{tmp_path}/nowhere" in checks["models.folders"]["summary"]


@pytest.mark.long
def test_alias_of_the_bundled_model_beside_another_is_named_with_its_setting(tmp_path: Path):
    write_tiny_model(tmp_path / "models" / "other")
    mlx = f"mlx: {{folders: ['{tmp_path / 'models'}'], huggingface_cache: false}}"
    text = f"backends: {{{mlx}, ollama: null}}\nmodels: {{fast: {{mlx: SmolLM2-135M-Instruct}}}}"
    _, checks, _ = doctor(tmp_path, text)
    assert checks["models.aliases"]["status"] == "warning"
    assert "`embedded: always`" in checks["models.aliases"]["remediation"]
    assert "Pull" not in checks["models.aliases"]["remediation"]


@pytest.mark.long
def test_alias_that_leads_nowhere_is_named(tmp_path: Path):
    text = "backends: {mlx: null, ollama: null, echo: true}\nmodels: {fast: {echo: gone}}"
    _, checks, _ = doctor(tmp_path, text)
    assert checks["models.aliases"]["status"] == "warning"
    assert "'fast' names 'gone', which echo does not have" in checks["models.aliases"]["summary"]


@pytest.mark.long
def test_state_folder_that_cannot_be_written_is_a_failure(tmp_path: Path):
    (tmp_path / "file").touch()
    text = f"server: {{state_folder: '{tmp_path}/file/state'}}\n"
    status, checks, _ = doctor(tmp_path, text + "backends: {mlx: null, ollama: null, echo: true}")
    assert (status, checks["machine.state"]["status"]) == (1, "fail")
    assert "cannot be written" in checks["machine.state"]["summary"]


@pytest.mark.long
def test_budget_beyond_the_memory_is_a_warning(tmp_path: Path):
    text = "server: {memory_bytes: 1000000000000000}\n"
    _, checks, _ = doctor(tmp_path, text + "backends: {mlx: null, ollama: null, echo: true}")
    assert checks["machine.memory"]["status"] == "warning"


@pytest.mark.long
def test_budget_that_no_model_fits_in_is_a_failure(tmp_path: Path):
    write_tiny_model(tmp_path / "models" / "tiny")
    mlx = f"mlx: {{folders: ['{tmp_path / 'models'}'], embedded: never, huggingface_cache: false}}"
    text = f"server: {{memory_bytes: 16}}\nbackends: {{{mlx}, ollama: null}}"
    status, checks, _ = doctor(tmp_path, text)
    assert (status, checks["models.budget"]["status"]) == (1, "fail")
    assert "No model fits into the budget of 16 bytes" in checks["models.budget"]["summary"]


async def test_address_of_another_machine_is_no_other_program(tmp_path: Path):
    server = ServerConfig(host="192.0.2.1", port=8006, state_folder=str(tmp_path))
    check = (await check_port(Config(server=server)))["server.port"]
    assert "This machine cannot listen on 192.0.2.1" in check.summary
    assert "server.host" in (check.remediation or "")


@pytest.mark.long
def test_marks_differ_on_a_terminal_without_their_characters(tmp_path: Path):
    config = write(tmp_path, "server: {memory_bytes: x}")
    done = subprocess.run(
        command("doctor", "--config", str(config)),
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONIOENCODING": "latin-1", "TANDEM_PORT": "0"},
    )
    assert "\n  x " in done.stdout
    assert "\n  + Tandem" in done.stdout


def test_tab_in_the_settings_is_named(tmp_path: Path):
    path = write(tmp_path, "server:\n\tport: 8007\n")
    check = examine_config(str(path), {}).checks["config.file"]
    assert "line 2 begins with a tab, and YAML takes spaces only" in check.summary


@pytest.mark.long
def test_proxy_in_the_environment_is_a_warning(tmp_path: Path):
    _, checks, _ = doctor(
        tmp_path,
        "backends: {mlx: null, ollama: null, echo: true}",
        HTTP_PROXY="http://proxy.example:3128",
        NO_PROXY="",
        no_proxy="",
    )
    assert checks["machine.proxy"]["status"] == "warning"
    assert "NO_PROXY=localhost" in checks["machine.proxy"]["remediation"]


@pytest.mark.long
def test_two_backends_of_one_server_are_a_warning(tmp_path: Path):
    text = f"ollama: {{host: '{NOWHERE}'}}, box: {{kind: ollama, host: '{NOWHERE}'}}"
    _, checks, _ = doctor(tmp_path, f"backends: {{mlx: null, echo: true, {text}}}")
    assert checks["config.backends"]["status"] == "warning"


@pytest.mark.long
async def test_settings_of_ollama_that_cannot_be_read_are_unknown(tmp_path: Path):
    async with stand_in() as standin:
        for path, body in {
            "/api/version": {"version": "0.33.0"},
            "/api/tags": {"models": []},
            "/api/ps": {"models": []},
        }.items():
            standin.says(path, says_lines(body))
        text = f"backends: {{mlx: null, ollama: {{host: '{standin.host}'}}, echo: true}}"
        _, checks, _ = await asyncio.to_thread(doctor, tmp_path, text)
    assert checks["ollama.ollama.server"]["status"] == "ok"
    assert checks["ollama.ollama.settings"]["status"] == "unknown"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.long
def test_settings_that_slow_ollama_down_are_read_from_its_process(tmp_path: Path):
    """A program called `ollama` that answers as Ollama does, with the environment of a server."""
    program = tmp_path / "ollama"
    program.symlink_to(sys.executable)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    code = (
        "import http.server, json, sys\n"
        "answers = {'/api/version': {'version': '0.33.0'}, '/api/tags': {'models': []},\n"
        "           '/api/ps': {'models': []}}\n"
        "class Handler(http.server.BaseHTTPRequestHandler):\n"
        "    def do_GET(self):\n"
        "        self.send_response(200); self.end_headers()\n"
        "        self.wfile.write(json.dumps(answers[self.path]).encode())\n"
        "    def log_message(self, *args): pass\n"
        f"server = http.server.ThreadingHTTPServer(('127.0.0.1', {port}), Handler)\n"
        "print('ready', flush=True); server.serve_forever()\n"
    )
    slow = {
        "OLLAMA_HOST": f"127.0.0.1:{port}",
        "OLLAMA_NUM_PARALLEL": "1",
        "OLLAMA_CONTEXT_LENGTH": "2048",
        "OLLAMA_FLASH_ATTENTION": "false",
    }
    server = subprocess.Popen(
        [str(program), "-c", code, "serve"],
        env=os.environ | slow,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"
        _, checks, _ = doctor(
            tmp_path, f"backends: {{mlx: null, ollama: {{host: '127.0.0.1:{port}'}}, echo: true}}"
        )
    finally:
        server.kill()
        server.communicate()
    check = checks["ollama.ollama.settings"]
    assert check["status"] == "warning"
    for part in ("one request at a time", "2048 tokens", "flash attention is off"):
        assert part in check["summary"]


@pytest.mark.long
def test_selftest_report_has_no_paths_and_fails_without_a_model(tmp_path: Path):
    text = f"backends: {{{WITHOUT_MODELS}, ollama: null}}"
    done = subprocess.run(
        command("doctor", "--selftest", "--json", "--config", str(write(tmp_path, text))),
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"TANDEM_PORT": "0"},
    )
    checks = json.loads(done.stdout)["checks"]
    assert done.returncode == 1
    assert checks["selftest.model"]["status"] == "fail"
    assert str(tmp_path) not in done.stdout


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_selftest_proves_mlx_with_the_bundled_model(tmp_path: Path):
    mlx = "mlx: {huggingface_cache: false, embedded: always}"
    config = write(tmp_path, f"backends: {{{mlx}, ollama: null}}")
    done = subprocess.run(
        command("doctor", "--selftest", "--json", "--config", str(config)),
        capture_output=True,
        text=True,
        timeout=1200,
        env=os.environ | {"TANDEM_PORT": "0"},
    )
    checks = json.loads(done.stdout)["checks"]
    tests = {id_: check for id_, check in checks.items() if id_.startswith("selftest.mlx.")}
    assert len(tests) == 8
    assert {check["status"] for check in tests.values()} <= {"ok", "warning"}
    assert "ferry" not in done.stdout

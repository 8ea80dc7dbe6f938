"""The files in `packaging/` are what the code writes, and pass their linters."""

import json
import os
import plistlib
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from servers.server_process import command, serving, write

from proxy.access.keys import Access, require_keys
from proxy.config import ConfigError, load_config
from proxy.service import to_plist, to_unit

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "packaging"
PROGRAM = ("/home/ada/.local/bin/tandem", "serve")
MAC_PROGRAM = ("/Users/ada/.local/bin/tandem", "serve")
LOGS = Path("/Users/ada/Library/Application Support/tandem")


def test_unit_is_what_the_command_writes():
    assert (FOLDER / "systemd" / "tandem.service").read_text() == to_unit(PROGRAM, {})


def test_agent_is_what_the_command_writes():
    written = (FOLDER / "launchd" / "dev.tandem.server.plist").read_bytes()
    assert written == to_plist(MAC_PROGRAM, {}, LOGS)
    agent = plistlib.loads(written)
    assert agent["ProgramArguments"] == list(MAC_PROGRAM)
    assert agent["KeepAlive"] == {"SuccessfulExit": False}


def test_special_characters_of_a_path_are_quoted():
    unit = to_unit(("/opt/50% off/tandem", "serve", "--config", "/a$b.yaml"), {"A": "b c"})
    assert 'ExecStart="/opt/50%% off/tandem" serve --config /a$$b.yaml' in unit
    assert 'Environment="A=b c"' in unit
    unit = to_unit(("/tandem", 'a"b', "c\\d"), {"A": 'p%40$x"y\\z', "B": "plain"})
    assert 'ExecStart=/tandem "a\\"b" "c\\\\d"' in unit
    assert 'Environment="A=p%%40$x\\"y\\\\z"\nEnvironment=B=plain\n' in unit


@pytest.mark.process
def test_service_has_full_paths_and_the_folders_of_this_shell(tmp_path: Path):
    config = write(tmp_path, "backends: {mlx: null, ollama: null, echo: true}")
    done = subprocess.run(
        command("service", "install", "--dry-run"),
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"TANDEM_CONFIG": config.name, "XDG_STATE_HOME": "/state"},
    )
    assert f"Environment=TANDEM_CONFIG={config}\n" in done.stdout
    assert "Environment=XDG_STATE_HOME=/state\n" in done.stdout


@pytest.mark.process
def test_service_without_the_key_of_the_shell_is_not_installed(tmp_path: Path):
    config = write(tmp_path, "server: {keys: [{name: a, key: 'env:KEY_OF_A'}]}")
    done = subprocess.run(
        command("service", "install", "--config", str(config)),
        capture_output=True,
        text=True,
        env=os.environ | {"KEY_OF_A": "k" * 32, "HOME": str(tmp_path)},
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert "keys from $KEY_OF_A, which a service does not have" in done.stderr


@pytest.mark.process
def test_health_check_of_the_image_asks_the_port_of_the_server(tmp_path: Path):
    words = (FOLDER / "docker" / "Dockerfile").read_text().split("HEALTHCHECK")[1].splitlines()[0]
    check = json.loads(words[words.index("[") :])
    config = write(tmp_path, "backends: {mlx: null, ollama: null, echo: true}")
    with serving(config) as server:
        for port, status in ((server.port, 0), (9, 1)):
            env = os.environ | {"TANDEM_PORT": str(port), "HTTP_PROXY": "http://127.0.0.1:9"}
            done = subprocess.run([sys.executable, *check[1:]], capture_output=True, env=env)
            assert done.returncode == status


@pytest.mark.process
@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze")
def test_unit_passes_systemds_own_check(tmp_path: Path):
    unit = tmp_path / "tandem.service"
    unit.write_text(to_unit((sys.executable, "-m", "proxy", "serve"), {"TANDEM_PORT": "8006"}))
    analyze = ["systemd-analyze", "verify", "--user", str(unit)]
    runtime = os.environ | {"XDG_RUNTIME_DIR": str(tmp_path)}
    done = subprocess.run(analyze, capture_output=True, text=True, env=runtime)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.process
@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze")
def test_unit_is_restricted_as_far_as_a_user_can(tmp_path: Path):
    analyze = ["systemd-analyze", "security", "--offline=true", "--threshold=63"]
    runtime = os.environ | {"XDG_RUNTIME_DIR": str(tmp_path)}
    unit = str(FOLDER / "systemd" / "tandem.service")
    done = subprocess.run([*analyze, unit], capture_output=True, text=True, env=runtime)
    assert done.returncode == 0, done.stdout


@pytest.mark.process
@pytest.mark.skipif(shutil.which("hadolint") is None, reason="there is no hadolint on the PATH")
def test_dockerfile_passes_hadolint():
    lint = ["hadolint", str(FOLDER / "docker" / "Dockerfile")]
    done = subprocess.run(lint, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_settings_of_the_container_are_valid():
    config = load_config(FOLDER / "docker" / "config.yaml", {"TANDEM_HOST": "0.0.0.0"})
    assert list(config.enabled()) == ["ollama"]


def test_server_of_the_container_starts_with_the_key_of_its_environment():
    config = load_config(FOLDER / "docker" / "config.yaml", {"TANDEM_HOST": "0.0.0.0"})
    require_keys(config.server)
    assert Access(config.server.keys, {"TANDEM_KEY": "a-key-of-ones-own"}).needs_key
    with pytest.raises(ConfigError, match="TANDEM_KEY"):
        Access(config.server.keys, {})


@pytest.mark.process
@pytest.mark.skipif(sys.platform != "linux", reason="systemd is on Linux")
def test_service_without_systemd_says_what_to_do(tmp_path: Path):
    """A `systemctl` that fails, as in a container."""
    (tmp_path / "systemctl").write_text("#!/bin/sh\necho 'No bus' >&2\nexit 1\n")
    (tmp_path / "systemctl").chmod(0o755)
    config = write(tmp_path, "backends: {mlx: null, ollama: null, echo: true}")
    env = os.environ | {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "XDG_CONFIG_HOME": str(tmp_path / "settings"),
        "TANDEM_PORT": "9",
    }
    words = command("service", "install", "--config", str(config))
    done = subprocess.run(words, capture_output=True, text=True, env=env)
    assert done.returncode == 1
    assert "failed: No bus" in done.stderr
    assert "tandem serve" in done.stderr
    unit = tmp_path / "settings" / "systemd" / "user" / "tandem.service"
    assert f"--config {config}" in unit.read_text()


@pytest.mark.process
@pytest.mark.skipif(sys.platform != "linux", reason="systemd is on Linux")
def test_file_of_the_service_is_shown_for_programs_too(tmp_path: Path):
    words = command("service", "install", "--dry-run", "--json")
    env = os.environ | {"XDG_CONFIG_HOME": str(tmp_path)}
    done = subprocess.run(words, capture_output=True, text=True, env=env, check=True)
    shown = json.loads(done.stdout)
    assert shown["file"] == str(tmp_path / "systemd" / "user" / "tandem.service")
    assert shown["content"].startswith("[Unit]\nDescription=Tandem")
    assert not Path(shown["file"]).exists()


@pytest.mark.process
@pytest.mark.skipif(sys.platform != "linux", reason="systemd is on Linux")
def test_service_with_settings_that_are_not_valid_can_be_shown_and_removed(tmp_path: Path):
    unit = tmp_path / "systemd" / "user" / "tandem.service"
    unit.parent.mkdir(parents=True)
    unit.touch()
    config = write(tmp_path, "server: {prot: 1}")
    env = os.environ | {"XDG_CONFIG_HOME": str(tmp_path), "TANDEM_CONFIG": str(config)}
    words = [command("service", action, "--json") for action in ("status", "uninstall")]
    status, removal = (subprocess.run(w, capture_output=True, text=True, env=env) for w in words)
    assert (status.returncode, json.loads(status.stdout)["installed"]) == (3, True)
    assert "did you mean `port`" in status.stderr
    assert (removal.returncode, unit.exists()) == (0, False)


@pytest.mark.process
@pytest.mark.skipif(sys.platform != "linux", reason="systemd is on Linux")
def test_service_goes_through_the_proxy_of_the_shell_and_keeps_it_private(tmp_path: Path):
    (tmp_path / "systemctl").write_text("#!/bin/sh\n")
    (tmp_path / "systemctl").chmod(0o755)
    proxy = "http://name:password@proxy.example:3128"
    env = os.environ | {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "XDG_CONFIG_HOME": str(tmp_path),
        "HTTPS_PROXY": proxy,
        "HF_TOKEN": "hf_secret",
    }
    done = subprocess.run(command("service", "install"), capture_output=True, text=True, env=env)
    unit = tmp_path / "systemd" / "user" / "tandem.service"
    assert f"Environment=HTTPS_PROXY={proxy}\n" in unit.read_text()
    assert stat.S_IMODE(unit.stat().st_mode) == 0o600
    assert "hf_secret" not in unit.read_text()
    assert (done.returncode, "hf auth login" in done.stderr) == (0, True)

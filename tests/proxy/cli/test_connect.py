"""`tandem connect`: settings are merged into files of clients, with a backup."""

import json
import os
import subprocess
from pathlib import Path

import pytest
import tomlkit
from msgspec.structs import replace
from servers.server_process import command, write

from adapters.secret import read_secret
from proxy.connect.clients import CLIENTS
from proxy.connect.merge import MergeError, difference, merged
from proxy.connect.merge import write as write_merged
from proxy.connect.settings import Part, Server, User

SERVER = Server(url="http://127.0.0.1:8006", model="org/local:7b", context=32_768, sees=True)


@pytest.mark.parametrize("name", CLIENTS)
def test_settings_name_the_address_and_the_model(name: str, tmp_path: Path):
    settings = CLIENTS[name].settings(SERVER, User(tmp_path))
    text = settings.text + json.dumps([part.content for part in settings.parts])
    assert "8006" in text
    # Copilot lists the models itself, and variables name none.
    assert "org/local:7b" in text or name in ("copilot", "open-webui", "environment")


@pytest.mark.parametrize("name", CLIENTS)
def test_files_have_the_key_of_a_server_with_keys(name: str, tmp_path: Path):
    server = replace(SERVER, key=read_secret("sk-local", {}))
    for part in CLIENTS[name].settings(server, User(tmp_path)).parts:
        _, after = merged(part)
        assert ("sk-local" in after) == ("sk-local" in json.dumps(part.content))


@pytest.mark.parametrize("name", CLIENTS)
def test_files_lie_in_the_home_of_the_user(name: str, tmp_path: Path):
    for part in CLIENTS[name].settings(SERVER, User(tmp_path)).parts:
        assert part.path.is_relative_to(tmp_path)


def test_files_that_the_user_has_moved_are_found(tmp_path: Path):
    user = User(Path("home"), {"CODEX_HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)})
    for name in ("codex", "zed"):
        for part in CLIENTS[name].settings(SERVER, user).parts:
            assert part.path.is_relative_to(tmp_path)


def part(path: Path, form: str, **content: object) -> Part:
    return Part(path=path, form=form, content=content)  # type: ignore[arg-type]


def test_comments_and_other_settings_of_toml_stay(tmp_path: Path):
    path = tmp_path / "config.toml"
    path.write_text('# Mine.\nmodel = "gpt"  # old\n\n[model_providers.other]\nname = "x"\n')
    _, after = merged(
        part(path, "toml", model="local", model_providers={"tandem": {"name": "Tandem"}})
    )
    assert after.startswith('# Mine.\nmodel = "local"')
    assert tomlkit.parse(after).unwrap() == {
        "model": "local",
        "model_providers": {"other": {"name": "x"}, "tandem": {"name": "Tandem"}},
    }


@pytest.mark.slow
def test_named_items_of_yaml_are_added_once(tmp_path: Path):
    path = tmp_path / "config.yaml"
    path.write_text("# Mine.\nmodels:\n  - name: other\n    model: x # kept\n")
    wanted = part(path, "yaml", models=[{"name": "local", "model": "y"}])
    _, after = merged(wanted)
    assert after == (
        "# Mine.\nmodels:\n  - name: other\n    model: x # kept\n  - name: local\n    model: y\n"
    )
    path.write_text(after)
    assert merged(wanted) == (after, after)


def test_a_client_requires_settings_and_the_users_values_of_them_stay(tmp_path: Path):
    (continue_,) = CLIENTS["continue"].settings(SERVER, User(tmp_path)).parts
    _, new = merged(continue_)
    assert new.startswith("name: Local\nversion: 1.0.0\nschema: v1\nmodels:")
    continue_.path.parent.mkdir()
    continue_.path.write_text("name: mine\nversion: 2.0.0\n")
    _, after = merged(continue_)
    assert after.startswith("name: mine\nversion: 2.0.0\nschema: v1\nmodels:")


def test_json_keeps_what_is_there(tmp_path: Path):
    path = tmp_path / "settings.json"
    path.write_text('{"theme": "dark", "env": {"A": "1"}}')
    _, after = merged(part(path, "json", env={"B": "2"}))
    assert json.loads(after) == {"theme": "dark", "env": {"A": "1", "B": "2"}}


@pytest.mark.parametrize(
    ("form", "text"),
    [("json", '{"a": 1, // mine\n}'), ("json", "[]"), ("toml", "a = = 1"), ("yaml", "a: b: c")],
)
def test_file_that_cannot_be_read_is_left_alone(tmp_path: Path, form: str, text: str):
    path = tmp_path / "file"
    path.write_text(text)
    with pytest.raises(MergeError, match="nothing was changed"):
        merged(part(path, form, b=1))
    assert path.read_text() == text


def test_backup_has_the_old_text_and_mode(tmp_path: Path):
    path = tmp_path / "settings.json"
    path.write_text("{}")
    path.chmod(0o600)
    backup = write_merged(path, "{}", '{"a": 1}')
    assert backup is not None
    assert (backup.read_text(), path.read_text()) == ("{}", '{"a": 1}')
    assert backup.stat().st_mode & 0o777 == path.stat().st_mode & 0o777 == 0o600


def test_new_file_has_no_backup(tmp_path: Path):
    path = tmp_path / "a" / "settings.json"
    assert write_merged(path, "", "{}") is None
    assert path.read_text() == "{}"
    assert [file.name for file in path.parent.iterdir()] == ["settings.json"]


def test_link_to_a_file_stays_a_link(tmp_path: Path):
    (tmp_path / "dotfile").write_text("{}")
    link = tmp_path / "settings.json"
    link.symlink_to("dotfile")
    write_merged(link, "{}", '{"a": 1}')
    assert link.is_symlink()
    assert (tmp_path / "dotfile").read_text() == '{"a": 1}'


def test_difference_shows_what_changes(tmp_path: Path):
    text = difference(Path("file"), '{"a": 1}', '{"a": 2}')
    assert '-{"a": 1}\n+{"a": 2}\n' in text


@pytest.mark.process
def test_write_shows_the_difference_and_needs_a_confirmation(tmp_path: Path):
    config = write(tmp_path, "backends: {mlx: null, ollama: null, echo: true}")
    home = {"HOME": str(tmp_path), "TANDEM_PORT": "9", "CODEX_HOME": str(tmp_path / "codex")}
    words = ("connect", "codex", "--model", "local", "--config", str(config), "--write")
    refused = subprocess.run(
        command(*words),
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env=os.environ | home,
    )
    assert refused.returncode == 1
    assert '+model = "local"' in refused.stderr
    assert "confirm with --yes" in refused.stderr
    assert not (tmp_path / "codex").exists()
    done = subprocess.run(
        command(*words, "--yes", "--json"),
        stdout=subprocess.PIPE,
        check=True,
        env=os.environ | home,
    )
    files = [tmp_path / "codex" / name for name in ("config.toml", "tandem-models.json")]
    assert json.loads(done.stdout)["files"] == [{"path": str(f), "backup": None} for f in files]
    settings = tomlkit.parse((tmp_path / "codex" / "config.toml").read_text()).unwrap()
    assert settings["model_provider"] == "tandem"
    assert (tmp_path / "codex" / "tandem-models.json").is_file()

"""config.yaml matches the Structs; invalid files are refused with file and key."""

import os
from pathlib import Path

import msgspec
import pytest
from fakes.scripted_backend import ScriptedBackend
from msgspec.structs import fields

from adapters.backend import Model
from adapters.config import EchoConfig, MLXConfig, OllamaConfig
from proxy.access.config import KeyConfig
from proxy.config import (
    Config,
    ConfigError,
    ImagesConfig,
    ModelConfig,
    ServerConfig,
    StoreConfig,
    find_config,
    load_config,
    state_folder,
)
from proxy.models.registry import Registry

DOCUMENTED = Path(__file__).parents[2] / "config.yaml"
APPLE = ["apple", "ollama", "box"]
EVERY_KEY = {
    f"{kind.__name__}.{field.encode_name}": field.encode_name
    for kind in (
        Config,
        ServerConfig,
        ImagesConfig,
        StoreConfig,
        MLXConfig,
        OllamaConfig,
        EchoConfig,
        ModelConfig,
        KeyConfig,
    )
    for field in fields(kind)
    if (kind, field.name) != (ModelConfig, "names")  # Not a key: the names of backends are keys.
}


def with_examples() -> str:
    """The file with the examples behind `#~` enabled."""
    lines = DOCUMENTED.read_text().splitlines()
    shown = [line.replace("#~ ", "", 1) for line in lines]
    replaced = ("models: {}", "  keys: []", "    models: {}", "    folders: []", "    voices: {}")
    return "\n".join(
        x for x in shown if "echo: null" not in x and x.partition("  #")[0].rstrip() not in replaced
    )


def write(folder: Path, text: str) -> Path:
    path = folder / "config.yaml"
    path.write_text(text)
    return path


def test_the_documented_values_are_the_defaults():
    assert load_config(DOCUMENTED) == Config()


def test_the_documented_examples_are_valid(tmp_path: Path):
    config = load_config(write(tmp_path, with_examples()))
    assert config.enabled()["echo"] == EchoConfig()
    assert config.models["fast"].names.keys() == {"mlx", "ollama"}


def test_the_documented_models_are_those_of_the_original_design(tmp_path: Path):
    config = load_config(write(tmp_path, with_examples()))
    behind = {name: tuple(model.names.values()) for name, model in config.models.items()}
    assert behind == {
        "fast": ("mlx-community/Llama-3.2-1B-Instruct-4bit", "llama3.2:1b"),
        "qwen3-30b-mlx": ("mlx-community/Qwen3-30B-A3B-4bit",),
        "llama-3.1-8b": ("mlx-community/Meta-Llama-3.1-8B-Instruct-4bit", "llama3.1:8b"),
        "qwen2.5:7b": ("mlx-community/Qwen2.5-7B-Instruct-4bit", "qwen2.5:7b"),
        "mistral:7b": ("mlx-community/Mistral-7B-Instruct-v0.3-4bit", "mistral:7b"),
        "llama3.2:3b": ("mlx-community/Llama-3.2-3B-Instruct-4bit", "llama3.2:3b"),
        "llava:7b": ("mlx-community/llava-1.5-7b-4bit", "llava:7b"),
        "gpt-oss:20b": ("mlx-community/gpt-oss-20b-MXFP4-Q8", "gpt-oss:20b"),
    }
    mlx = config.enabled()["mlx"]
    assert isinstance(mlx, MLXConfig)
    assert mlx.folders == ("mlx_models", "~/mlx_models")


async def test_the_documented_models_are_found_by_each_of_their_names(tmp_path: Path):
    models = load_config(write(tmp_path, with_examples())).models
    backends = {
        kind: ScriptedBackend(
            kind=kind,
            models=[Model(name=m.names[kind]) for m in models.values() if kind in m.names],
        )
        for kind in ("mlx", "ollama")
    }
    registry = Registry(models, period=60)
    async with registry.open({}, backends):
        await registry.refresh(1)
        cards = [name for entry in registry.entries() for name in entry.names]
        assert len(cards) == len(set(cards))
        for own, model in models.items():
            for name in (own, *model.names.values()):
                entry = registry.named(name, backends)
                assert {
                    deployment.backend: deployment.name for deployment in entry.deployments
                } == model.names


@pytest.mark.parametrize("key", EVERY_KEY)
def test_every_key_is_documented(key: str):
    name = EVERY_KEY[key]
    assert any(line.strip(" -").startswith(f"{name}:") for line in with_examples().splitlines())


def test_every_documented_server_and_backend_key_is_there():
    raw = msgspec.yaml.decode(with_examples())
    for kind, section in (
        (ServerConfig, raw["server"]),
        (ImagesConfig, raw["server"]["images"]),
        (KeyConfig, raw["server"]["keys"][0]),
        (MLXConfig, raw["backends"]["mlx"]),
        (OllamaConfig, raw["backends"]["ollama"]),
        (EchoConfig, raw["backends"]["echo"]),
    ):
        assert set(section) == {field.encode_name for field in fields(kind)}


def test_zero_configuration_is_both_engines():
    assert Config().enabled() == {"mlx": MLXConfig(), "ollama": OllamaConfig()}


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("backends: {mlx: null}", ["ollama"]),
        ("backends: {mlx: false}", ["ollama"]),
        ("backends: {ollama: false}", ["mlx"]),
        ("backends: {mlx: true, ollama: {host: http://box:1}}", ["mlx", "ollama"]),
        ("backends: {echo: true}", ["mlx", "ollama", "echo"]),
        ("backends: {mlx: null, ollama: null, echo: {reply: x}}", ["echo"]),
        ("backends: {box: {kind: ollama, host: box}}", ["mlx", "ollama", "box"]),
        ("backends: {say: {kind: echo}, box: {kind: ollama}}", ["mlx", "ollama", "box", "say"]),
        ("backends: {box: {kind: ollama}, ollama: null}", ["mlx", "box"]),
        ("backends: {box: {kind: ollama}, apple: {kind: mlx}, mlx: false}", APPLE),
        ("backends: {mlx: {kind: mlx, max_queue: 1}}", ["mlx", "ollama"]),
        ("backends: {box: null}", ["mlx", "ollama"]),
        ("", ["mlx", "ollama"]),
        ("# nothing", ["mlx", "ollama"]),
        ("backends: {}", ["mlx", "ollama"]),
    ],
)
def test_backends_are_switched(tmp_path: Path, text: str, kinds: list[str]):
    assert list(load_config(write(tmp_path, text)).enabled()) == kinds


def test_backends_of_one_kind_have_settings_of_their_own(tmp_path: Path):
    text = """
        backends: {box: {kind: ollama, host: "box:1"}, studio: {kind: ollama, token_timeout: 5}}
        models: {fast: {box: "a:7b", mlx: org/a, prefer: box, keep_alive: 5m, pin: true}}
    """
    config = load_config(write(tmp_path, text))
    assert config.backend_configs() == {
        "mlx": MLXConfig(keep_alive_of={"org/a": 300.0}),
        "ollama": OllamaConfig(),
        "box": OllamaConfig(host="box:1", keep_alive_of={"a:7b": 300.0}),
        "studio": OllamaConfig(token_timeout=5),
    }
    assert config.models["fast"].names == {"box": "a:7b", "mlx": "org/a"}
    assert config.pinned() == {("box", "a:7b"), ("mlx", "org/a"), ("mlx", "org/a:latest")}


def test_two_backends_of_one_server_are_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    text = "backends: {ollama: {host: box}, box: {kind: ollama, hosts: [studio, box]}}"
    load_config(write(tmp_path, text))
    assert caplog.messages == [
        "backends: `ollama` and `box` are both the server http://box:11434; switch one off, as in "
        "`ollama: null`."
    ]


def test_an_alias_may_name_a_backend_that_is_switched_off(tmp_path: Path):
    text = "backends: {box: null}\nmodels: {fast: {box: a, prefer: box}}"
    config = load_config(write(tmp_path, text))
    assert config.models["fast"].names == {"box": "a"}
    assert config.pinned() == frozenset()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("server: {port: eighty}", "$.server.port: Expected `int`, got `str`"),
        ("server: {port: 70000}", "$.server.port: Expected `int` <= 65535"),
        ("server: {prot: 1}", "$.server: Object contains unknown field `prot`"),
        ("servers: {}", "Object contains unknown field `servers`"),
        ("server: {log_format: xml}", "Invalid enum value 'xml'; use json or text"),
        (
            "server: {keys: [{name: a, key: env:A}, {name: b, key: env:B, role: root}]}",
            "$.server.keys[1].role: Invalid enum value 'root'; use admin or use",
        ),
        ("backends: {box: {}}", "$.backends.box.kind: missing; use mlx, ollama or echo"),
        ("backends: {box: true}", "$.backends.box.kind: missing; use mlx, ollama or echo"),
        ("backends: {box: 3}", "$.backends.box: Expected `object`, got `int`"),
        (
            "backends: {box: {kind: vllm}}",
            "$.backends.box.kind: no kind of backend is 'vllm'; use mlx, ollama or echo",
        ),
        (
            "backends: {box: {kind: ollama, hots: x}}",
            "$.backends.box: Object contains unknown field `hots`",
        ),
        (
            "backends: {box: {kind: ollama, token_timeout: 0}}",
            "$.backends.box.token_timeout: Expected `float` > 0.0",
        ),
        (
            "backends: {apple: {kind: mlx}}",
            "$.backends.apple.kind: a process has one backend of kind mlx, and `mlx` is one; "
            "switch one off, as in `mlx: null`",
        ),
        ("backends: {auto: {kind: echo}}", "$.backends.auto: this name is reserved"),
        ("backends: {pin: {kind: echo}}", "$.backends.pin: this name is reserved"),
        ("backends: {a/b: {kind: echo}}", "$.backends.'a/b': the name of a backend is one word"),
        ("backends: {a b: {kind: echo}}", "$.backends.'a b': the name of a backend is one word"),
        ("backends: {'a,b': {kind: echo}}", "$.backends.'a,b': the name of a backend is one word"),
        ("backends: {büro: {kind: echo}}", "$.backends.'büro': the name of a backend is one word"),
        ("backends: {'': {kind: echo}}", "$.backends.'': the name of a backend is one word"),
        (
            "backends: {ollama: {hots: x}}",
            "$.backends.ollama: Object contains unknown field `hots`",
        ),
        ("models: {'': {mlx: x}}", "$.models.'': an alias has 1 to 200 printable characters"),
        (
            'models: {"a\\nb": {mlx: x}}',
            "line 1: $.models.'a\\nb': an alias has 1 to 200 printable",
        ),
        ("models: {fast: {}}", "$.models.fast: Name the model on at least one backend"),
        (
            "models: {fast: {mlx: x, prefer: ollama}}",
            "$.models.fast: `prefer: ollama` needs the model's name on ollama",
        ),
        (
            "models: {fast: {mlx: x, prefer: best}}",
            "$.models.fast: `prefer: best` needs the model's name on best; use auto or mlx",
        ),
        (
            "models: {fast: {vllm: x}}",
            "$.models.fast.vllm: no backend of this name; use mlx, ollama or echo",
        ),
        (
            "models: {ollama/fast: {mlx: x}}",
            "$.models.ollama/fast: a request with this name asks for 'fast' on ollama; use an "
            "alias that does not begin with 'ollama/'",
        ),
        ("models: {fast: {mlx: 3}}", "$.models.fast.mlx: Expected `str`, got `int`"),
        ("models: {fast: x}", "$.models.fast: Expected `object`, got `str`"),
        ("models: {fast: {mlx: x, pin: 1}}", "$.models.fast.pin: Expected `bool`, got `int`"),
        (
            "models: {slow: {mlx: x}, fast: {mlx: x, keep_alive: soon}}",
            "$.models.fast.keep_alive: Expected `float | null`, got `str`; use seconds",
        ),
        (
            "server: {refresh: .inf}",
            "$.server.refresh: Expected `float` <= 1000000000.0",
        ),
        (
            "models: {a: {ollama: x, keep_alive: 5m}, b: {ollama: 'x:latest', ttl: 60}}",
            "$.models.b: 'a' and 'b' are both 'x' on ollama, and set different `keep_alive` times",
        ),
        ("[]", "Expected `object`, got `array`"),
        (
            "server:\n  port: 1\n  host: ::1\n  port: 2\n",
            "$.server.port: this key is set twice, in line 2 and in line 4",
        ),
        (
            "backends: {}\nbackends: {}",
            "$.backends: this key is set twice, in line 1 and in line 2",
        ),
        (
            "server:\n  keys:\n    - name: a\n      key: b\n      name: c\n",
            "$.server.keys[0].name: this key is set twice, in line 3 and in line 5",
        ),
        ("models: {a: {mlx: x}, 'a': {mlx: y}}", "$.models.a: this key is set twice, in line 1"),
        ("server: {keys: [{name: a}]}", "$.server.keys[0]: Object missing required field `key`"),
        ("server: {keys: [{name: a, key: b, role: root}]}", "$.server.keys[0].role: Invalid enum"),
        ("server: {keys: [{name: 'a\"', key: b}]}", "$.server.keys[0]: `name`"),
        ("server: {keys: [{name: a, key: 'b c'}]}", "$.server.keys[0]: `key` of 'a': the value is"),
        ("server: {keys: [{name: a, key: b}, {name: a, key: c}]}", "$.server: `keys`: two keys"),
        ("server: {allowed_admin_origins: [evil.com]}", "$.server: `allowed_admin_origins`"),
        ("models:\n  1: {mlx: x}\n", "line 2: $.models.1: this key is not a text; write '1'"),
        ("no: 1", "line 1: $.no: this key is not a text; write 'no'"),
        ("~: {}", "line 1: $.~: this key is not a text; write '~'"),
        ("server: &a {keys: *a}", "the settings are nested too deeply"),
        ("backends: {x: {kind: [mlx]}}", "$.backends.x.kind: Expected `str`, got `array`"),
        (f"x: 1\nserver: {'[' * 5000}{']' * 5000}", "line 2: the settings are nested too deeply"),
        (f"server:\n{'- ' * 100_000}", "line 2: the settings are nested too deeply"),
        (f"server: {'[{a: ' * 1_000_000}", "line 1: the settings are nested too deeply"),
        ("server: [", "line 2"),
        ("x: 1\na: b: c", "line 2"),
        ("server: {allowed_hosts: ['tandem.lan:8006']}", "'tandem.lan:8006' is no name of a host"),
        ("server: {allowed_hosts: ['*']}", "'*' is no name of a host"),
        (
            "server: {auto_pull_hosts: ['https://hf.co']}",
            "`auto_pull_hosts`: 'https://hf.co' is no",
        ),
        ("server: {images: {fetch_from: ['https://a']}}", "`fetch_from`: 'https://a' is no name"),
        ("server: {state_folder: ~no-such-user/x}", "`state_folder`: '~no-such-user/x' is no path"),
        ('backends: {mlx: {folders: ["a\\0b"]}}', "`folders`: 'a\\x00b' is no path"),
        ("backends: {mlx: {voices: {m: {audio: ~no-such-user/x}}}}", "`voices.m.audio`"),
    ],
)
def test_wrong_file_is_refused_with_file_and_key(tmp_path: Path, text: str, message: str):
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    where, _, what = str(caught.value).partition(f"{path}: ")
    assert where == ""
    assert message in what
    assert "\n" not in what


def test_times_are_seconds_or_durations(tmp_path: Path):
    text = """
        server: {refresh: 1500ms, store: {max_age: 720h}}
        backends: {mlx: {keep_alive: 5m, keep_alive_of: {a/b: 1h30m, c: -1m}, stall_seconds: 60}}
        models: {fast: {ollama: d, ttl: 2m}}
    """
    config = load_config(write(tmp_path, text))
    assert config.server.refresh == 1.5
    assert config.server.store == StoreConfig(max_age=2592000.0)
    times = {"a/b": 5400.0, "c": -60.0}
    assert config.backends["mlx"] == MLXConfig(
        keep_alive=300, keep_alive_of=times, stall_seconds=60
    )
    assert config.models["fast"].seconds() == 120.0


def test_yaml_aliases_and_merged_keys_are_no_repetition(tmp_path: Path):
    text = "models:\n  a: &a {mlx: x, prefer: mlx}\n  b: *a\n  c: {<<: *a, mlx: y}\n"
    models = load_config(write(tmp_path, text)).models
    assert [model.names["mlx"] for model in models.values()] == ["x", "x", "y"]


@pytest.mark.parametrize("key", ["env:NOT_SET_ANYWHERE", "file:/nonexistent/key"])
def test_key_of_a_backend_that_cannot_be_read_is_refused(tmp_path: Path, key: str):
    path = write(tmp_path, f"backends: {{box: {{kind: ollama, api_key: '{key}'}}}}")
    with pytest.raises(ConfigError, match=r"\$\.backends\.box\.api_key: the"):
        load_config(path)


def test_undecodable_file_is_refused(tmp_path: Path):
    path = tmp_path / "config.yaml"
    path.write_bytes(b"server: {host: \xff}")
    with pytest.raises(ConfigError, match=str(path)):
        load_config(path)


def test_device_without_an_end_is_refused():
    with pytest.raises(ConfigError, match="/dev/zero: the file has more than 8000000 bytes"):
        load_config(Path("/dev/zero"))


def test_reload_waits_for_no_pipe(tmp_path: Path):
    """Not even for that of `--config <(command)`, of which the writer has ended."""
    pipe = tmp_path / "config.yaml"
    os.mkfifo(pipe)
    with pytest.raises(ConfigError, match=f"{pipe}: not a regular file"):
        load_config(pipe, is_reload=True)


def test_missing_file_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="No such file"):
        load_config(tmp_path / "none.yaml")


def test_file_is_looked_up_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    own = tmp_path / "tandem" / "config.yaml"
    environ = {"XDG_CONFIG_HOME": str(tmp_path)}
    assert find_config(None, environ) is None
    own.parent.mkdir()
    own.touch()
    assert find_config(None, environ) == own
    assert find_config(None, {**environ, "TANDEM_CONFIG": "b.yaml"}) == Path("b.yaml")
    assert find_config("a.yaml", {**environ, "TANDEM_CONFIG": "b.yaml"}) == Path("a.yaml")


def test_users_file_that_cannot_be_read_is_not_passed_over(tmp_path: Path):
    """The defaults in its place would have no keys."""
    own = tmp_path / "tandem" / "config.yaml"
    own.parent.mkdir()
    own.symlink_to("nowhere")
    assert find_config(None, {"XDG_CONFIG_HOME": str(tmp_path)}) == own
    with pytest.raises(ConfigError, match="No such file"):
        load_config(own)
    found = find_config(None, {"XDG_CONFIG_HOME": str(tmp_path / ("x" * 300))})
    assert found is not None
    with pytest.raises(ConfigError, match="File name too long"):
        load_config(found)


@pytest.mark.parametrize(
    ("platform", "folder"),
    [("linux", ".config"), ("darwin", "Library/Application Support")],
)
def test_users_file_depends_on_the_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, platform: str, folder: str
):
    own = tmp_path / folder / "tandem/config.yaml"
    own.parent.mkdir(parents=True)
    own.touch()
    monkeypatch.setattr("sys.platform", platform)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_config(None, {}) == own


@pytest.mark.parametrize(
    ("platform", "environ", "folder"),
    [
        ("linux", {}, ".local/state/tandem"),
        ("darwin", {}, "Library/Application Support/tandem"),
        ("darwin", {"XDG_STATE_HOME": "/state"}, "/state/tandem"),
    ],
)
def test_state_folder_depends_on_the_system(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    platform: str,
    environ: dict[str, str],
    folder: str,
):
    monkeypatch.setattr("sys.platform", platform)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert state_folder(Config(), environ) == tmp_path / folder
    own = Config(server=ServerConfig(state_folder="~/mine"))
    assert state_folder(own, environ) == tmp_path / "mine"


BROKEN = """\
# A comment.
server:
  port: eighty
  prot: 1
  images:
    max_pixels: none
models:
  llama3.2:3b:
    ollama: 7
backends:
  box: {kind: ollama,
    hots: x}
"""


def test_every_problem_of_a_file_has_its_line_and_key(tmp_path: Path):
    path = write(tmp_path, BROKEN)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert str(caught.value).splitlines() == [
        f"{path}: line 3: $.server.port: Expected `int`, got `str`",
        f"{path}: line 4: $.server: Object contains unknown field `prot`; did you mean `port`?",
        f"{path}: line 6: $.server.images.max_pixels: Expected `int`, got `str`",
        f"{path}: line 12: $.backends.box: Object contains unknown field `hots`; did you mean "
        "`hosts`?",
        f"{path}: line 9: $.models.llama3.2:3b.ollama: Expected `str`, got `int`",
    ]


def test_file_that_is_no_yaml_has_the_line_of_the_mistake(tmp_path: Path):
    with pytest.raises(ConfigError) as error:
        load_config(write(tmp_path, "server: {port: 1}\nmodels: {c: [}\n"))
    (problem,) = error.value.problems
    assert (problem.line, problem.key) == (2, "")


def test_problem_between_two_settings_has_the_line_of_what_both_are_in(tmp_path: Path):
    text = "backends:\n  ollama:\n    host: a\n    hosts: [b]\n"
    with pytest.raises(ConfigError, match=r"line 2: \$\.backends\.ollama: Set `host` or `hosts`"):
        load_config(write(tmp_path, text))


def test_variables_override_the_file(tmp_path: Path):
    path = write(tmp_path, "server: {port: 1, host: a, strict_fields: true}")
    environ = {
        "TANDEM_HOST": "0.0.0.0",
        "TANDEM_PORT": "8250",
        "TANDEM_ALLOWED_HOSTS": "tandem.lan, box",
        "TANDEM_MEMORY_BYTES": "1000",
        "TANDEM_LOG_FORMAT": "json",
        "TANDEM_STATE_FOLDER": "",
    }
    assert load_config(path, environ).server == ServerConfig(
        host="0.0.0.0",
        port=8250,
        allowed_hosts=("tandem.lan", "box"),
        memory_bytes=1000,
        log_format="json",
        strict_fields=True,
    )


def test_every_wrong_variable_is_named():
    with pytest.raises(ConfigError) as caught:
        load_config(None, {"TANDEM_PORT": "eighty", "TANDEM_LOG_FORMAT": "xml"})
    assert str(caught.value).splitlines() == [
        "$TANDEM_PORT: Expected `int`, got `str`",
        "$TANDEM_LOG_FORMAT: Invalid enum value 'xml'; use json or text",
    ]

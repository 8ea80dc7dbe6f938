"""Limits of renderings: the worker is killed, the server and other renderings go on."""

import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from adapters.chat_template.confined import Limits, Renderers, TemplateLimitError
from adapters.chat_template.jinja import TemplateRefusalError

pytestmark = pytest.mark.process

MESSAGES = [{"role": "user", "content": "Hi \ud800"}]
LOOP = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
DOUBLED = (
    "{% set n = namespace(s='aaaaaaaa') %}"
    "{% for _ in range(60) %}{% set n.s = n.s ~ n.s %}{% endfor %}{{ n.s }}"
)


@pytest.fixture(scope="module")
def renderers() -> Iterator[Renderers]:
    renderers = Renderers(Limits(memory=1 << 28, length=10_000))
    yield renderers
    renderers.close()


@pytest.mark.parametrize(
    ("template", "clause"),
    [
        ("{{ 'a' * 10**12 }}", "needs more than 0.25 GB of memory to render"),
        (DOUBLED, "needs more than 0.25 GB of memory to render"),
        ("{{ 'a' * 10001 }}", "makes a prompt of more than 10,000 characters"),
    ],
)
def test_rendering_beyond_a_limit_is_an_error_and_the_next_one_is_not(
    renderers: Renderers, template: str, clause: str
) -> None:
    with pytest.raises(TemplateLimitError) as caught:
        renderers.render(template, MESSAGES, None, {})
    assert caught.value.message == f"The model's chat template {clause}."
    assert caught.value.lasting
    assert renderers.render("{{ messages[0].content }}", MESSAGES, None, {}) == "Hi \ud800"


def test_rendering_that_takes_too_long_is_an_error_and_the_next_one_is_not() -> None:
    renderers = Renderers(Limits(seconds=0.5))
    with pytest.raises(TemplateLimitError, match=r"takes longer than 0\.5 seconds to render"):
        renderers.render(LOOP, MESSAGES, None, {})
    assert renderers.render("{{ messages[0].content }}", MESSAGES, None, {}) == "Hi \ud800"
    renderers.close()


def test_other_renderings_go_on_while_one_loops() -> None:
    renderers = Renderers(Limits(seconds=1.5))
    ended: list[str] = []

    def loop() -> None:
        with pytest.raises(TemplateLimitError):
            renderers.render(LOOP, MESSAGES, None, {})
        ended.append("loop")

    thread = threading.Thread(target=loop)
    thread.start()
    ended.append(renderers.render("{{ tools[0].a }}", [], [{"a": 2**70}], {}))
    thread.join()
    renderers.close()
    assert ended == [str(2**70), "loop"]


def test_refusal_has_the_reason_of_the_template(renderers: Renderers) -> None:
    with pytest.raises(TemplateRefusalError, match=r"^no such role$"):
        renderers.render("{{ raise_exception('no such role') }}", [], None, {})


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="a file of Linux")
def test_worker_has_no_keys_in_its_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TANDEM_KEY", "canary-of-a-key")
    renderers = Renderers(Limits())
    renderers.render("{{ 1 }}", [], None, {})
    found = subprocess.run(
        ["pgrep", "-P", str(os.getpid()), "-f", "chat_template.worker"], capture_output=True
    )
    environments = [
        Path(f"/proc/{pid}/environ").read_bytes() for pid in found.stdout.decode().split()
    ]
    renderers.close()
    assert environments
    assert not any(b"canary-of-a-key" in environment for environment in environments)


def test_template_cannot_change_the_messages_of_its_caller(renderers: Renderers) -> None:
    messages = [{"role": "user", "parts": [1]}]
    template = "{% set _ = messages[0].parts.append(2) %}{{ messages[0].parts }}"
    assert renderers.render(template, messages, None, {}) == "[1, 2]"
    assert messages == [{"role": "user", "parts": [1]}]

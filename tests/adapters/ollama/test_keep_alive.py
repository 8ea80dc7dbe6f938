"""`keep_alive` of requests to an Ollama: Ollama takes that of the latest request."""

from msgspec import UNSET

from adapters.config import OllamaConfig
from adapters.ollama.keep_alive import KeepAlive


def test_a_request_without_a_time_has_the_configured_one():
    times = KeepAlive(OllamaConfig(keep_alive=60, keep_alive_of={"a": 5}))
    assert times.of("a:latest", UNSET) == 5
    assert times.of("b", UNSET) == 60
    assert times.of("b", 7) == 7
    assert KeepAlive(OllamaConfig()).of("b", UNSET) is UNSET


def test_a_pinned_model_stays_whatever_time_a_request_has():
    times = KeepAlive(OllamaConfig(keep_alive=60))
    assert times.set_pinned("a", True) == -1
    assert times.of("a:latest", UNSET) == -1
    assert times.of("a", 7) == -1
    assert times.of("a", 0) == 0


def test_a_model_that_is_let_go_has_the_time_of_its_last_request():
    times = KeepAlive(OllamaConfig(keep_alive=60))
    times.of("a", 7)
    times.set_pinned("a", True)
    assert times.set_pinned("a", False) == 7
    assert times.of("a", UNSET) == 60
    assert times.set_pinned("a", False) == 60

"""The log in memory, as the page reads it."""

import logging
import time

import pytest

from proxy.log_buffer import LogBuffer


def log(buffer: LogBuffer, *texts: str) -> None:
    for text in texts:
        buffer.handle(logging.LogRecord("tandem", logging.WARNING, "", 0, text, None, None))


def test_lines_of_a_later_server_follow_those_of_an_earlier_one(monkeypatch: pytest.MonkeyPatch):
    earlier = LogBuffer()
    log(earlier, "one", "two", "three")
    last = earlier.after(0)[-1].number
    started = time.time_ns() + 10**9
    monkeypatch.setattr("time.time_ns", lambda: started)
    later = LogBuffer()
    log(later, "four")
    assert [line.text for line in later.after(last)] == ["four"]

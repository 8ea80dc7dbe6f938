"""The log in memory, as the page reads it."""

import logging
import time

from proxy.log_buffer import LogBuffer


def log(buffer: LogBuffer, *texts: str) -> None:
    for text in texts:
        buffer.handle(logging.LogRecord("tandem", logging.WARNING, "", 0, text, None, None))


def test_lines_of_a_later_server_follow_those_of_an_earlier_one():
    earlier = LogBuffer()
    log(earlier, "one", "two", "three")
    last = earlier.after(0)[-1].number
    time.sleep(0.01)
    later = LogBuffer()
    log(later, "four")
    assert [line.text for line in later.after(last)] == ["four"]

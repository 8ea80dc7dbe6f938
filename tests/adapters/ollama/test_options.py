"""Options under Ollama's own names: sent unchanged, or refused by name."""

import json
from typing import Any

import msgspec
import pytest

from adapters.errors import InvalidRequestError
from adapters.ollama.translate.request import to_body
from adapters.request import GenerationRequest, Message, Sampling, TextPart

QUESTION = Message(role="user", content=(TextPart("Weather in Paris?"),))


def body_of(**fields: Any) -> dict[str, Any]:
    request = GenerationRequest(model="m", prompt=(QUESTION,), **fields)
    return json.loads(msgspec.json.encode(to_body(request)))


def test_every_option_is_sent_when_it_is_given():
    own = {
        "typical_p": 0.5,
        "repeat_last_n": -1,
        "num_keep": 4,
        "num_batch": 64,
        "num_gpu": 0,
        "main_gpu": 1,
        "use_mmap": False,
        "num_thread": 2,
        "draft_num_predict": 3,
        "num_predict": -1,
        "num_ctx": 512,
        "stop": ["a"],
        "temperature": 0.5,
    }
    assert body_of(options=own)["options"] == own


def test_option_of_null_is_not_sent():
    assert body_of(options={"num_gpu": None})["options"] == {}


@pytest.mark.parametrize(
    ("own", "param"),
    [
        ({"mirostat": 1}, "options.mirostat"),
        ({"num_gpu": "all"}, "options.num_gpu"),
        ({"num_gpu": 1.5}, "options.num_gpu"),
        ({"num_thread": True}, "options.num_thread"),
        ({"top_p": 7}, "options.top_p"),
        ({"temperature": -1}, "options.temperature"),
        ({"num_ctx": 0}, "options.num_ctx"),
        ({"stop": "a"}, "options.stop"),
        ({"stop": ["a", 1]}, "options.stop"),
        ({"use_mmap": 1}, "options.use_mmap"),
    ],
)
def test_option_that_ollama_would_ignore_or_fail_at_is_refused(own: dict[str, Any], param: str):
    with pytest.raises(InvalidRequestError) as caught:
        body_of(options=own)
    assert caught.value.param == param


def test_option_is_refused_when_another_field_has_another_value():
    with pytest.raises(InvalidRequestError, match="is 5, which conflicts with 9") as caught:
        body_of(max_tokens=9, options={"num_predict": 5})
    assert caught.value.param == "options.num_predict"


def test_option_is_accepted_when_another_field_has_the_same_value():
    assert body_of(num_ctx=512, options={"num_ctx": 512})["options"] == {"num_ctx": 512}


def test_repetition_penalty_is_sent_under_ollamas_name():
    sampling = Sampling(repetition_penalty=1.5)
    assert body_of(sampling=sampling)["options"] == {"repeat_penalty": 1.5}


@pytest.mark.parametrize(
    ("seconds", "sent"), [(0, 0), (1.5, 1.5), (300, 300), (-5, -1), (1e12, -1), (float("inf"), -1)]
)
def test_keep_alive_is_sent_as_ollama_reads_it(seconds: float, sent: float):
    assert body_of(keep_alive=seconds)["keep_alive"] == sent


def test_keep_alive_that_is_no_number_is_refused():
    with pytest.raises(InvalidRequestError) as caught:
        body_of(keep_alive=float("nan"))
    assert caught.value.param == "keep_alive"

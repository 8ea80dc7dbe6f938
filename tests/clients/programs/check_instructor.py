"""instructor in its modes for OpenAI."""

import os
from typing import Literal

import instructor
import openai
import pydantic
import pytest
from instructor import Mode

NEEDS_CAPABLE = pytest.mark.skipif(
    not os.environ["TANDEM_CAPABLE"], reason="the mode leaves the form of the answer to the model"
)
MODES = [
    Mode.TOOLS,
    Mode.TOOLS_STRICT,
    Mode.JSON_SCHEMA,
    pytest.param(Mode.JSON, marks=NEEDS_CAPABLE),
]


class City(pydantic.BaseModel):
    """A city."""

    name: Literal["Paris", "Rome"]
    big: bool


def client(mode: Mode) -> instructor.Instructor:
    sdk = openai.OpenAI(base_url=f"{os.environ['TANDEM_URL']}/v1", api_key="x", max_retries=0)
    return instructor.from_openai(sdk, mode=mode)


@pytest.mark.parametrize("mode", MODES)
def test_model_is_returned(mode: Mode):
    answer = client(mode).chat.completions.create(
        model=os.environ["TANDEM_MODEL"],
        messages=[{"role": "user", "content": "Which city has the Eiffel tower?"}],
        response_model=City,
        max_retries=0,
        max_tokens=200,
    )
    assert isinstance(answer, City)


@pytest.mark.parametrize("mode", [Mode.TOOLS, Mode.JSON_SCHEMA])
def test_partial_models_are_streamed(mode: Mode):
    *_, last = client(mode).chat.completions.create_partial(
        model=os.environ["TANDEM_MODEL"],
        messages=[{"role": "user", "content": "Which city has the Eiffel tower?"}],
        response_model=City,
        max_retries=0,
        max_tokens=200,
    )
    assert City.model_validate(last.model_dump())

"""The request log: one line for each answer, from its record; never prompts, answers or keys."""

import asyncio
import io
import json
import threading
from typing import Any

import pytest
from fakes.scripted_backend import DONE, HELLO, ScriptedBackend, chat, http_client

from adapters.backend import Model
from adapters.errors import BackendUnavailableError, GenerationError
from adapters.events import Started, TextDelta
from proxy.access.config import KeyConfig
from proxy.config import Config, ModelConfig, ServerConfig
from proxy.log_buffer import LogBuffer
from proxy.record import Record, Summary
from proxy.request_log import LogFormat, RequestLog

JSON = ServerConfig(log_format="json")
URL = "/v1/chat/completions"


async def lines(*backends: ScriptedBackend, config: Config, **body: Any) -> list[dict[str, Any]]:
    """The lines of one chat."""
    log = io.StringIO()
    async with http_client(*backends, config=config, log=log) as client:
        await client.post(URL, json=chat(**body), headers={"authorization": "Bearer secret"})
    return [json.loads(line) for line in log.getvalue().splitlines()]


@pytest.mark.parametrize("stream", [False, True])
async def test_answer_is_one_line_with_all_its_facts(stream: bool):
    (line,) = await lines(ScriptedBackend(), config=Config(server=JSON), stream=stream)
    assert set(line) == set(Summary.__struct_fields__)
    assert (line["method"], line["path"], line["status"]) == ("POST", URL, 200)
    assert (line["outcome"], line["error"], line["streamed"]) == ("ok", None, stream)
    assert (line["model"], line["backend"]) == ("m", "scripted")
    assert (line["prompt_tokens"], line["completion_tokens"]) == (3, 2)
    assert line["request_id"].startswith("req_")
    assert 0 <= line["ttft_s"] <= line["total_s"]


async def test_line_has_no_prompt_answer_or_key():
    content = "a very private prompt"
    message = {"role": "user", "content": content}
    (line,) = await lines(ScriptedBackend(), config=Config(server=JSON), messages=[message])
    text = json.dumps(line)
    assert not [word for word in (content, "Hello", "secret") if word in text]


async def test_line_has_the_name_of_the_key():
    keys = (KeyConfig(name="laptop", key="secret"),)
    server = ServerConfig(log_format="json", keys=keys)
    (line,) = await lines(ScriptedBackend(), config=Config(server=server))
    assert line["key"] == "laptop"
    assert "secret" not in json.dumps(line)


async def test_fallback_is_named():
    config = Config(
        server=JSON, models={"m": ModelConfig(names={"mlx": "m", "ollama": "m"}, prefer="mlx")}
    )
    mlx = ScriptedBackend([BackendUnavailableError("down")], kind="mlx", models=[Model(name="m")])
    (line,) = await lines(mlx, ScriptedBackend(kind="ollama"), config=config)
    assert (line["backend"], line["outcome"]) == ("ollama", "ok")
    assert line["fallback_from"] == "mlx; reason=backend_unavailable"


@pytest.mark.parametrize(
    ("script", "stream", "status", "error"),
    [
        ([GenerationError("It broke.")], False, 500, "generation_failed"),
        ([Started(), TextDelta("a"), GenerationError("It broke.")], True, 200, "generation_failed"),
        ([ValueError("secret")], False, 500, "internal_error"),
    ],
)
async def test_failure_is_told_by_its_code(
    script: list[Any], stream: bool, status: int, error: str
):
    backend = ScriptedBackend(script)
    (line,) = await lines(backend, config=Config(server=JSON), stream=stream)
    assert (line["status"], line["outcome"], line["error"]) == (status, "error", error)


async def test_refused_body_is_a_line_without_model():
    backend = ScriptedBackend()
    (line,) = await lines(backend, config=Config(server=JSON), messages="none")
    assert (line["status"], line["model"], line["backend"]) == (400, None, "none")


async def test_text_form_leaves_out_what_is_not_known():
    log = io.StringIO()
    async with http_client(ScriptedBackend((*HELLO[:2], DONE)), log=log) as client:
        await client.post(URL, json=chat(model="m\nm"))
        await client.post(URL, json=chat())
    refused, answered = log.getvalue().splitlines()
    assert " model=m?m " in refused
    assert " model=m backend=scripted streamed=False prompt_tokens=3 " in answered
    assert "error=" not in answered


async def test_no_log_where_the_config_says_null():
    config = Config(server=ServerConfig(log_format=None))
    assert await lines(ScriptedBackend(), config=config) == []


async def test_lists_and_health_leave_no_line():
    log = io.StringIO()
    async with http_client(ScriptedBackend(), log=log) as client:
        for path in ("/health", "/v1/models"):
            assert (await client.get(path)).status_code == 200
    assert log.getvalue() == ""


class Stuck(io.StringIO):
    """A pipe that is full: a write does not return."""

    def __init__(self) -> None:
        super().__init__()
        self.is_read = threading.Event()

    def write(self, text: str) -> int:
        self.is_read.wait()
        return super().write(text)


async def test_stream_that_takes_no_line_holds_up_no_answer():
    stuck = Stuck()
    log = RequestLog(
        "text", stuck, LogBuffer().add_request, max_batches=1, batch_seconds=0, close_seconds=0
    )
    for _ in range(20):
        record = Record("POST", URL)
        record.model = "m"
        record.close()
        log.read(record)
        await asyncio.sleep(0)  # A turn for the timer of the batch.
        await asyncio.sleep(0)
    assert log.dropped > 0
    stuck.is_read.set()
    log.close()


@pytest.mark.parametrize("form", ["text", "json"])
async def test_path_of_a_client_stays_within_its_value(form: LogFormat):
    log = io.StringIO()
    config = Config(server=ServerConfig(log_format=form))
    async with http_client(ScriptedBackend(), config=config, log=log) as client:
        await client.get("/v1/models/%0AERROR%1B%5B2J%C2%9B%20outcome=ok%22" + "x" * 300)
    (line,) = log.getvalue().splitlines()
    assert line.isprintable()
    path = '/v1/models/?ERROR?[2J? outcome=ok"'.ljust(200, "x")
    assert (
        f"path={json.dumps(path)} " in line if form == "text" else json.loads(line)["path"] == path
    )

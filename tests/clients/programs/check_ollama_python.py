"""Ollama's client for Python: every method that a local server can serve."""

import json
import os

import ollama
import pytest

MODEL = os.environ["TANDEM_MODEL"]
EMBEDDING_MODEL = os.environ["TANDEM_EMBEDDING_MODEL"]
IS_OLLAMA = os.environ["TANDEM_ENGINE"] == "ollama"
IS_CAPABLE = bool(os.environ["TANDEM_CAPABLE"])
NEEDS_CAPABLE = pytest.mark.skipif(not IS_CAPABLE, reason="the model does not follow instructions")
NEEDS_OLLAMA = pytest.mark.skipif(
    IS_CAPABLE or not IS_OLLAMA, reason="only Ollama itself makes and copies models"
)
NEEDS_PROMPTS = pytest.mark.skipif(IS_CAPABLE and IS_OLLAMA, reason="scripted for chats")
NEEDS_EMBEDDINGS = pytest.mark.skipif(
    not EMBEDDING_MODEL, reason="the server has no model that embeds"
)
HELLO = [{"role": "user", "content": "Say hello."}]
QUESTION = [{"role": "user", "content": "What is the weather in Paris?"}]
SHORT = {"num_predict": 8}


def get_weather(city: str) -> str:
    """Tell the weather of a city.

    Args:
        city: The name of the city.
    """
    return "17 degrees"


@pytest.fixture
def client():
    return ollama.Client(os.environ["TANDEM_URL"])


def test_chat(client):
    answer = client.chat(MODEL, HELLO, options=SHORT)
    assert answer.message.content
    assert answer.done
    assert answer.eval_count > 0


def test_streamed_chat(client):
    parts = list(client.chat(MODEL, HELLO, options=SHORT, stream=True))
    assert "".join(part.message.content for part in parts)
    assert [part.done for part in parts] == [*[False] * (len(parts) - 1), True]


def test_chat_with_a_format(client):
    form = {
        "type": "object",
        "properties": {"city": {"enum": ["Paris", "Rome"]}},
        "required": ["city"],
    }
    answer = client.chat(MODEL, HELLO, format=form, options={"num_predict": 100})
    assert json.loads(answer.message.content)["city"] in ("Paris", "Rome")


@NEEDS_CAPABLE
def test_tool_loop(client):
    first = client.chat(MODEL, QUESTION, tools=[get_weather])
    (call,) = first.message.tool_calls
    assert (call.function.name, call.function.arguments) == ("get_weather", {"city": "Paris"})
    result = {"role": "tool", "tool_name": "get_weather", "content": get_weather("Paris")}
    second = client.chat(MODEL, [*QUESTION, first.message, result], tools=[get_weather])
    assert "17 degrees" in second.message.content


async def test_asynchronous_client():
    client = ollama.AsyncClient(os.environ["TANDEM_URL"])
    parts = [part async for part in await client.chat(MODEL, HELLO, options=SHORT, stream=True)]
    assert parts[-1].done
    assert (await client.list()).models


@NEEDS_PROMPTS
def test_generate(client):
    answer = client.generate(MODEL, "Once upon", options=SHORT)
    assert answer.done
    assert answer.eval_count > 0
    more = client.generate(MODEL, "Go on.", context=answer.context, options=SHORT)
    assert more.prompt_eval_count > answer.prompt_eval_count


@NEEDS_PROMPTS
def test_streamed_generate(client):
    *_, last = client.generate(MODEL, "Once", options=SHORT, stream=True)
    assert last.done


@NEEDS_PROMPTS
def test_model_is_loaded_and_unloaded(client):
    assert client.generate(MODEL, keep_alive="5m").done_reason == "load"
    assert MODEL in [running.model for running in client.ps().models]
    assert client.generate(MODEL, keep_alive=0).done_reason == "unload"


def test_list_and_show(client):
    (found,) = [each for each in client.list().models if each.model == MODEL]
    assert found.details.family
    shown = client.show(MODEL)
    assert "completion" in shown.capabilities
    assert shown.modelinfo["general.architecture"]


@NEEDS_EMBEDDINGS
def test_embed_and_embeddings(client):
    embedded = client.embed(EMBEDDING_MODEL, ["a", "b"])
    assert len(embedded.embeddings) == 2
    old = client.embeddings(EMBEDDING_MODEL, "a")
    assert len(old.embedding) == len(embedded.embeddings[0])


@NEEDS_OLLAMA
def test_create_copy_and_delete(client):
    assert client.create("made-by-python", from_=MODEL, system="Be terse.").status == "success"
    assert client.copy("made-by-python", "copied-by-python").status == "success"
    names = {each.model.split(":")[0] for each in client.list().models}
    assert names >= {"made-by-python", "copied-by-python"}
    for name in ("made-by-python", "copied-by-python"):
        assert client.delete(name).status == "success"


@NEEDS_OLLAMA
def test_uploaded_file(client, tmp_path):
    (tmp_path / "file").write_bytes(b"weights")
    assert client.create_blob(tmp_path / "file").startswith("sha256:")


def test_pull_of_a_model_that_is_not_to_be_had(client):
    with pytest.raises(ollama.ResponseError):
        client.pull("no-such-model-at-all")
    with pytest.raises(ollama.ResponseError):
        list(client.pull("no-such-model-at-all", stream=True))


def test_push_has_no_place_to_go(client):
    with pytest.raises(ollama.ResponseError):
        client.push("no-such-model-at-all")


def test_errors_have_the_message_of_ollama(client):
    with pytest.raises(ollama.ResponseError, match="no-such-model") as missing:
        client.chat("no-such-model", HELLO)
    assert missing.value.status_code == 404

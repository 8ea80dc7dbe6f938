"""Duties of every class of models, as requests to Tandem's `/v1/chat/completions`.

A cell is `ok`, `refused` (a 400 that names the parameter), `cut` (the limit came before the end of
the thought), or a text that says what is wrong.
"""

import http.client
import json
from collections.abc import Callable, Iterator
from typing import Any

from fakes.waiting import until_now
from msgspec import Struct

JSON = dict[str, Any]
SCHEMA: JSON = {
    "type": "object",
    "properties": {
        "why": {"type": "string", "enum": ["I know it", "I guess"]},
        "answer": {"type": "integer", "enum": [1, 2, 3, 4]},
    },
    "required": ["why", "answer"],
    "additionalProperties": False,
}
FORMAT: JSON = {
    "type": "json_schema",
    "json_schema": {"name": "sum", "schema": SCHEMA, "strict": True},
}
_CITIES = ["Paris", "Rome"]
_TRIES = 4
"""Seeds until the thought of a small model has an end within the limit."""


def _tool(name: str, key: str, values: list[str]) -> JSON:
    parameters = {
        "type": "object",
        "properties": {key: {"type": "string", "enum": values}},
        "required": [key],
        "additionalProperties": False,
    }
    function = {"name": name, "description": f"Tells about a {key}.", "parameters": parameters}
    return {"type": "function", "function": function}


WEATHER = _tool("get_weather", "city", _CITIES)
CLOCK = _tool("get_time", "zone", ["UTC", "CET"])
SUM = [{"role": "user", "content": "What is 1 + 1? Answer in JSON."}]
ASK = [{"role": "user", "content": "What is the weather in Paris?"}]
HELLO = [{"role": "user", "content": "Say hello to Ann."}]


class WrongAnswerError(Exception):
    """The argument says what is wrong."""


class RefusedError(Exception):
    """The argument is the parameter."""


class CutThoughtError(Exception):
    """The limit has ended the answer in or soon after its thought, which says nothing about it."""


class Answer(Struct, kw_only=True):
    content: str = ""
    reasoning: str = ""
    calls: list[tuple[str, str]] = []
    reason: str | None = None
    usage: JSON = {}
    logprobs: list[JSON] | None = None


class Probing:
    """One model behind a Tandem that listens on `port`."""

    def __init__(self, port: int, model: str) -> None:
        self._port = port
        self._model = model

    def whole(self, messages: list[JSON], **fields: Any) -> Answer:
        body = json.loads(self._post(self._body(messages, fields)))
        choice = body["choices"][0]
        message = choice["message"]
        return Answer(
            content=message.get("content") or "",
            reasoning=message.get("reasoning_content") or "",
            calls=[
                (call["function"]["name"], call["function"]["arguments"])
                for call in message.get("tool_calls") or ()
            ],
            reason=choice["finish_reason"],
            usage=body["usage"],
            logprobs=(choice.get("logprobs") or {}).get("content"),
        )

    def streamed(self, messages: list[JSON], **fields: Any) -> Answer:
        extra = {"stream": True, "stream_options": {"include_usage": True}}
        answer = Answer()
        calls: dict[int, list[str]] = {}
        text = self._post(self._body(messages, fields | extra))
        for line in text.splitlines():
            if not line.startswith("data: {"):
                continue
            chunk = json.loads(line.removeprefix("data: "))
            if "error" in chunk:
                raise WrongAnswerError(chunk["error"]["message"])
            answer.usage = chunk.get("usage") or answer.usage
            for choice in chunk.get("choices") or ():
                delta = choice["delta"]
                answer.content += delta.get("content") or ""
                answer.reasoning += delta.get("reasoning_content") or ""
                answer.reason = choice.get("finish_reason") or answer.reason
                for call in delta.get("tool_calls") or ():
                    function = call["function"]
                    parts = calls.setdefault(call["index"], ["", ""])
                    parts[0] += function.get("name") or ""
                    parts[1] += function.get("arguments") or ""
        answer.calls = [(name, arguments) for name, arguments in calls.values()]
        if "data: [DONE]" not in text:
            raise WrongAnswerError("no [DONE]")
        return answer

    def _body(self, messages: list[JSON], fields: JSON) -> JSON:
        common = {"model": self._model, "temperature": 0, "max_tokens": 96, "seed": 1}
        return common | {"messages": messages} | fields

    def _post(self, body: JSON) -> str:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=120)
        try:
            headers = {"content-type": "application/json"}
            connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
            response = connection.getresponse()
            text = response.read().decode()
        finally:
            connection.close()
        if response.status != 200:
            error = json.loads(text)["error"]
            if response.status == 400 and error.get("param"):
                raise RefusedError(f"{error['param']}: {error['message']}")
            raise WrongAnswerError(f"{response.status} {error['message']}")
        return text


def _demand(holds: object, words: str) -> None:
    if not holds:
        raise WrongAnswerError(words)


def _keeps_schema(answer: Answer) -> None:
    has_begun = not answer.content or answer.content.startswith("{")
    if answer.reason == "length" and answer.reasoning and has_begun:
        raise CutThoughtError
    try:
        value = json.loads(answer.content)
    except ValueError:
        raise WrongAnswerError(f"no JSON: {answer.content[:60]!r} {answer.reason}") from None
    _demand(list(value) == ["why", "answer"], f"keys {list(value)}")
    _demand(value["answer"] in (1, 2, 3, 4), f"value {value}")
    _demand(answer.reason == "stop", f"finish_reason {answer.reason}")


def _schema(effort: str | None) -> Callable[[Probing], None]:
    fields: JSON = {"response_format": FORMAT}
    if effort is not None:
        fields["reasoning_effort"] = effort
    if effort != "none":
        fields["max_tokens"] = 160

    def probe(model: Probing) -> None:
        for seed in range(1, _TRIES + 1):
            answer = model.whole(SUM, **fields, temperature=1, seed=seed)
            is_none = effort == "none"
            _demand(not (is_none and answer.reasoning), f"reasoning {answer.reasoning[:40]!r}")
            try:
                _keeps_schema(answer)
            except CutThoughtError:
                continue
            return
        raise CutThoughtError

    return probe


def _json_mode(model: Probing) -> None:
    answer = model.whole(SUM, response_format={"type": "json_object"}, reasoning_effort="none")
    if answer.reason == "length":
        _demand(answer.content.lstrip().startswith("{"), f"no JSON: {answer.content[:60]!r}")
        return
    try:
        _demand(isinstance(json.loads(answer.content), dict), f"no object: {answer.content[:60]!r}")
    except ValueError:
        raise WrongAnswerError(f"no JSON: {answer.content[:60]!r}") from None


def _is_call(answer: Answer, names: tuple[str, ...]) -> None:
    _demand(len(answer.calls) == 1, f"{len(answer.calls)} calls, {answer.content[:60]!r}")
    name, arguments = answer.calls[0]
    _demand(name in names, f"call of {name}")
    value = json.loads(arguments)
    allowed = {"get_weather": ("city", _CITIES), "get_time": ("zone", ["UTC", "CET"])}[name]
    _demand(list(value) == [allowed[0]] and value[allowed[0]] in allowed[1], f"{name}({arguments})")
    _demand(answer.reason == "tool_calls", f"finish_reason {answer.reason}")
    _demand(not answer.content.strip(), f"content {answer.content[:60]!r}")


_FORCED: JSON = {"tools": [WEATHER], "tool_choice": "required", "reasoning_effort": "none"}
_BOTH: JSON = _FORCED | {"tools": [WEATHER, CLOCK]}


def _forced(model: Probing) -> None:
    _is_call(model.whole(ASK, **_FORCED), ("get_weather",))


def _forced_streamed(model: Probing) -> None:
    _is_call(model.streamed(ASK, **_FORCED), ("get_weather",))


def _two_tools(model: Probing) -> None:
    _is_call(model.whole(ASK, **_BOTH), ("get_weather", "get_time"))
    named = {"type": "function", "function": {"name": "get_time"}}
    _is_call(model.whole(ASK, **_BOTH | {"tool_choice": named}), ("get_time",))
    free = model.whole(ASK, **_BOTH | {"tool_choice": "auto"})
    _demand(free.reason in ("stop", "length", "tool_calls"), f"finish_reason {free.reason}")


def _history(result: str) -> list[JSON]:
    function = {"name": "get_weather", "arguments": '{"city": "Paris"}'}
    call = {"id": "call_0123456789abcdef", "type": "function", "function": function}
    return [
        {"role": "system", "content": "You are short."},
        *ASK,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": call["id"], "content": result},
        {"role": "user", "content": "So is it warm?"},
    ]


def _with_late_system(text: str) -> list[JSON]:
    return [*HELLO, {"role": "assistant", "content": "Hello."}, *_with_system_last(text)]


def _with_two_system(text: str) -> list[JSON]:
    return [{"role": "system", "content": "You are short."}, *reversed(_with_system_last(text))]


def _with_system_last(text: str) -> list[JSON]:
    return [*ASK, {"role": "system", "content": text}]


def _results(model: Probing) -> None:
    """Demand that no part of a conversation is left out of the prompt: it grows with each."""
    short, long = "21 degrees", "21 degrees" + " and some more words" * 20
    parts: dict[str, Callable[[str], tuple[list[JSON], JSON]]] = {
        "result": lambda text: (_history(text), {"tools": [WEATHER]}),
        "second system message": lambda text: (_with_two_system(text), {}),
        "late system message": lambda text: (_with_late_system(text), {}),
        "last system message": lambda text: (_with_system_last(text), {}),
        "tool": lambda text: (ASK, {"tools": [_described(text)]}),
    }
    for part, written in parts.items():
        counts: list[int] = []
        for text in (short, long):
            messages, fields = written(text)
            counts.append(model.whole(messages, **fields, max_tokens=8).usage["prompt_tokens"])
        more = counts[1] - counts[0]
        _demand(more >= 60, f"a {part} that is longer by 80 words has {more} more tokens")


def _described(text: str) -> JSON:
    return WEATHER | {"function": WEATHER["function"] | {"description": text}}


def _stream_equals_whole(model: Probing) -> None:
    for fields in ({}, {"response_format": FORMAT, "reasoning_effort": "none"}):
        model.whole(HELLO, **fields)  # A prompt that Ollama has cached may tip a near tie.
        one, two = model.whole(HELLO, **fields), model.streamed(HELLO, **fields)
        _demand(one.content == two.content, f"{one.content[:40]!r} != {two.content[:40]!r}")
        _demand(one.reasoning == two.reasoning, "the reasoning differs")
        _demand(one.reason == two.reason, f"{one.reason} != {two.reason}")
        _demand(one.usage == two.usage, f"{one.usage} != {two.usage}")


def _usage(model: Probing) -> None:
    plain = model.whole(SUM, max_tokens=4, reasoning_effort="none")
    answer = model.whole(SUM, response_format=FORMAT, reasoning_effort="none")
    _keeps_schema(answer)
    prompt, tokens = answer.usage["prompt_tokens"], answer.usage["completion_tokens"]
    _demand(abs(prompt - plain.usage["prompt_tokens"]) <= 12, f"{prompt} tokens of the prompt")
    _demand(8 <= tokens <= 40, f"{tokens} tokens of the answer")


def _stop(model: Probing) -> None:
    fields: JSON = {"response_format": FORMAT, "reasoning_effort": "none", "stop": ['"answer"']}
    answer = model.whole(SUM, **fields)
    _demand(answer.content.startswith("{"), f"{answer.content[:60]!r}")
    _demand('"answer"' not in answer.content, f"{answer.content[:60]!r}")
    _demand(answer.reason == "stop", f"finish_reason {answer.reason}")


def _logprobs(model: Probing) -> None:
    fields: JSON = {"response_format": FORMAT, "reasoning_effort": "none"}
    answer = model.whole(SUM, logprobs=True, top_logprobs=2, **fields)
    _keeps_schema(answer)
    text = "".join(entry["token"] for entry in answer.logprobs or ())
    _demand(answer.content in text, f"logprobs of {text[:60]!r}")


def _continued(model: Probing) -> None:
    messages = [
        {"role": "user", "content": "What is the capital of France?"},
        {"role": "assistant", "content": "The capital of France is"},
    ]
    fields: JSON = {"continue_final_message": True, "add_generation_prompt": False}
    answer = model.whole(messages, **fields, max_tokens=8, reasoning_effort="none")
    _demand("Paris" in answer.content, f"{answer.content[:60]!r}")
    _demand(not answer.content.startswith("The capital"), f"{answer.content[:60]!r}")


PROBES: dict[str, Callable[[Probing], None]] = {
    "schema": _schema(None),
    "effort none": _schema("none"),
    "low": _schema("low"),
    "high": _schema("high"),
    "JSON mode": _json_mode,
    "forced call": _forced,
    "streamed": _forced_streamed,
    "two tools": _two_tools,
    "results": _results,
    "stream = whole": _stream_equals_whole,
    "usage": _usage,
    "stop": _stop,
    "logprobs": _logprobs,
    "continued": _continued,
}


def wait_for(port: int, model: str, seconds: float = 60) -> None:
    """Wait until Tandem lists `model`.

    Raises:
        AssertionError: it does not within `seconds`.
    """

    def is_listed() -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        connection.request("GET", "/v1/models")
        listed = json.loads(connection.getresponse().read())["data"]
        connection.close()
        return any(model in card["id"] for card in listed)

    until_now(is_listed, seconds, every=0.2)


def cells(port: int, model: str, only: tuple[str, ...] = ()) -> Iterator[tuple[str, str]]:
    """Yield each probe's name and its outcome."""
    probing = Probing(port, model)
    for name, probe in PROBES.items():
        if only and name not in only:
            continue
        try:
            probe(probing)
        except RefusedError as refused:
            yield name, f"refused {refused}"
        except CutThoughtError:
            yield name, "cut"
        except (WrongAnswerError, KeyError, ValueError, OSError) as error:
            yield name, f"wrong: {error}"
        else:
            yield name, "ok"

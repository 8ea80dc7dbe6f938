"""Every parameter of OpenAI's, and a way to see whether a server heeds it.

A probe looks at what the server does, never at what it says of itself: the same probe is put to
Ollama's own /v1 and to Tandem before the same Ollama.
"""

import base64
import json
import struct
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import islice
from typing import Any, NamedTuple

from fakes.pictures import data_url, photo
from probes.ollama_side import JSON, RefusedError, Side
from servers.ollama_server import EMBED, FILL, PLAIN, SEES, THINK, TOOLS

GREEDY = "smollm2-greedy:135m"
"""`PLAIN` with `PARAMETER temperature 0` in its Modelfile."""

Test = Callable[[Side], bool]


class Probe(NamedTuple):
    parameter: str
    judged: str
    """The property that was checked, in words for the table."""
    heeds: Test


def verdict(probe: Probe, side: Side) -> str:
    """`yes`, `ignored`, or the status of the refusal."""
    try:
        return "yes" if probe.heeds(side) else "ignored"
    except RefusedError as refusal:
        return str(refusal.status)


CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER: JSON = {"name": "get_weather", "description": "Weather of a city", "parameters": CITY}
TOOLSET = [
    {"type": "function", "function": WEATHER},
    {"type": "function", "function": {"name": "clock", "parameters": {"type": "object"}}},
]
CLOCK = {"type": "function", "function": {"name": "clock"}}
SHAPE = {
    "type": "object",
    "properties": {"colour": {"enum": ["teal", "plum"]}},
    "required": ["colour"],
    "additionalProperties": False,
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "a", "strict": True, "schema": SHAPE}}
PROMPT = "The capital of France is"
STORY = "Tell me a very long story."
FACT = "The word of the day is zebra. "
FILLER = "The river ran past the old mill and the road went on over the hills. "


def _calls(message: JSON) -> list[str]:
    return [call["function"]["name"] for call in message.get("tool_calls") or ()]


def _shown(cities: int) -> list[JSON]:
    """Questions with the calls that answer them, and one without: a small model must be shown."""
    names = ["London", "Rome", "Oslo", "Cairo", "Lima", "Bern", "Kyiv", "Riga", "Paris", "Bonn"]
    messages: list[JSON] = []
    for at in range(0, len(names), cities):
        group = names[at : at + cities]
        messages.append({"role": "user", "content": f"Weather in {' and '.join(group)}?"})
        messages.append({"role": "assistant", "content": "", "tool_calls": _asked(group)})
    return messages[:-1]


def _asked(cities: list[str]) -> list[JSON]:
    calls = [{"name": "get_weather", "arguments": json.dumps({"city": city})} for city in cities]
    return [
        {"id": f"call_{at}", "type": "function", "function": each} for at, each in enumerate(calls)
    ]


def _steady(side: Side, **fields: Any) -> bool:
    """Two seeds say the same."""
    texts = [side.says(STORY, seed=seed, **({"temperature": 2} | fields)) for seed in (1, 2)]
    return texts[0] == texts[1]


def _changes(side: Side, **fields: Any) -> bool:
    """The likeliest text is another one with `fields`."""
    asked: JSON = {"temperature": 0, "max_tokens": 40}
    return side.says(STORY, **asked) != side.says(STORY, **asked, **fields)


_LOOK: JSON = {"type": "text", "text": "And this?"}
_PHOTO: JSON = {"type": "image_url", "image_url": {"url": data_url(photo("png"))}}


def _tokens_seen(side: Side, content: list[JSON], turns: int) -> int:
    """Return the tokens of a prompt with that many turns, each with that content."""
    turn = [{"role": "user", "content": content}, {"role": "assistant", "content": "A house."}]
    messages = (turn * turns)[:-1]
    return side.chat(model=SEES, messages=messages, max_tokens=1)["usage"]["prompt_tokens"]


def _sees(side: Side, images: int, turns: int) -> bool:
    """Each of the images is there, with its sixteen tokens and some."""
    with_images = _tokens_seen(side, [_LOOK, *[_PHOTO] * images], turns)
    return with_images >= _tokens_seen(side, [_LOOK], turns) + 16 * images * turns


def _limit_is_kept(side: Side) -> bool:
    frames = side.stream(
        {"messages": [{"role": "user", "content": STORY}]} | {"max_completion_tokens": 5}
    )
    words = [frame for frame in islice(frames, 30) if frame["choices"]]
    return len(words) < 10


def _same_seed(side: Side) -> bool:
    said = [side.says(STORY, temperature=1.5, seed=seed) for seed in (1, 1, 2)]
    return said[0] == said[1] != said[2]


def _stops(side: Side, stop: str | list[str]) -> bool:
    return side.says(temperature=0, stop=stop) == "The capital of France is "


def _withheld(side: Side) -> bool:
    asked = [
        side.chat(model=TOOLS, max_tokens=1, **fields)["usage"]["prompt_tokens"]
        for fields in ({}, {"tools": TOOLSET, "tool_choice": "none"})
    ]
    return asked[0] == asked[1]


def _forced(side: Side, choice: Any, names: set[str]) -> bool:
    fields: JSON = {"model": TOOLS, "temperature": 0, "max_tokens": 80}
    message = side.message("What is your name?", tools=TOOLSET, tool_choice=choice, **fields)
    return bool(_calls(message)) and set(_calls(message)) <= names


def _free_call(side: Side) -> bool:
    fields: JSON = {"model": TOOLS, "messages": _shown(1), "tools": TOOLSET[:1]}
    return _calls(side.message(temperature=0, max_tokens=60, **fields)) == ["get_weather"]


def _one_call(side: Side) -> bool:
    fields: JSON = {"model": TOOLS, "messages": _shown(2), "tools": TOOLSET[:1]}
    asked: JSON = {"temperature": 0, "max_tokens": 90, "parallel_tool_calls": False}
    return len(_calls(side.message(**fields, **asked))) == 1


def _old_call(side: Side) -> bool:
    asked: JSON = {"functions": [WEATHER], "function_call": {"name": "get_weather"}}
    message = side.message("Weather in Paris?", temperature=0, max_tokens=60, **asked)
    return (message.get("function_call") or {}).get("name") == "get_weather"


def _thinks_when_asked(side: Side) -> bool:
    def thoughts(effort: str) -> bool:
        message = side.message(model=THINK, reasoning_effort=effort, temperature=0)
        return bool(message.get("reasoning_content") or message.get("reasoning"))

    return thoughts("low") and not thoughts("none")


def _tells_usage(side: Side) -> bool:
    messages = [{"role": "user", "content": "Hi"}]
    options = {"include_usage": True}
    body: JSON = {"messages": messages, "max_tokens": 3, "stream_options": options}
    return list(side.stream(body))[-1]["usage"]["completion_tokens"] == 3


def _reports(side: Side, **fields: Any) -> bool:
    told = side.chat(logprobs=True, **fields)["choices"][0].get("logprobs")
    tokens = (told or {}).get("content") or [{}]
    return len(tokens[0].get("top_logprobs") or ()) == fields.get("top_logprobs", 0)


def _stays(side: Side) -> bool:
    side.chat(keep_alive="2h", max_tokens=1)
    (model,) = (each for each in side.loaded() if each["name"] == PLAIN)
    left = datetime.fromisoformat(model["expires_at"]) - datetime.now(UTC)
    return left.total_seconds() > 3600


def _reads_it_all(side: Side) -> bool:
    answer = side.chat(FACT + FILLER * 375, max_tokens=1)
    return answer["usage"]["prompt_tokens"] > 6000


def _completion(side: Side, **fields: Any) -> JSON:
    body = {"model": PLAIN, "prompt": PROMPT, "max_tokens": 3, "temperature": 0}
    return side.post("/v1/completions", body | fields)


def _text(side: Side, **fields: Any) -> str:
    return _completion(side, **fields)["choices"][0]["text"]


def _scores(side: Side) -> bool:
    told = _completion(side, logprobs=2)["choices"][0].get("logprobs")
    return bool(told) and len(told["top_logprobs"][0]) == 2


def _embedding(side: Side, **fields: Any) -> Any:
    body = {"model": EMBED, "input": "a cat"} | fields
    return side.post("/v1/embeddings", body)["data"][0]["embedding"]


def _packed(side: Side) -> bool:
    packed = _embedding(side, encoding_format="base64")
    return len(struct.unpack("<384f", base64.b64decode(packed))) == 384


def _never(**fields: Any) -> Test:
    """Test a wish that no text model can grant: an answer of any kind ignores it."""

    def heeds(side: Side) -> bool:
        side.chat(**fields)
        return False

    return heeds


PROBES = (
    Probe("messages", "a prompt of 6,000 tokens is read whole", _reads_it_all),
    Probe("messages: images", "two in a message are both seen", lambda s: _sees(s, 2, 1)),
    Probe("messages: images of before", "eight turns: all are seen", lambda s: _sees(s, 1, 8)),
    Probe(
        "max_tokens",
        "5: five tokens",
        lambda s: s.chat(STORY, max_tokens=5)["usage"]["completion_tokens"] == 5,
    ),
    Probe("max_completion_tokens", "5: it stops there", _limit_is_kept),
    Probe("temperature", "0: two seeds say the same", lambda s: _steady(s, temperature=0)),
    Probe(
        "temperature, not sent",
        "the Modelfile says 0: two seeds say the same",
        lambda s: s.says(STORY, model=GREEDY, seed=1) == s.says(STORY, model=GREEDY, seed=2),
    ),
    Probe("top_p", "0.0001: two seeds say the same", lambda s: _steady(s, top_p=0.0001)),
    Probe("seed", "the same twice, another one differs", _same_seed),
    Probe("frequency_penalty", "2 changes the text", lambda s: _changes(s, frequency_penalty=2)),
    Probe("presence_penalty", "2 changes the text", lambda s: _changes(s, presence_penalty=2)),
    Probe(
        "logit_bias",
        "100 for a token changes the text",
        lambda s: _changes(s, logit_bias={"100": 100}),
    ),
    Probe("stop", "a string ends the text before it", lambda s: _stops(s, "Paris")),
    Probe(
        "stop, a list", "one of two ends the text before it", lambda s: _stops(s, ["xyz", "Paris"])
    ),
    Probe("n", "2: two answers", lambda s: len(s.chat(n=2)["choices"]) == 2),
    Probe("logprobs", "tokens are reported", lambda s: _reports(s)),
    Probe("top_logprobs", "2: two alternatives each", lambda s: _reports(s, top_logprobs=2)),
    Probe(
        "response_format: json_object",
        "the text begins as an object",
        lambda s: (
            s.says("Hi", response_format={"type": "json_object"}, temperature=0).lstrip()[:1] == "{"
        ),
    ),
    Probe(
        "response_format: json_schema",
        "the text keeps to it",
        lambda s: (
            json.loads(s.says("Hi", response_format=FORMAT, max_tokens=60, temperature=0))["colour"]
            in ("teal", "plum")
        ),
    ),
    Probe("tools", "the model calls one", _free_call),
    Probe("tool_choice: none", "the prompt is that without tools", _withheld),
    Probe(
        "tool_choice: required",
        "a call is made",
        lambda s: _forced(s, "required", {"clock", "get_weather"}),
    ),
    Probe("tool_choice: a name", "that call is made", lambda s: _forced(s, CLOCK, {"clock"})),
    Probe("parallel_tool_calls", "false: one call where two were coming", _one_call),
    Probe("functions, function_call", "the call is made, in their shape", _old_call),
    Probe("reasoning_effort", "low reasons, none does not", _thinks_when_asked),
    Probe("stream, stream_options", "usage in the last chunk", _tells_usage),
    Probe(
        "audio, modalities",
        "speech is requested",
        _never(modalities=["text", "audio"], audio={"voice": "alloy", "format": "wav"}),
    ),
    Probe("verbosity", "`low`", _never(verbosity="low")),
    Probe("web_search_options", "a search is requested", _never(web_search_options={})),
    Probe("moderation", "moderation is requested", _never(moderation={})),
    Probe("keep_alive", "2h: still loaded in an hour, by `/api/ps`", _stays),
    Probe(
        "completions: suffix",
        "the model's template fills the gap",
        lambda s: _completion(s, model=FILL, suffix="\n")["usage"]["prompt_tokens"] > 15,
    ),
    Probe(
        "completions: echo",
        "the text is the prompt and what comes without it",
        lambda s: _text(s, echo=True) == PROMPT + _text(s),
    ),
    Probe("completions: n", "2: two answers", lambda s: len(_completion(s, n=2)["choices"]) == 2),
    Probe("completions: logprobs", "2: two alternatives each", _scores),
    Probe(
        "completions: a list of prompts",
        "an answer to each",
        lambda s: len(_completion(s, prompt=["a", "b"])["choices"]) == 2,
    ),
    Probe(
        "completions: best_of", "3 of which one comes back", lambda s: not _completion(s, best_of=3)
    ),
    Probe(
        "embeddings: dimensions", "32 components", lambda s: len(_embedding(s, dimensions=32)) == 32
    ),
    Probe("embeddings: encoding_format", "base64 of float32", _packed),
    Probe(
        "embeddings: token ids", "they are embedded", lambda s: bool(_embedding(s, input=[1, 2, 3]))
    ),
)

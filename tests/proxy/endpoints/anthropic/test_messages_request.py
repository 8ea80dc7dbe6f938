"""Bodies of Anthropic's API -> requests of the contract."""

from typing import Any

import msgspec
import pytest
from fakes.anthropic_client import HEADERS, anthropic_client, message
from fakes.pictures import data_url, png
from fakes.scripted_backend import EVERYTHING, ScriptedBackend, http_client

from adapters.backend import Model, TokenCount
from adapters.errors import InvalidRequestError, UnsupportedParameterError
from adapters.request import (
    Feature,
    ImagePart,
    JSONSchema,
    Message,
    NamedTool,
    TextPart,
    ToolCall,
)
from proxy.endpoints.anthropic.messages.request import MessagesRequest
from proxy.endpoints.anthropic.messages.translate import Translated, to_param, translate
from proxy.http.body import unknown_fields

URL = "/v1/messages"
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {"name": "weather", "description": "Tells the weather.", "input_schema": SCHEMA}
SEARCH = {"type": "web_search_20250305", "name": "web_search", "max_uses": 3}


def decoded(**fields: Any) -> MessagesRequest:
    body = message(**fields)
    decoded = msgspec.convert(body, MessagesRequest)
    assert unknown_fields(body, decoded) == ()
    return decoded


def translated(**fields: Any) -> Translated:
    return translate(decoded(**fields))


def prompt_of(*turns: dict[str, Any], **fields: Any) -> list[tuple[str, Any]]:
    """Role and text of each message; content that is not only text as parts."""
    prompt = translated(messages=list(turns), **fields).request.prompt
    assert isinstance(prompt, tuple)
    return [(m.role, m.text if not m.has_images else m.content) for m in prompt]


def user(*blocks: dict[str, Any]) -> dict[str, Any]:
    return {"role": "user", "content": list(blocks)}


def text(words: str, **fields: Any) -> dict[str, Any]:
    return {"type": "text", "text": words, **fields}


# --- the prompt ---


@pytest.mark.parametrize("system", ["Be terse.", [text("Be terse.", cache_control={"type": "e"})]])
def test_system_is_the_first_message(system: Any):
    assert prompt_of(user(text("Hi")), system=system) == [("system", "Be terse."), ("user", "Hi")]


def test_system_message_within_the_turns_keeps_its_place():
    turns = [
        {"role": "user", "content": "One"},
        {"role": "assistant", "content": "Two"},
        {"role": "user", "content": "Three"},
        {"role": "system", "content": "Be terse."},
    ]
    assert prompt_of(*turns) == [
        ("user", "One"),
        ("assistant", "Two"),
        ("user", "Three"),
        ("system", "Be terse."),
    ]


def test_billing_header_is_left_out_and_named():
    billing = text("x-anthropic-billing-header: cc_version=2.1; cch=1f2e;")
    result = translated(system=[billing, text("You help.")])
    assert isinstance(result.request.prompt, tuple)
    assert [m.text for m in result.request.prompt] == ["You help.", "Hi"]
    assert result.ignored == ("system[0]",)
    alone = translated(system="x-anthropic-billing-header: cc_version=2.1;\nYou help.")
    assert alone.request.prompt == result.request.prompt
    assert alone.ignored == ("system",)


def test_successive_turns_of_one_role_are_one():
    turns = [user(text("One")), user(text("Two"), text("Three"))]
    assert prompt_of(*turns) == [("user", "One\nTwo\nThree")]


def test_calls_and_results_follow_each_other():
    turns: list[dict[str, Any]] = [
        {"role": "user", "content": "Weather?"},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "Hm.", "signature": "a foreign one"},
                {"type": "redacted_thinking", "data": "xyz"},
                text("I look."),
                {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "Oslo"}},
            ],
        },
        user(
            {"type": "tool_result", "tool_use_id": "t1", "content": [text("Rain"), text("5 C")]},
            {"type": "tool_result", "tool_use_id": "t2", "content": "No net.", "is_error": True},
            {"type": "tool_result", "tool_use_id": "t3"},
            text("And?"),
        ),
    ]
    result = translated(messages=turns)
    assert isinstance(result.request.prompt, tuple)
    _, said, *rest = result.request.prompt
    assert (said.text, said.reasoning) == ("I look.", "Hm.")
    assert said.tool_calls == (ToolCall("t1", "weather", '{"city":"Oslo"}'),)
    assert [(m.role, m.tool_call_id, m.text) for m in rest] == [
        ("tool", "t1", "Rain\n5 C"),
        ("tool", "t2", "Error:\nNo net."),
        ("tool", "t3", ""),
        ("user", None, "And?"),
    ]
    assert result.ignored == ("messages[1].content[1]",)


def test_documents_and_search_results_are_text():
    document = {
        "type": "document",
        "title": "Notes",
        "context": "Of Monday",
        "source": {"type": "text", "media_type": "text/plain", "data": "Buy milk."},
        "citations": {"enabled": True},
    }
    found = {
        "type": "search_result",
        "title": "Milk",
        "source": "https://milk.example",
        "content": [text("It is white.")],
        "citations": {"enabled": False},
    }
    parts = {"type": "document", "source": {"type": "content", "content": [text("A"), text("B")]}}
    result = translated(messages=[user(document, found, parts, text("So?"))])
    assert isinstance(result.request.prompt, tuple)
    assert result.request.prompt[0].text.split("\n") == [
        *("Notes", "Of Monday", "Buy milk."),
        *("Milk", "https://milk.example", "It is white."),
        *("A", "B", "So?"),
    ]
    assert result.ignored == ("messages[0].content[0].citations",)


PICTURE = data_url(png(2, 2))
BASE64 = {"type": "base64", "media_type": "image/png", "data": PICTURE.partition(",")[2]}


def test_images_are_parts_also_in_results():
    image = {"type": "image", "source": BASE64}
    web = {"type": "image", "source": {"type": "url", "url": "https://a.example/b.png"}}
    result = {"type": "tool_result", "tool_use_id": "t", "content": [text("Shot:"), image]}
    request = translated(messages=[user(text("See"), web), user(result)]).request
    assert isinstance(request.prompt, tuple)
    first, second = request.prompt
    assert first.content == (TextPart("See"), ImagePart("https://a.example/b.png"))
    assert second.content == (TextPart("Shot:"), ImagePart(PICTURE))


async def test_image_that_is_refused_is_named_by_its_path():
    broken = {"type": "image", "source": {**BASE64, "data": "AAAA"}}
    fine = {"type": "image", "source": BASE64}
    result = {"type": "tool_result", "tool_use_id": "t", "content": [fine, text("x"), broken]}
    turns = [user(text("a")), user(text("b")), user(result, text("c"))]
    async with http_client(ScriptedBackend()) as client:
        answer = await client.post(URL, json=message(messages=turns), headers=HEADERS)
    assert answer.status_code == 400
    assert "messages[2].content[0].content[2]" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("block", "path"),
    [
        ({"type": "document", "source": {"type": "url", "url": "https://a/b.pdf"}}, ".source"),
        ({"type": "document", "source": {**BASE64, "media_type": "application/pdf"}}, ".source"),
        ({"type": "document", "source": {"type": "file", "file_id": "f"}}, ".source"),
        ({"type": "image", "source": {"type": "file", "file_id": "f"}}, ".source"),
    ],
)
def test_block_that_no_model_can_see_is_refused_by_name(block: dict[str, Any], path: str):
    with pytest.raises(UnsupportedParameterError) as caught:
        translated(messages=[user(text("See"), block)])
    assert caught.value.param == f"messages[0].content[1]{path}"


def test_blocks_of_servers_are_left_out_and_named():
    blocks = [
        {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {"query": "x"}},
        {"type": "web_search_tool_result", "tool_use_id": "s", "content": []},
        {"type": "mcp_tool_use", "id": "m", "name": "a", "server_name": "b", "input": {}},
        text("Found."),
    ]
    turns = [*message()["messages"], {"role": "assistant", "content": blocks}, user(text("Go on"))]
    result = translated(messages=turns)
    assert isinstance(result.request.prompt, tuple)
    assert [m.text for m in result.request.prompt] == ["Hi", "Found.", "Go on"]
    assert result.ignored == tuple(f"messages[1].content[{at}]" for at in range(3))


def test_marks_of_earlier_answers_are_left_out_and_named():
    blocks = [
        {"type": "fallback", "from": {"model": "a"}, "to": {"model": "b"}, "trigger": {}},
        {"type": "mcp_tool_listing", "mcp_server_name": "s", "tools": [WEATHER]},
        text("Well."),
    ]
    turns = [*message()["messages"], {"role": "assistant", "content": blocks}, user(text("Go on"))]
    result = translated(messages=turns)
    assert isinstance(result.request.prompt, tuple)
    assert [m.text for m in result.request.prompt] == ["Hi", "Well.", "Go on"]
    assert result.ignored == ("messages[1].content[0]", "messages[1].content[1]")


@pytest.mark.parametrize(
    ("role", "block"),
    [
        ("user", {"type": "tool_use", "id": "t", "name": "f", "input": {}}),
        ("user", {"type": "thinking", "thinking": "Hm.", "signature": "x"}),
        ("user", {"type": "redacted_thinking", "data": "x"}),
        ("assistant", {"type": "tool_result", "tool_use_id": "t", "content": "17"}),
    ],
)
def test_block_of_the_other_role_is_refused_by_name(role: str, block: dict[str, Any]):
    """A chat template drops it, and so the model would not see it."""
    turns = [user(text("Hi")), {"role": role, "content": [text("Well."), block]}, user(text("So?"))]
    with pytest.raises(InvalidRequestError, match=block["type"]) as caught:
        translated(messages=turns)
    assert caught.value.param == "messages[1].content[1]"


def system(*blocks: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"role": "system", "content": list(blocks), **fields}


def test_system_message_is_shown_until_the_next_turn_where_it_says_so():
    note = system(text("Be terse."), clear_at="next_user_message")
    turns = [user(text("Hi")), note]
    answered = [*turns, {"role": "assistant", "content": "Yes."}]
    assert prompt_of(*turns) == [("user", "Hi"), ("system", "Be terse.")]
    assert ("system", "Be terse.") in prompt_of(*answered)
    assert prompt_of(*answered, user(text("And?"))) == [
        ("user", "Hi"),
        ("assistant", "Yes."),
        ("user", "And?"),
    ]


def test_effort_of_the_last_system_message_is_that_of_the_answer():
    low = {"role": "system", "output_config": {"effort": "low"}}
    turns = [user(text("Hi")), low, {"role": "assistant", "content": "Yes."}, user(text("And?"))]
    fields: dict[str, Any] = {"messages": turns, "output_config": {"effort": "max"}}
    assert translated(thinking={"type": "adaptive"}, **fields).request.reasoning_effort == "low"
    assert translated(**fields).ignored == ("messages[1].output_config.effort",)


def test_system_message_has_content_or_settings():
    with pytest.raises(InvalidRequestError) as caught:
        translated(messages=[user(text("Hi")), {"role": "system"}])
    assert caught.value.param == "messages[1].content"


def test_last_turn_of_the_model_is_continued():
    turns = [*message()["messages"], {"role": "assistant", "content": "The answer is ("}]
    assert translated(messages=turns).request.continue_final_message
    assert not translated().request.continue_final_message


@pytest.mark.parametrize("content", ["", [], [text("")]])
def test_last_turn_of_the_model_is_not_continued_when_it_is_empty(content: Any):
    """Anthropic allows a last turn without content."""
    turns = [user(text("Hi")), {"role": "assistant", "content": content}]
    request = translated(messages=turns).request
    assert not request.continue_final_message
    assert request.prompt == (Message(role="user", content=(TextPart("Hi"),)),)


@pytest.mark.parametrize("content", ["", [], [text("")]])
def test_messages_without_any_content_are_refused(content: Any):
    with pytest.raises(InvalidRequestError) as caught:
        translated(system="Be terse.", messages=[{"role": "user", "content": content}])
    assert caught.value.param == "messages"
    call = {"type": "tool_use", "id": "t", "name": "f", "input": {}}
    with pytest.raises(InvalidRequestError) as caught:
        translated(messages=[{"role": "assistant", "content": [call]}])
    assert caught.value.param == "messages[0].content"


# --- tools ---


def test_tools_of_the_client_have_their_schema():
    strict = {
        **WEATHER,
        "name": "forecast",
        "type": "custom",
        "strict": True,
        "input_examples": [{"city": "Oslo"}],
    }
    loose, other = translated(tools=[WEATHER, strict]).request.tools
    assert (loose.name, loose.description, loose.parameters) == (*WEATHER.values(),)
    assert not loose.strict
    assert other.strict
    assert other.description is not None
    assert other.description.endswith('{"city":"Oslo"}')


@pytest.mark.parametrize(
    ("tool", "name", "fields"),
    [
        ({"type": "bash_20250124", "name": "bash"}, "bash", {"command", "restart"}),
        (
            {"type": "text_editor_20250728", "name": "str_replace_based_edit_tool"},
            "str_replace_based_edit_tool",
            {
                *("command", "path", "view_range", "file_text"),
                *("old_str", "new_str", "insert_line", "insert_text"),
            },
        ),
        (
            {"type": "text_editor_20250124", "name": "str_replace_editor"},
            "str_replace_editor",
            {"command", "path", "view_range", "file_text", "old_str", "new_str", "insert_line"},
        ),
        (
            {"type": "computer_20241022", "name": "computer", "display_number": 1},
            "computer",
            {"action", "coordinate", "text"},
        ),
        (
            {"type": "computer_20251124", "name": "computer", "enable_zoom": True},
            "computer",
            {
                *("action", "coordinate", "text", "start_coordinate", "region"),
                *("scroll_direction", "scroll_amount", "duration"),
            },
        ),
        (
            {"type": "memory_20250818", "name": "memory"},
            "memory",
            {
                *("command", "path", "view_range", "file_text", "old_str", "new_str"),
                *("insert_line", "insert_text", "old_path", "new_path"),
            },
        ),
    ],
)
def test_tool_that_anthropic_defines_has_the_documented_schema(
    tool: dict[str, Any], name: str, fields: set[str]
):
    [offered] = translated(tools=[tool]).request.tools
    assert offered.name == name
    assert offered.description
    assert offered.parameters is not None
    assert set(offered.parameters["properties"]) == fields
    assert set(offered.parameters["required"]) <= fields


def test_tools_of_servers_are_named_and_not_offered():
    toolset = {"type": "computer_toolset_20260801", "configs": {"zoom": {"enabled": False}}}
    result = translated(tools=[SEARCH, WEATHER, toolset])
    assert [tool.name for tool in result.request.tools] == ["weather"]
    assert result.ignored == ("tools[0]", "tools[2]")


def test_deferred_tool_is_offered_once_it_is_referenced():
    deferred = {**WEATHER, "name": "later", "defer_loading": True}
    found = {"type": "tool_reference", "tool_name": "later"}
    result = user({"type": "tool_result", "tool_use_id": "t", "content": [found]})

    def names(**fields: Any) -> list[str]:
        return [tool.name for tool in translated(**fields).request.tools]

    search = {"type": "tool_search_tool_regex_20251119", "name": "tool_search_tool_regex"}
    assert names(tools=[WEATHER, deferred]) == ["weather"]
    assert names(tools=[WEATHER, deferred], messages=[result]) == ["weather", "later"]
    assert names(tools=[search, deferred]) == ["later"]


def change(kind: str, **tool: Any) -> dict[str, Any]:
    return {"type": f"tool_{kind}", "tool": tool}


def test_tools_are_added_and_removed_within_the_conversation():
    deferred = {**WEATHER, "name": "later", "defer_loading": True}
    defined = {**WEATHER, "name": "inline"}

    def names(*changes: dict[str, Any]) -> list[str]:
        turns = [user(text("Hi")), system(*changes)]
        return [t.name for t in translated(tools=[WEATHER, deferred], messages=turns).request.tools]

    removal = change("removal", type="tool_reference", name="weather")
    addition = change("addition", type="tool_reference", name="weather")
    assert names(removal) == []
    assert names(removal, addition) == ["weather"]
    assert names(change("addition", type="tool_reference", name="later")) == ["weather", "later"]
    inline = change("addition", type="tool_definition", definition=defined)
    assert names(removal, inline) == ["inline"]
    assert names(inline, change("removal", type="tool_reference", name="inline")) == ["weather"]


def test_changes_of_mcp_tools_are_named():
    one = change("removal", type="mcp_tool_reference", name="a", server_name="b")
    all_of_it = change("addition", type="mcp_toolset_reference", server_name="b")
    result = translated(messages=[user(text("Hi")), system(one, all_of_it)])
    assert result.ignored == ("messages[1].content[0]", "messages[1].content[1]")


def test_added_tool_has_to_be_defined():
    unknown = change("addition", type="tool_reference", name="nope")
    with pytest.raises(InvalidRequestError, match="nope") as caught:
        translated(tools=[WEATHER], messages=[user(text("Hi")), system(unknown)])
    assert caught.value.param == "messages[1].content[0].tool.name"


def test_tool_of_the_conversation_is_named_by_its_path():
    defined = change("addition", type="tool_definition", definition=WEATHER)
    body = decoded(messages=[user(text("Hi")), system(defined)])
    path = "messages[1].content[0].tool.definition"
    assert to_param("tools[0].function.parameters.x", body) == f"{path}.input_schema.x"


@pytest.mark.parametrize(
    ("choice", "expected", "parallel"),
    [
        (None, "auto", True),
        ({"type": "auto"}, "auto", True),
        ({"type": "auto", "disable_parallel_tool_use": True}, "auto", False),
        ({"type": "any", "disable_parallel_tool_use": False}, "required", True),
        ({"type": "none"}, "none", True),
        (
            {"type": "tool", "name": "weather", "disable_parallel_tool_use": True},
            NamedTool("weather"),
            False,
        ),
    ],
)
def test_tool_choice(choice: Any, expected: Any, parallel: bool):
    request = translated(tools=[WEATHER, SEARCH], tool_choice=choice).request
    assert (request.tool_choice, request.parallel_tool_calls) == (expected, parallel)


def test_tools_of_one_name_are_refused():
    with pytest.raises(InvalidRequestError, match=r"^Tool names must be unique") as caught:
        translated(tools=[WEATHER, SEARCH, {**WEATHER, "description": "Another."}])
    assert caught.value.param == "tools"


@pytest.mark.parametrize(
    ("tools", "choice"),
    [
        ([SEARCH], {"type": "any"}),
        ([SEARCH, WEATHER], {"type": "tool", "name": "web_search"}),
        ([WEATHER], {"type": "tool", "name": "nope"}),
    ],
)
def test_call_that_cannot_be_made_is_not_forced(tools: Any, choice: dict[str, Any]):
    with pytest.raises(InvalidRequestError) as caught:
        translated(tools=tools, tool_choice=choice)
    assert caught.value.param == "tool_choice"


def test_forced_tool_with_an_impossible_schema_is_named():
    impossible = {"name": "f", "input_schema": {"type": "string"}}
    with pytest.raises(InvalidRequestError) as caught:
        translated(tools=[SEARCH, WEATHER, impossible], tool_choice={"type": "any"})
    assert caught.value.param == "tools[2].input_schema"


@pytest.mark.parametrize("field", ["name", "input_schema"])
def test_tool_of_the_client_needs_a_name_and_a_schema(field: str):
    tool = {key: value for key, value in WEATHER.items() if key != field}
    with pytest.raises(InvalidRequestError) as caught:
        translated(tools=[WEATHER, tool])
    assert caught.value.param == f"tools[1].{field}"


# --- thinking, format, sampling ---


def reasoning(**fields: Any) -> tuple[Any, Any, frozenset[str]]:
    request = translated(**fields).request
    return request.reasoning_effort, request.reasoning_budget, request.wishes


@pytest.mark.parametrize(
    ("fields", "effort", "budget", "wishes"),
    [
        ({}, "none", None, {"reasoning_effort"}),
        ({"thinking": {"type": "disabled"}}, "none", None, set[str]()),
        ({"thinking": {"type": "adaptive"}}, None, None, {"reasoning_effort"}),
        (
            {"thinking": {"type": "adaptive"}, "output_config": {"effort": "max"}},
            "xhigh",
            None,
            {"reasoning_effort"},
        ),
        (
            {"thinking": {"type": "enabled", "budget_tokens": 2048}},
            "medium",
            2048,
            {"reasoning_budget"},
        ),
        (
            {
                "thinking": {"type": "enabled", "budget_tokens": 2048},
                "output_config": {"effort": "low"},
            },
            "low",
            2048,
            {"reasoning_budget"},
        ),
    ],
)
def test_thinking(fields: dict[str, Any], effort: str, budget: int, wishes: set[str]):
    assert reasoning(**fields) == (effort, budget, wishes)


def test_effort_of_an_answer_without_thinking_is_named():
    assert translated(output_config={"effort": "high"}).ignored == ("output_config.effort",)
    thinking = {"type": "between_tools"}
    assert translated(thinking=thinking).ignored == ("thinking.type",)


def test_budget_has_to_leave_room_for_the_answer():
    with pytest.raises(InvalidRequestError) as caught:
        translated(max_tokens=2000, thinking={"type": "enabled", "budget_tokens": 2000})
    assert caught.value.param == "thinking.budget_tokens"


@pytest.mark.parametrize(
    "fields",
    [
        {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}},
        {"output_format": {"type": "json_schema", "schema": SCHEMA}},
    ],
)
def test_format_is_a_strict_schema(fields: dict[str, Any]):
    assert translated(**fields).request.response_format == JSONSchema(SCHEMA, strict=True)


def test_nothing_is_streamed_where_there_is_no_answer():
    with pytest.raises(InvalidRequestError) as caught:
        translated(max_tokens=0, stream=True)
    assert caught.value.param == "stream"


def test_limits_and_sampling():
    request = translated(
        max_tokens=7,
        temperature=0.5,
        top_p=0.9,
        top_k=40,
        stop_sequences=["END", "\n\n"],
        metadata={"user_id": "u"},
        service_tier="standard_only",
    ).request
    assert (request.max_tokens, request.stop) == (7, ("END", "\n\n"))
    sampling = request.sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.5, 0.9, 40)


@pytest.mark.parametrize(
    "field",
    [
        {"mcp_servers": [{"type": "url", "name": "a", "url": "https://a"}]},
        {"thread": {"type": "create"}},
        {"compaction": {"type": "summarize"}},
    ],
)
def test_field_that_would_change_the_answer_is_refused_by_name(field: dict[str, Any]):
    with pytest.raises(UnsupportedParameterError) as caught:
        translated(**field)
    assert caught.value.param == next(iter(field))


def test_fields_without_effect_are_named():
    sent: dict[str, Any] = {
        "container": "c1",
        "inference_geo": "eu",
        "diagnostics": {"previous_message_id": "msg_1"},
        "speed": "fast",
        "context_management": {
            "edits": [
                {"type": "clear_thinking_20251015", "keep": "all"},
                {"type": "clear_tool_uses_20250919"},
            ]
        },
    }
    neutral = {"diagnostics": {"previous_message_id": None}, "speed": "standard"}
    assert translated(**sent).ignored == (
        "container",
        "inference_geo",
        "diagnostics",
        "speed",
        "context_management.edits[1]",
    )
    assert translated(**neutral, mcp_servers=[]).ignored == ()


# --- names of fields in errors ---

LACKING: dict[Feature, tuple[dict[str, Any], str]] = {
    "images": (
        {"messages": [user(text("a"), {"type": "image", "source": BASE64})]},
        "messages[0].content[1]",
    ),
    "temperature": ({"temperature": 0.5}, "temperature"),
    "top_p": ({"top_p": 0.5}, "top_p"),
    "top_k": ({"top_k": 5}, "top_k"),
    "max_tokens": ({}, "max_tokens"),
    "stop": ({"stop_sequences": ["x"]}, "stop_sequences"),
    "tools": ({"tools": [WEATHER]}, "tools"),
    "tool_choice": ({"tools": [WEATHER], "tool_choice": {"type": "any"}}, "tool_choice"),
    "parallel_tool_calls": (
        {
            "tools": [WEATHER],
            "tool_choice": {"type": "auto", "disable_parallel_tool_use": True},
        },
        "tool_choice.disable_parallel_tool_use",
    ),
    "response_format": (
        {"output_format": {"type": "json_schema", "schema": SCHEMA}},
        "output_format",
    ),
    "reasoning_effort": ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, "thinking"),
    "continue_final_message": (
        {"messages": [{"role": "assistant", "content": "The sky"}]},
        "messages[0]",
    ),
}


@pytest.mark.parametrize("feature", LACKING)
async def test_feature_that_nothing_honours_is_refused_by_the_clients_name(feature: Feature):
    body, param = LACKING[feature]
    async with http_client(ScriptedBackend(honours=EVERYTHING - {feature})) as client:
        answer = await client.post(URL, json=message(**body), headers=HEADERS)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"].startswith(f"{param}: ") or (
        f"'{param}'" in answer.json()["error"]["message"]
    )


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("tools[0].function.parameters.properties.a.not", "tools[1].input_schema.properties.a.not"),
        ("tools[0].function.strict", "tools[1].strict"),
        ("tools[0]", "tools[1]"),
        ("response_format.json_schema.schema.not", "output_config.format.schema.not"),
        (None, None),
    ],
)
def test_paths_of_the_contract_are_the_clients(path: str | None, expected: str | None):
    assert to_param(path, decoded(tools=[SEARCH, WEATHER])) == expected


async def test_wishes_that_the_model_lacks_are_named_in_the_answer():
    backend = ScriptedBackend(
        models=[Model(name="m", lacks=frozenset({"reasoning_effort", "reasoning_budget"}))]
    )
    adaptive = {"thinking": {"type": "adaptive"}, "output_config": {"effort": "high"}}
    async with http_client(backend) as client:
        answer = await client.post(URL, json=message(**adaptive), headers=HEADERS)
        enabled = {"type": "enabled", "budget_tokens": 1024}
        refused = await client.post(URL, json=message(thinking=enabled), headers=HEADERS)
    assert answer.status_code == 200
    assert answer.headers["x-tandem-ignored"] == "output_config.effort"
    assert refused.status_code == 400
    assert "thinking" in refused.json()["error"]["message"]


INTERLEAVED = {"anthropic-beta": "interleaved-thinking-2025-05-14"}
LONGER = {"max_tokens": 8000, "thinking": {"type": "enabled", "budget_tokens": 32000}}
"""Fields of Qwen Code's requests."""


async def test_budget_between_calls_may_exceed_the_limit_of_an_answer():
    backend = ScriptedBackend()
    headers = {**HEADERS, **INTERLEAVED}
    async with http_client(backend) as client:
        answer = await client.post(URL, json=message(tools=[WEATHER], **LONGER), headers=headers)
    assert answer.status_code == 200
    (request,) = backend.requests
    assert (request.max_tokens, request.reasoning_budget) == (8000, 32000)


@pytest.mark.parametrize(("beta", "tools"), [({}, [WEATHER]), (INTERLEAVED, [])])
async def test_budget_exceeds_no_limit_without_tools_or_their_beta(
    beta: dict[str, str], tools: list[dict[str, Any]]
):
    async with http_client(ScriptedBackend()) as client:
        answer = await client.post(
            URL, json=message(tools=tools, **LONGER), headers={**HEADERS, **beta}
        )
    assert answer.status_code == 400
    assert "thinking.budget_tokens" in answer.json()["error"]["message"]


async def test_budget_that_the_backend_lacks_is_named_in_the_answer():
    backend = ScriptedBackend(honours=EVERYTHING - {"reasoning_budget"})
    enabled = {"type": "enabled", "budget_tokens": 1024}
    async with http_client(backend) as client:
        answer = await client.post(URL, json=message(thinking=enabled), headers=HEADERS)
    assert answer.headers["x-tandem-ignored"] == "thinking.budget_tokens"


# --- counts ---


class UncountedBackend(ScriptedBackend):
    count_tokens = None  # type: ignore[assignment]


@pytest.mark.parametrize(("exact", "how"), [(True, "exact"), (False, "estimate")])
async def test_tokens_are_counted_and_it_is_told_how(exact: bool, how: str):
    backend = ScriptedBackend()
    backend.counted = TokenCount(42, exact)
    body = message(tools=[WEATHER, SEARCH], system="Be terse.", thinking={"type": "adaptive"})
    del body["max_tokens"]
    async with http_client(backend) as client:
        answer = await client.post(f"{URL}/count_tokens", json=body, headers=HEADERS)
    assert answer.json() == {"input_tokens": 42}
    assert answer.headers["x-tandem-token-count"] == how
    assert answer.headers["x-tandem-ignored"] == "tools[1]"
    [request] = backend.requests
    assert [tool.name for tool in request.tools] == ["weather"]


async def test_sdk_counts_tokens():
    async with anthropic_client(ScriptedBackend()) as client:
        counted = await client.messages.count_tokens(
            model="m", messages=[{"role": "user", "content": "Hi"}]
        )
    assert counted.input_tokens == 3


async def test_backend_that_cannot_count_says_so():
    async with http_client(UncountedBackend()) as client:
        answer = await client.post(f"{URL}/count_tokens", json=message(), headers=HEADERS)
    assert answer.status_code == 400
    assert "cannot count tokens" in answer.json()["error"]["message"]

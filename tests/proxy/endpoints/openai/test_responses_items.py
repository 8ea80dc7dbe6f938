"""Items of built-in tools in the input of `POST /v1/responses`, which other servers have run."""

from typing import Any

import pytest
from fakes.pictures import data_url, png
from fakes.scripted_backend import ScriptedBackend, http_client

from adapters.request import GenerationRequest, ImagePart

URL = "/v1/responses"
ASK = {"role": "user", "content": "Hi"}
FUNCTION = {"type": "function", "name": "f", "parameters": {"type": "object"}}
Item = dict[str, Any]


async def sent(*items: Item, **fields: Any) -> tuple[GenerationRequest, list[str]]:
    """The request that the backend gets, and what is ignored."""
    backend = ScriptedBackend()
    async with http_client(backend) as client:
        answer = await client.post(URL, json={"model": "m", "input": [ASK, *items], **fields})
    assert answer.status_code == 200, answer.text
    ignored = answer.headers.get("x-tandem-ignored", "")
    return backend.requests[0], ignored.split(", ") if ignored else []


def calls_and_results(request: GenerationRequest) -> list[Any]:
    """Name and arguments of each call, and the text of each result with the id of its call."""
    found: list[Any] = []
    messages = request.prompt if isinstance(request.prompt, tuple) else ()
    for message in messages[1:]:
        found += [(call.name, call.arguments) for call in message.tool_calls]
        if message.role == "tool":
            found.append((message.tool_call_id, message.text))
    return found


@pytest.mark.parametrize(
    ("items", "shown"),
    [
        (
            [
                {"type": "local_shell_call", "call_id": "c", "action": {"command": ["ls"]}},
                {"type": "local_shell_call_output", "id": "c", "output": "a.txt"},
            ],
            [("local_shell", '{"command":["ls"]}'), ("c", "a.txt")],
        ),
        (
            [
                {"type": "local_shell_call", "call_id": "c", "action": {"command": ["ls"]}},
                {"type": "local_shell_call_output", "call_id": "c", "output": "a.txt"},
            ],
            [("local_shell", '{"command":["ls"]}'), ("c", "a.txt")],
        ),
        (
            [
                {"type": "shell_call", "call_id": "c", "action": {"commands": ["ls"]}},
                {"type": "shell_call_output", "call_id": "c", "output": [{"stdout": "a"}]},
            ],
            [("shell", '{"commands":["ls"]}'), ("c", '[{"stdout":"a"}]')],
        ),
        (
            [
                {"type": "apply_patch_call", "call_id": "c", "operation": {"path": "a"}},
                {"type": "apply_patch_call_output", "call_id": "c", "status": "failed"},
            ],
            [("apply_patch", '{"path":"a"}'), ("c", "failed")],
        ),
        (
            [{"type": "web_search_call", "id": "w", "status": "completed", "action": {"q": "x"}}],
            [("web_search", '{"q":"x"}'), ("w", "completed")],
        ),
        (
            [{"type": "file_search_call", "id": "f", "queries": ["x"], "results": [{"text": "y"}]}],
            [("file_search", '{"queries":["x"]}'), ("f", '[{"text":"y"}]')],
        ),
        (
            [{"type": "code_interpreter_call", "id": "i", "code": "1", "outputs": None}],
            [("code_interpreter", '{"code":"1"}'), ("i", "[]")],
        ),
        (
            [
                {
                    "type": "mcp_call",
                    "id": "m",
                    "server_label": "s",
                    "name": "n",
                    "arguments": "{}",
                    "output": "x",
                }
            ],
            [("s__n", "{}"), ("m", "x")],
        ),
        (
            [
                {"type": "program", "call_id": "p", "code": "1+1", "fingerprint": "x"},
                {"type": "program_output", "call_id": "p", "result": "2", "status": "completed"},
            ],
            [("program", '{"code":"1+1"}'), ("p", "2")],
        ),
        (
            [
                {"type": "tool_search_call", "call_id": "t", "arguments": "mail"},
                {"type": "tool_search_output", "call_id": "t", "tools": [FUNCTION]},
            ],
            [
                ("tool_search", '{"query":"mail"}'),
                ("t", '[{"type":"function","name":"f","parameters":{"type":"object"}}]'),
            ],
        ),
        ([{"type": "image_generation_call", "id": "g"}], [("image_generation", "{}"), ("g", "")]),
    ],
    ids=lambda value: value[0]["type"] if isinstance(value[0], dict) else "",
)
async def test_call_of_a_built_in_tool_is_shown_as_call_and_result(
    items: list[Item], shown: list[Any]
):
    request, ignored = await sent(*items)
    assert calls_and_results(request) == shown
    assert ignored == []


IMAGE = data_url(png(2, 2))


@pytest.mark.parametrize(
    "items",
    [
        [
            {"type": "computer_call", "call_id": "c", "action": {"type": "screenshot"}},
            {
                "type": "computer_call_output",
                "call_id": "c",
                "output": {"type": "computer_screenshot", "image_url": IMAGE},
            },
        ],
        [{"type": "image_generation_call", "id": "c", "result": IMAGE.partition(",")[2]}],
    ],
    ids=["screenshot", "generated"],
)
async def test_image_of_a_built_in_tool_is_shown_to_the_model(items: list[Item]):
    request, _ = await sent(*items)
    assert isinstance(request.prompt, tuple)
    assert request.prompt[-1].content == (ImagePart(IMAGE),)


@pytest.mark.parametrize(
    ("item", "param", "words"),
    [
        (
            {
                "type": "computer_call_output",
                "call_id": "c",
                "output": {
                    "type": "computer_screenshot",
                    "image_url": "data:image/png;base64,AA==",
                },
            },
            "input[1].output",
            "not a complete PNG",
        ),
        (
            {"type": "image_generation_call", "id": "c", "result": "AA=="},
            "input[1].result",
            "not a complete PNG",
        ),
        (
            {"role": "user", "content": [{"type": "input_image"}]},
            "input[1].content[0].image_url",
            "Missing required parameter",
        ),
        (
            {"role": "user", "content": [{"type": "input_image", "file_id": "f"}]},
            "input[1].content[0].file_id",
            "send the image",
        ),
    ],
)
async def test_image_that_cannot_be_shown_is_named_where_it_stands(
    item: Item, param: str, words: str
):
    async with http_client(ScriptedBackend()) as client:
        answer = await client.post(URL, json={"model": "m", "input": [ASK, item]})
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, param)
    assert words in error["message"]


async def test_tools_that_a_search_has_found_can_be_called():
    found = {"type": "tool_search_output", "call_id": "t", "tools": [FUNCTION]}
    request, _ = await sent(found)
    assert [tool.name for tool in request.tools] == ["f"]


async def test_tool_that_a_search_has_found_again_is_offered_once():
    found = {"type": "tool_search_output", "call_id": "t", "tools": [FUNCTION]}
    request, _ = await sent(found, tools=[{**FUNCTION, "defer_loading": True}])
    assert [tool.name for tool in request.tools] == ["f"]


async def test_tools_of_an_item_can_be_called():
    request, _ = await sent({"type": "additional_tools", "role": "developer", "tools": [FUNCTION]})
    assert [tool.name for tool in request.tools] == ["f"]


async def test_what_precedes_calls_of_mcp_is_left_out_and_named():
    request, ignored = await sent(
        {"type": "mcp_list_tools", "id": "l", "server_label": "s", "tools": [], "error": None},
        {
            "type": "mcp_approval_request",
            "id": "a",
            "server_label": "s",
            "name": "n",
            "arguments": "{}",
        },
        {"type": "mcp_approval_response", "approval_request_id": "a", "approve": True},
    )
    assert calls_and_results(request) == []
    assert ignored == ["input[1]", "input[2]", "input[3]"]

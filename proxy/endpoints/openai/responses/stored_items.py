"""Items as they are stored: complete, with an id each, in the form of OpenAI's lists of items."""

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from msgspec import UNSET, Struct
from msgspec.structs import replace

from proxy.endpoints.openai.responses.items import (
    InputItem,
    InputText,
    LocalShellCallOutputItem,
    MessageItem,
    OutputText,
    ShellCallItem,
)
from proxy.record import new_id
from proxy.stored.entry import Entry, Item

_PREFIXES = {
    "message": "msg_",
    "reasoning": "rs_",
    "function_call": "fc_",
    "function_call_output": "fco_",
    "custom_tool_call": "ctc_",
    "custom_tool_call_output": "ctco_",
    "compaction": "cmp_",
}
_encode = msgspec.json.Encoder().encode
_input = msgspec.json.Decoder(list[InputItem])


class _Output(Struct):
    """The object of a response, as far as it is read again."""

    output: list[InputItem]


_response = msgspec.json.Decoder(_Output)


def complete(item: InputItem) -> InputItem:
    """Add the fields that a client may leave out, and make a text a list of parts."""
    changes: dict[str, Any] = {}
    if not getattr(item, "id", None):
        kind = str(type(item).__struct_config__.tag)
        changes["id"] = new_id(_PREFIXES.get(kind, "item_"))
    if hasattr(item, "status") and not getattr(item, "status", None):
        changes["status"] = "completed"
    if isinstance(item, ShellCallItem):
        changes["action"] = {"timeout_ms": None, "max_output_length": None, **item.action}
    if isinstance(item, MessageItem) and isinstance(item.content, str):
        text = item.content
        is_output = item.role == "assistant"
        changes["content"] = [OutputText(text=text) if is_output else InputText(text=text)]
    return replace(item, **changes)


def complete_all(items: Iterable[InputItem], taken: Iterable[InputItem] = ()) -> list[InputItem]:
    """Complete new items of a list that has the items `taken`.

    Ids of clients may repeat, and a page of a list begins after an id: the later item gets another.
    """
    ids = {id_of(item) for item in taken}
    completed: list[InputItem] = []
    for item in items:
        repeats = id_of(item) in ids and not isinstance(item, LocalShellCallOutputItem)
        new = complete(replace(item, id=UNSET) if repeats else item)
        ids.add(id_of(new))
        completed.append(new)
    return completed


def to_members(items: Sequence[InputItem]) -> list[Item]:
    """Encode complete items."""
    return [Item(id_of(item), _encode(item)) for item in items]


def id_of(item: InputItem) -> str:
    key = getattr(item, "id", None)
    return key if isinstance(key, str) and key is not UNSET else ""


def decode_item(content: bytes) -> InputItem:
    return msgspec.json.decode(content, type=InputItem)


def items_of(entry: Entry) -> list[InputItem]:
    """Return the input and the output of a stored response."""
    return [*_input.decode(entry.input), *_response.decode(entry.object).output]


def input_of(entry: Entry) -> list[InputItem]:
    return _input.decode(entry.input)

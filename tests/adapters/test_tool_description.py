"""Description of tools in the chat, for models without tools in their chat template."""

import pytest

from adapters.request import Message, Role, TextPart, Tool
from adapters.tool_description import with_described_tools

TOOLS = (Tool("clock", "Tells the time", {"type": "object"}),)


def described(*roles: Role, forced: bool) -> list[str]:
    """Return the role of each message, in capitals where it has the description."""
    chat = tuple(Message(role=role, content=(TextPart("own"),)) for role in roles)
    said = with_described_tools(chat, TOOLS, lambda name, _: name, forced=forced)
    return [
        message.role.upper() if message.text.startswith("These functions") else message.role
        for message in said
    ]


@pytest.mark.parametrize(
    ("roles", "free", "forced"),
    [
        (["user", "user"], ["USER", "user"], ["USER", "user"]),
        (["system", "user"], ["system", "USER"], ["SYSTEM", "user"]),
        (["system", "assistant"], ["system", "USER", "assistant"], ["SYSTEM", "assistant"]),
        (["assistant"], ["USER", "assistant"], ["USER", "assistant"]),
    ],
)
def test_words_of_forced_tools_stand_before_the_instructions(
    roles: list[Role], free: list[str], forced: list[str]
):
    assert described(*roles, forced=False) == free
    assert described(*roles, forced=True) == forced


def test_own_text_of_a_message_follows_the_description():
    chat = (Message(role="system", content=(TextPart("Be brief."),)),)
    (said,) = with_described_tools(chat, TOOLS, lambda name, _: name, forced=True)
    assert said.text.endswith("Answer now with a call of one of them.\nBe brief.")

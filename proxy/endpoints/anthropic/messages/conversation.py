"""`system` and `messages` of a request -> messages of the contract."""

from typing import Any

import msgspec
from msgspec import Struct

from adapters import request as contract
from adapters.errors import InvalidRequestError, UnsupportedParameterError
from proxy.endpoints.anthropic.messages import request as wire
from proxy.endpoints.anthropic.messages.request import PromptFields
from proxy.endpoints.anthropic.messages.signature import hidden_thinking
from proxy.endpoints.text_files import not_text, to_text_part
from proxy.images import image_at

_BILLING = "x-anthropic-billing-header:"
"""Begins a block that Claude Code puts first. It differs in every request, so that no prompt would
ever be found in a cache; it is meant for Anthropic's server, not for the model."""

_ROLES: dict[type[Struct], contract.Role] = {
    wire.ToolUseBlock: "assistant",
    wire.ThinkingBlock: "assistant",
    wire.RedactedThinkingBlock: "assistant",
    wire.ToolResultBlock: "user",
}
"""Blocks of one role: in a turn of the other, no chat template shows them."""


class ToolChanges(Struct):
    """Changes to the tools of a request that blocks of its conversation make."""

    offered: dict[str, bool] = {}
    """Name of a tool -> whether the last block that names it offers it."""
    defined: dict[str, wire.Tool] = {}
    """Path -> a tool that a block defines."""
    added: dict[str, str] = {}
    """Path -> a name that has to be that of a tool."""


class Conversation(Struct, frozen=True):
    messages: tuple[contract.Message, ...]
    images: dict[str, str]
    """Path of each image in the contract -> the client's path."""
    ignored: tuple[str, ...]
    """Paths of the parts that the model does not see."""
    changes: ToolChanges


class _Draft:
    """A message of the contract while blocks are added to it."""

    def __init__(self, role: contract.Role, tool_call_id: str | None = None) -> None:
        self.role: contract.Role = role
        self.tool_call_id = tool_call_id
        self.content: list[contract.ContentPart] = []
        self.image_paths: dict[int, str] = {}
        self.reasoning: list[str] = []
        self.calls: list[contract.ToolCall] = []

    def finished(self) -> contract.Message:
        return contract.Message(
            role=self.role,
            content=tuple(self.content),
            reasoning="\n".join(self.reasoning) or None,
            tool_calls=tuple(self.calls),
            tool_call_id=self.tool_call_id,
        )

    @property
    def is_empty(self) -> bool:
        return not (self.content or self.reasoning or self.calls or self.role == "tool")


def to_conversation(body: PromptFields) -> Conversation:
    """Translate all turns, in order; a system message within them keeps its place.

    Successive turns of one role are one, as in Anthropic's API; a result of a tool is a message of
    its own.

    Raises:
        UnsupportedParameterError: a block cannot be shown to a model here; `param` is its path.
        InvalidRequestError: no turn has any content, or a block is in a turn of the wrong role.
    """
    builder = _Builder()
    builder.add_system(body.system)
    turns = [at for at, each in enumerate(body.messages) if isinstance(each, wire.UserMessage)]
    for at, message in enumerate(body.messages):
        if isinstance(message, wire.SystemMessage):
            builder.add_system_message(
                message, f"messages[{at}]", is_past=at < max(turns, default=0)
            )
        else:
            builder.add(message, f"messages[{at}]")
    conversation = builder.finished()
    if all(message.role == "system" for message in conversation.messages):
        raise InvalidRequestError("'messages' has no content.", param="messages")
    return conversation


class _Builder:
    def __init__(self) -> None:
        self._drafts: list[_Draft] = []
        self._ignored: list[str] = []
        self._changes = ToolChanges()

    def finished(self) -> Conversation:
        drafts = [draft for draft in self._drafts if not draft.is_empty]
        images = {
            image_at(at, place): path
            for at, draft in enumerate(drafts)
            for place, path in draft.image_paths.items()
        }
        messages = tuple(draft.finished() for draft in drafts)
        return Conversation(messages, images, tuple(self._ignored), self._changes)

    def add_system(self, system: str | list[wire.TextBlock] | None) -> None:
        if isinstance(system, str):
            self._add_system_text(system, "system")
        elif system is not None:
            for at, block in enumerate(system):
                self._add_system_text(block.text, f"system[{at}]")

    def _add_system_text(self, text: str, path: str) -> None:
        if text.startswith(_BILLING):
            self._ignored.append(path)
            text = text.partition("\n")[2]
        self._add_text(self._turn("system"), text)

    def add_system_message(self, message: wire.SystemMessage, path: str, is_past: bool) -> None:
        """Add a message between the turns; `is_past`: a turn of the user follows."""
        if message.content is None and message.output_config is None:
            missing = f"{path}.content"
            raise InvalidRequestError(f"Missing required parameter: '{missing}'.", param=missing)
        is_shown = not (is_past and message.clear_at == "next_user_message")
        content = message.content or []
        blocks = [wire.TextBlock(content)] if isinstance(content, str) else content
        for at, block in enumerate(blocks):
            if not isinstance(block, wire.TextBlock):
                self._change_tools(block, f"{path}.content[{at}]")
            elif is_shown:
                self._add_text(self._turn("system"), block.text)

    def _change_tools(self, block: wire.ToolAddition | wire.ToolRemoval, path: str) -> None:
        changes, is_addition = self._changes, isinstance(block, wire.ToolAddition)
        match block.tool:
            case wire.ToolDefinition(definition=tool):
                changes.defined[f"{path}.tool.definition"] = tool
                changes.offered[tool.name or ""] = True
            case wire.ToolName(name=name):
                changes.offered[name] = is_addition
                changes.added |= {f"{path}.tool.name": name} if is_addition else {}
            case _:
                self._ignored.append(path)

    def add(self, message: wire.UserMessage | wire.AssistantMessage, path: str) -> None:
        role: contract.Role = "user" if isinstance(message, wire.UserMessage) else "assistant"
        if isinstance(message.content, str):
            self._add_text(self._turn(role), message.content)
        else:
            for at, block in enumerate(message.content):
                self._add_block(role, block, f"{path}.content[{at}]")

    def _turn(self, role: contract.Role) -> _Draft:
        """The last message if it has `role`, else a new one."""
        if not self._drafts or self._drafts[-1].role != role:
            self._drafts.append(_Draft(role))
        return self._drafts[-1]

    def _add_text(self, draft: _Draft, text: str) -> None:
        if text:
            draft.content.append(contract.TextPart(text))

    def _add_block(self, role: contract.Role, block: wire.Block, path: str) -> None:
        _check_role(role, block, path)
        match block:
            case wire.ToolResultBlock():
                self._add_result(block, path)
            case wire.ToolUseBlock():
                arguments = msgspec.json.encode(block.input).decode()
                call = contract.ToolCall(block.id, block.name, arguments)
                self._turn(role).calls.append(call)
            case wire.ThinkingBlock():
                thinking = block.thinking or hidden_thinking(block.signature)
                self._turn(role).reasoning.append(thinking)
            case wire.RedactedThinkingBlock():
                self._ignored.append(path)
            case wire.CompactionBlock(content=summary):
                self._add_text(self._turn(role), summary or "")
            case (
                wire.TextBlock()
                | wire.ImageBlock()
                | wire.DocumentBlock()
                | wire.SearchResultBlock()
            ):
                self._add_part(self._turn(role), block, path)
            case _:
                self._ignored.append(path)

    def _add_result(self, block: wire.ToolResultBlock, path: str) -> None:
        draft = _Draft("tool", block.tool_use_id)
        self._drafts.append(draft)
        if block.is_error:
            self._add_text(draft, "Error:")
        if isinstance(block.content, str):
            self._add_text(draft, block.content)
            return
        for at, part in enumerate(block.content or []):
            self._add_result_part(draft, part, f"{path}.content[{at}]")

    def _add_result_part(self, draft: _Draft, part: Any, path: str) -> None:
        match part:
            case wire.ToolReferenceBlock(tool_name=name):
                self._changes.offered[name] = True
                self._add_text(draft, f"The tool '{name}' is available.")
            case wire.BrowserStateBlock():
                self._add_text(draft, msgspec.json.encode(part.tabs).decode())
            case _:
                self._add_part(draft, part, path)

    def _add_part(self, draft: _Draft, part: wire.Part, path: str) -> None:
        match part:
            case wire.TextBlock(text=text):
                self._add_text(draft, text)
            case wire.ImageBlock():
                self._add_image(draft, part, path)
            case wire.SearchResultBlock():
                self._note_citations(part.citations, path)
                texts = [block.text for block in part.content]
                self._add_text(draft, "\n".join([part.title, part.source, *texts]))
            case wire.DocumentBlock():
                self._note_citations(part.citations, path)
                self._add_document(draft, part, path)

    def _add_image(self, draft: _Draft, image: wire.ImageBlock, path: str) -> None:
        match image.source:
            case wire.URLSource(url=url):
                pass
            case wire.Base64Source(data=data, media_type=media_type):
                url = f"data:{media_type};base64,{data}"
            case wire.FileSource():
                raise _unsupported(f"{path}.source", "there are no files here; send the image")
        draft.image_paths[len(draft.content)] = path
        draft.content.append(contract.ImagePart(url))

    def _add_document(self, draft: _Draft, document: wire.DocumentBlock, path: str) -> None:
        for text in (document.title, document.context):
            self._add_text(draft, text or "")
        match document.source:
            case wire.TextSource(data=text):
                self._add_text(draft, text)
            case wire.ContentSource(content=content):
                if isinstance(content, str):
                    self._add_text(draft, content)
                    return
                for at, part in enumerate(content):
                    self._add_part(draft, part, f"{path}.source.content[{at}]")
            case wire.Base64Source(data=data):
                draft.content.append(to_text_part(data, None, f"{path}.source"))
            case wire.URLSource() | wire.FileSource():
                raise not_text(f"{path}.source")

    def _note_citations(self, citations: wire.Citations | None, path: str) -> None:
        if citations is not None and citations.enabled:
            self._ignored.append(f"{path}.citations")


def continues_turn(body: PromptFields, conversation: Conversation) -> bool:
    """True if the last turn is the model's and not empty, so that the answer continues it.

    Raises:
        InvalidRequestError: it calls a tool, and there is no result of that.
    """
    last = len(body.messages) - 1
    message = body.messages[last]
    if not isinstance(message, wire.AssistantMessage):
        return False
    blocks = message.content if isinstance(message.content, list) else []
    if any(isinstance(block, wire.ToolUseBlock) for block in blocks):
        path = f"messages[{last}].content"
        raise InvalidRequestError(
            f"'{path}' has a 'tool_use' block without a 'tool_result' after it.", param=path
        )
    return conversation.messages[-1].role == "assistant"


def _check_role(role: contract.Role, block: wire.Block, path: str) -> None:
    if _ROLES.get(type(block), role) != role:
        kind = block.__struct_config__.tag
        raise InvalidRequestError(
            f"'{path}' is a '{kind}' block, which a message of the role '{role}' cannot have.",
            param=path,
        )


def _unsupported(param: str, advice: str) -> UnsupportedParameterError:
    return UnsupportedParameterError(f"'{param}' is not supported: {advice}.", param=param)

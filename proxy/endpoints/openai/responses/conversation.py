"""Items of the Responses API -> messages of the contract.

Consecutive items of the model (reasoning, text, calls) are one message, as templates expect.
"""

import msgspec

from adapters import request as contract
from adapters.errors import InvalidRequestError, UnsupportedParameterError
from proxy.endpoints.openai.responses import items as wire
from proxy.endpoints.openai.responses.encrypted import EncryptedContent
from proxy.endpoints.openai.responses.items import JSON, InputItem, Part
from proxy.endpoints.openai.responses.tools import Toolbox
from proxy.endpoints.text_files import not_text, to_text_part
from proxy.endpoints.tools import to_arguments
from proxy.errors import NotStoredError
from proxy.images import image_at


class Conversation:
    """Messages of a request, to which items are added in order."""

    def __init__(self, toolbox: Toolbox, encryption: EncryptedContent) -> None:
        self.messages: list[contract.Message] = []
        self.images: dict[str, str] = {}
        """The contract's place of each image -> the client's path."""
        self.ignored: list[str] = []
        """Paths of items and fields without effect."""
        self._toolbox = toolbox
        self._encryption = encryption
        self._turn = _Turn()
        """The latest message of the model, which its next items may continue."""

    def add(self, item: InputItem, path: str) -> None:
        """Add `item`, which stands at `path` of the body.

        Raises:
            InvalidRequestError: it is malformed.
            NotStoredError: it refers to an item that is not stored.
            UnsupportedParameterError: it cannot be honoured; `param` is its path.
        """
        match item:
            case wire.MessageItem():
                self._message(item, path)
            case wire.ReasoningItem():
                self._turn_for("reasoning").reasoning = self._reasoning(item, path)
            case wire.FunctionCallItem(arguments=arguments):
                self._call(item.call_id, self._flat_name(item), arguments)
            case wire.CustomToolCallItem(input=text):
                self._call(item.call_id, self._flat_name(item), to_arguments(text))
            case wire.FunctionCallOutputItem() | wire.CustomToolCallOutputItem():
                self._result(item.call_id, item.output, f"{path}.output")
            case wire.CompactionItem():
                self.say("user", self._encryption.open_summary(item.encrypted_content, path))
            case wire.AdditionalToolsItem() | wire.CompactionTrigger():
                pass  # The one is offered with the other tools, the other is no part of a chat.
            case wire.ItemReference(id=name):
                raise NotStoredError("item", name, path)
            case (
                wire.MCPListToolsItem()
                | wire.MCPApprovalRequestItem()
                | wire.MCPApprovalResponseItem()
            ):
                self.ignored.append(path)
            case _:
                self._hosted(item, path)

    def say(self, role: contract.Role, text: str) -> None:
        """Add a message of one text."""
        self._append(contract.Message(role=role, content=(contract.TextPart(text),)))

    def end(self) -> tuple[contract.Message, ...]:
        self._end_turn()
        return tuple(self.messages)

    def _message(self, item: wire.MessageItem, path: str) -> None:
        if item.role != "assistant":
            role = "user" if item.role == "user" else "system"
            self._end_turn()
            content = self._content(item.content, f"{path}.content")
            self.messages.append(contract.Message(role=role, content=content))
            return
        turn = self._turn_for("text")
        turn.content = (turn.content or ()) + self._content(item.content, f"{path}.content")

    def _content(self, content: str | list[Part], path: str) -> tuple[contract.ContentPart, ...]:
        if isinstance(content, str):
            return (contract.TextPart(content),)
        return tuple([self._part(part, at, f"{path}[{at}]") for at, part in enumerate(content)])

    def _part(self, part: Part, at: int, path: str) -> contract.ContentPart:
        """Translate the part number `at` of the next message; `path` is its place in the input."""
        match part:
            case wire.InputImage(image_url=str(url)):
                self.images[image_at(len(self.messages), at)] = path
                return contract.ImagePart(url)
            case wire.InputImage(file_id=str()):
                raise _unsupported(f"{path}.file_id", "there are no files here; send the image")
            case wire.InputImage():
                param = f"{path}.image_url"
                raise InvalidRequestError(f"Missing required parameter: '{param}'.", param=param)
            case wire.InputFile():
                return _file(part, path)
            case wire.InputAudio():
                raise _unsupported(path, "models here read text and images")
            case wire.Refusal(refusal=text):
                return contract.TextPart(text)
            case _:
                return contract.TextPart(part.text)

    def _reasoning(self, item: wire.ReasoningItem, path: str) -> str:
        """Return the model's own words where they are known, else the summary."""
        if item.encrypted_content:
            own = self._encryption.open_reasoning(item.encrypted_content, path)
            if own is not None:
                return own
            self.ignored.append(f"{path}.encrypted_content")
        parts = item.content or item.summary
        return "\n\n".join([part.text for part in parts])

    def _flat_name(self, item: wire.FunctionCallItem | wire.CustomToolCallItem) -> str:
        return self._toolbox.flat_name(item.name, item.namespace or None)

    def _call(self, call_id: str, name: str, arguments: str) -> None:
        self._turn_for("calls").calls.append(contract.ToolCall(call_id, name, arguments))

    def _result(self, call_id: str, output: str | list[Part] | Part, path: str) -> None:
        """Add a result; `path` is the place of `output`."""
        self._end_turn()
        is_one = not isinstance(output, str | list)
        content = (self._part(output, 0, path),) if is_one else self._content(output, path)
        message = contract.Message(role="tool", content=content, tool_call_id=call_id)
        self.messages.append(message)

    def _hosted(self, item: wire.HostedItem, path: str) -> None:
        """Add a call of a built-in tool by another server, or its result."""
        call_id, name, arguments, output = _as_call(item)
        if arguments is not None:
            self._call(call_id, name, arguments)
        if output is not None:
            field = "result" if isinstance(item, wire.ImageGenerationCallItem) else "output"
            self._result(call_id, output, f"{path}.{field}")

    def _append(self, message: contract.Message) -> None:
        self._end_turn()
        self.messages.append(message)

    def _turn_for(self, part: str) -> "_Turn":
        """Return the model's message that `part` belongs to: a new one if it is out of order."""
        if not self._turn.takes(part):
            self._end_turn()
        return self._turn

    def _end_turn(self) -> None:
        if message := self._turn.message():
            self.messages.append(message)
            self._turn = _Turn()


class _Turn:
    """One message of the model: reasoning, then text and calls, which may be followed by text."""

    def __init__(self) -> None:
        self.reasoning: str | None = None
        self.content: tuple[contract.ContentPart, ...] | None = None
        self.calls: list[contract.ToolCall] = []

    def takes(self, part: str) -> bool:
        match part:
            case "reasoning":
                return self.message() is None
            case "text":
                return self.content is None or bool(self.calls)
            case _:
                return True

    def message(self) -> contract.Message | None:
        if self.reasoning is None and self.content is None and not self.calls:
            return None
        return contract.Message(
            role="assistant",
            content=self.content or (),
            reasoning=self.reasoning or None,
            tool_calls=tuple(self.calls),
        )


def _as_call(item: wire.HostedItem) -> tuple[str, str, str | None, str | Part | None]:
    """Return the id, the name, the arguments and the result of a call; `None` what it lacks."""
    match item:
        case wire.LocalShellCallItem():
            return item.call_id, "local_shell", _json(item.action), None
        case wire.LocalShellCallOutputItem():
            return item.call_id or item.id or "", "local_shell", None, item.output
        case wire.ShellCallItem():
            # Stored calls have `null` for what their client left out: a prompt does not change.
            action = {name: value for name, value in item.action.items() if value is not None}
            return item.call_id, "shell", _json(action), None
        case wire.ShellCallOutputItem():
            return item.call_id, "shell", None, _json(item.output)
        case wire.ApplyPatchCallItem():
            return item.call_id, "apply_patch", _json(item.operation), None
        case wire.ApplyPatchCallOutputItem():
            return item.call_id, "apply_patch", None, item.output or item.status or ""
        case wire.WebSearchCallItem():
            return item.id or "", "web_search", _json(item.action or {}), item.status or ""
        case wire.FileSearchCallItem():
            queries = _json({"queries": item.queries})
            return item.id or "", "file_search", queries, _json(item.results or [])
        case wire.CodeInterpreterCallItem():
            code = _json({"code": item.code})
            return item.id or "", "code_interpreter", code, _json(item.outputs or [])
        case wire.MCPCallItem():
            output = item.output or ("" if item.error is None else _json(item.error))
            name = f"{item.server_label}__{item.name}"
            return item.id or "", name, item.arguments, output
        case wire.ImageGenerationCallItem():
            url = f"data:image/png;base64,{item.result}"
            image = wire.InputImage(image_url=url) if item.result else ""
            return item.id or "", "image_generation", "{}", image
        case wire.ComputerCallItem():
            actions = item.actions or [item.action or {}]
            return item.call_id, "computer", _json({"actions": actions}), None
        case wire.ComputerCallOutputItem(output=shot):
            seen = wire.InputImage(image_url=shot.image_url or None, file_id=shot.file_id)
            return item.call_id, "computer", None, seen
        case wire.ToolSearchCallItem():
            return item.call_id or "", "tool_search", _json({"query": item.arguments}), None
        case wire.ToolSearchOutputItem():
            return item.call_id or "", "tool_search", None, _json(item.tools)
        case wire.ProgramItem():
            return item.call_id, "program", _json({"code": item.code}), None
        case wire.ProgramOutputItem():
            return item.call_id, "program", None, item.result


def _file(part: wire.InputFile, path: str) -> contract.TextPart:
    if part.file_data:
        return to_text_part(part.file_data, part.filename or None, f"{path}.file_data")
    sent = [name for name in ("file_id", "file_url") if getattr(part, name)]
    raise not_text(f"{path}.{sent[0]}" if sent else path)


def _json(value: JSON | list[JSON] | str) -> str:
    return msgspec.json.encode(value).decode()


def _unsupported(param: str, advice: str) -> UnsupportedParameterError:
    return UnsupportedParameterError(f"'{param}' is not supported: {advice}.", param=param)

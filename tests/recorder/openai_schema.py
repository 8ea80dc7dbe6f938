"""OpenAI's published OpenAPI document as validators of answers."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jsonschema_rs
import msgspec
import yaml
from recorder.journal import Answer

_SHOWN = 2000
"""Characters of a violation that are shown: it repeats what is wrong."""
WEBSOCKET = 0
"""The status of an answer that is a WebSocket."""
_WEBSOCKET_EVENTS = "ResponsesServerEvent"
_ERROR = "ErrorResponse"
_EVENTS_OF = {"Response": "ResponseStreamEvent"}
"""Schema of a JSON body -> schema of the events of its stream, where an operation of the document
names only the first. `/completions` says that the two have one shape."""


class Allowance(NamedTuple):
    """A documented difference to OpenAI's schema."""

    path: str
    """Path in OpenAI's document."""
    wrong: str
    """A regular expression of the whole violation."""
    why: str


ALLOWANCES = (
    Allowance(
        "/chat/completions/{completion_id}/messages",
        r"ChatCompletionMessageList\['data'\]\[\d+\]\['role'\]: .* is not one of \"assistant\"",
        "the schema takes its messages from answers; stored messages are those of the request, as "
        "in the document's own example",
    ),
    Allowance(
        "/completions",
        r"CreateCompletionResponse\['choices'\]\[\d+\]\['finish_reason'\]: null is not .*",
        "chunks before a choice's last have null, as in the document's own example of a stream; "
        "the schema describes answers in one piece",
    ),
    Allowance(
        "/completions",
        r"CreateCompletionResponse\['choices'\]\[\d+\]\['logprobs'\]: \{.*"
        r'"token_logprobs":\[null,.*"top_logprobs":\[null,.*',
        "the first token of an echoed prompt has no probability: null, as OpenAI answers",
    ),
    Allowance(
        "/chat/completions",
        r"CreateChatCompletionStreamResponse\['choices'\]\[\d+\]\['delta'\]\['tool_calls'\]\[\d+\]"
        r"\['type'\]: \"custom\" is not one of \"function\"",
        "the schema has custom calls in answers in one piece and none in chunks; chunks have the "
        "fields of the former, which the SDKs put together",
    ),
    Allowance(
        "/embeddings",
        r"CreateEmbeddingResponse\['data'\]\[\d+\]\['embedding'\]: \"[\w+/]+=*\" is not of type "
        r"\"array\"",
        "`encoding_format: base64` is a parameter of the document, and its answer is not",
    ),
)


class Operation(NamedTuple):
    path: str
    """In OpenAI's document, with parameters in braces."""
    body: str | None
    """Name of the schema of a JSON body with status 200."""
    event: str | None
    """Name of the schema of each event of a stream."""


class OpenAISchema:
    def __init__(self, path: Path) -> None:
        loaded = yaml.load(path.read_bytes(), Loader=yaml.CSafeLoader)
        document = msgspec.json.decode(msgspec.json.encode(loaded))  # Dates become texts.
        self.components: dict[str, Any] = _to_json_schema(document["components"])
        _allow_unknown_usage(self.components["schemas"])
        self._operations = list(_operations(document["paths"]))
        self._validators: dict[str, Any] = {}

    def find(self, method: str, path: str) -> Operation | None:
        """Find the operation of a request to Tandem's `path`."""
        path = path.rstrip("/")
        found = (each for verb, form, each in self._operations if verb == method and form(path))
        return next(found, None)

    def violations(self, name: str, data: bytes) -> Iterator[str]:
        """Check JSON against the schema `name`."""
        if name not in self._validators:
            root = {"components": self.components, "$ref": f"#/components/schemas/{name}"}
            self._validators[name] = jsonschema_rs.Draft202012Validator(root)
        try:
            value = msgspec.json.decode(data)
        except msgspec.DecodeError as error:
            yield f"no JSON ({error}): {data[:300]!r}"
            return
        for error in self._validators[name].iter_errors(value):
            place = "".join(f"[{each!r}]" for each in error.instance_path)
            yield f"{name}{place}: {error.message}"


def _allow_unknown_usage(schemas: dict[str, Any]) -> None:
    """Let a response that has not ended have `usage: null`, as OpenAI's own events do.

    An allowance cannot tell: the events are alternatives, of which a validator names none.
    """
    for part in schemas.get("Response", {}).get("allOf", ()):
        properties = part.get("properties", {})
        if "usage" in properties:
            properties["usage"] = {"anyOf": [properties["usage"], {"type": "null"}]}


class Checked(NamedTuple):
    """The outcome for one answer."""

    operation: Operation | None
    """`None` for a path that OpenAI does not have."""
    bodies: int
    events: int
    violations: list[str]


def check(answer: Answer, schema: OpenAISchema) -> Checked:
    """Validate the body of `answer`, or every event of it."""
    head = answer.head
    operation = schema.find(head.method, head.path)
    # Anthropic's clients get another shape at the same path.
    if operation is None or "anthropic-version" in head.request_headers:
        operation = None
    parts = list(_parts(answer, operation))
    wrong = [
        f"{head.method} {head.path} {head.status}: {violation[:_SHOWN]}"
        for name, data in parts
        for violation in schema.violations(name, data)
        if not _is_allowed(operation, violation)
    ]
    bodies = len(parts) if head.content_type.startswith("application/json") else 0
    return Checked(operation, bodies, len(parts) - bodies, wrong)


def _is_allowed(operation: Operation | None, violation: str) -> bool:
    return operation is not None and any(
        allowance.path == operation.path and re.fullmatch(allowance.wrong, violation, re.DOTALL)
        for allowance in ALLOWANCES
    )


def _parts(answer: Answer, operation: Operation | None) -> Iterator[tuple[str, bytes]]:
    """Yield each JSON value of `answer` with the name of its schema."""
    head, data = answer.head, b"".join(answer.pieces)
    if head.status == WEBSOCKET:
        if operation is not None and operation.path == "/responses":
            yield from ((_WEBSOCKET_EVENTS, frame) for frame in answer.pieces)
    elif head.content_type.startswith("text/event-stream"):
        if operation is not None and operation.event is not None:
            yield from _events(operation.event, data)
    elif head.content_type.startswith("application/json") and answer.complete and data:
        if head.status >= 400 and head.is_openai_error:
            yield _ERROR, data
        elif head.status < 300 and operation is not None and operation.body is not None:
            yield operation.body, data


def _events(name: str, stream: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield the data of complete events; one that is cut has no blank line at its end."""
    for event in stream.split(b"\n\n")[:-1]:
        lines = [line for line in event.split(b"\n") if line.startswith(b"data:")]
        data = b"\n".join(line.removeprefix(b"data:").strip() for line in lines)
        if data and data != b"[DONE]":
            # The document has no event for a chat that fails; the SDKs read this one.
            yield (_ERROR if data.startswith(b'{"error"') else name), data


def _operations(paths: dict[str, Any]) -> Iterator[tuple[str, Any, Operation]]:
    """Yield method, match of a path, and operation; paths with fewer parameters come first."""
    for path in sorted(paths, key=lambda path: path.count("{")):
        for method, operation in paths[path].items():
            if method in ("get", "post", "delete") and "?" not in path:
                yield method.upper(), _to_pattern(path).fullmatch, _to_operation(path, operation)
    websocket = Operation("/responses", None, _WEBSOCKET_EVENTS)
    yield "GET", _to_pattern("/responses").fullmatch, websocket


def _to_pattern(path: str) -> re.Pattern[str]:
    """Match Tandem's URL of OpenAI's `path`; names of models may have slashes."""
    parts = re.split(r"(\{\w+\})", path)
    forms = {"{model}": ".+"}
    return re.compile(
        "/v1" + "".join(forms.get(p, "[^/]+" if p[:1] == "{" else re.escape(p)) for p in parts)
    )


def _to_operation(path: str, operation: dict[str, Any]) -> Operation:
    content = operation.get("responses", {}).get("200", {}).get("content", {})
    body = _schema_name(content, "application/json")
    event = _schema_name(content, "text/event-stream")
    return Operation(path, body, event or (_EVENTS_OF.get(body, body) if body else None))


def _schema_name(content: dict[str, Any], media_type: str) -> str | None:
    reference = content.get(media_type, {}).get("schema", {}).get("$ref")
    return reference.rpartition("/")[2] if reference else None


def _to_json_schema(schema: Any) -> Any:
    """Translate OpenAPI 3.0's `nullable` to JSON Schema."""
    if isinstance(schema, list):
        return [_to_json_schema(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    plain = {key: _to_json_schema(value) for key, value in schema.items() if key != "nullable"}
    if schema.get("nullable") is True:
        return {"anyOf": [plain, {"type": "null"}]}
    return plain

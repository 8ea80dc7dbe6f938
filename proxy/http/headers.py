"""Response headers that Tandem adds to every answer, from its record."""

from collections.abc import Sequence

from litestar.types import Message, Send

from proxy.record import Record

_MAX_NAMES = 20
_MAX_NAME_LENGTH = 120


Headers = Sequence[tuple[bytes, bytes]]


def with_headers(send: Send, record: Record, others: Headers = ()) -> Send:
    """Wrap `send` so that the head of the answer has what `record` knows by then, and `others`."""

    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            record.status = message["status"]
            message["headers"] = [*message["headers"], *_to_headers(record), *others]
        await send(message)

    return send_with_headers


def _to_headers(record: Record) -> list[tuple[bytes, bytes]]:
    headers = [
        (b"x-request-id", record.request_id.encode()),
        (b"x-tandem-backend", record.backend.encode()),
    ]
    if record.fallback_from is not None:
        headers.append((b"x-tandem-fallback-from", record.fallback_from.encode()))
    if record.context is not None:
        headers.append((b"x-tandem-context", b"%d" % record.context))
    if ignored := record.ignored:
        headers.append((b"x-tandem-ignored", _to_list(ignored).encode()))
    if template := record.template:
        headers.append((b"x-tandem-template", _to_list(template).encode()))
    headers += record.grant.limits.headers()
    return headers


def _to_list(names: tuple[str, ...]) -> str:
    """Join names in ASCII without line breaks, limited in number and length."""
    shown = ", ".join(
        name[:_MAX_NAME_LENGTH].encode("unicode_escape").decode("ascii")
        for name in names[:_MAX_NAMES]
    )
    more = len(names) - _MAX_NAMES
    return f"{shown} (and {more} more)" if more > 0 else shown

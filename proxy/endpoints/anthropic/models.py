"""Cards of models in Anthropic's shape.

Source: https://platform.claude.com/docs/en/api/models/list
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from msgspec import Struct

from adapters.errors import InvalidRequestError
from proxy.models.registry import RegisteredModel

_PAGE = 20
_LONGEST_PAGE = 1000


class ModelInfo(Struct, kw_only=True, tag_field="type", tag="model"):
    id: str
    display_name: str
    created_at: str
    """RFC 3339; the epoch where it is not known."""
    lifecycle: str = "active"
    max_input_tokens: int | None = None
    max_tokens: int | None = None
    """Both have the context, which prompt and answer share."""


class ModelPage(Struct, kw_only=True):
    data: Sequence[ModelInfo]
    has_more: bool
    first_id: str | None
    last_id: str | None


class Paging(Struct, frozen=True, kw_only=True):
    """The query of a list. One of the ids at most; a page is after or before that model."""

    after_id: str | None = None
    before_id: str | None = None
    limit: int = _PAGE


def to_paging(after_id: str | None, before_id: str | None, limit: str | None) -> Paging:
    """
    Raises:
        InvalidRequestError: `limit` is no number from 1 to 1000, or there are two ids.
    """
    if after_id is not None and before_id is not None:
        raise InvalidRequestError("Send one of 'after_id' and 'before_id'.", param="before_id")
    if limit is None:
        return Paging(after_id=after_id, before_id=before_id)
    if not (limit.isdecimal() and 1 <= int(limit[:9]) <= _LONGEST_PAGE):
        raise InvalidRequestError(
            f"'limit' is a number from 1 to {_LONGEST_PAGE}, not {limit[:40]!r}.", param="limit"
        )
    return Paging(after_id=after_id, before_id=before_id, limit=int(limit))


def to_page(entries: Iterable[RegisteredModel], paging: Paging) -> ModelPage:
    """
    Raises:
        InvalidRequestError: there is no model of that id.
    """
    models = [to_info(entry, name) for entry in entries for name in entry.names]
    ids = [model.id for model in models]
    if paging.before_id is not None:
        rest = models[: _place(ids, paging.before_id, "before_id")]
        page, has_more = rest[-paging.limit :], len(rest) > paging.limit
    else:
        begin = 0
        if paging.after_id is not None:
            begin = _place(ids, paging.after_id, "after_id") + 1
        rest = models[begin:]
        page, has_more = rest[: paging.limit], len(rest) > paging.limit
    first, last = (page[0].id, page[-1].id) if page else (None, None)
    return ModelPage(data=page, has_more=has_more, first_id=first, last_id=last)


def _place(ids: Sequence[str], wanted: str, param: str) -> int:
    if wanted not in ids:
        raise InvalidRequestError(f"'{param}' is no model: {wanted[:100]!r}.", param=param)
    return ids.index(wanted)


def to_info(entry: RegisteredModel, name: str) -> ModelInfo:
    """The card of `entry` under one of its names."""
    models = [deployment.model for deployment in entry.deployments if deployment.model]
    created = next((model.created for model in models if model.created), 0)
    context = max((model.context_length or 0 for model in models), default=0) or None
    return ModelInfo(
        id=name,
        display_name=name,
        created_at=datetime.fromtimestamp(created, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        max_input_tokens=context,
        max_tokens=context,
    )

"""Pages of lists, and metadata, as OpenAI's stored objects have them.

Source: https://platform.openai.com/docs/api-reference/chat/list
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from msgspec import Meta, Raw, Struct

from proxy.errors import NotStoredError
from proxy.http.body import convert
from proxy.stored.entry import Item, Page

Metadata = Annotated[
    dict[Annotated[str, Meta(max_length=64)], Annotated[str, Meta(max_length=512)]],
    Meta(max_length=16),
]


class MetadataHolder(Struct):
    """A body that replaces the metadata of a stored object."""

    metadata: Metadata | None
    """`null`: none."""


class PageQuery(Struct, kw_only=True):
    after: str | None = None
    """The id of the last member of the page before."""
    limit: Annotated[int, Meta(ge=1, le=100)] = 20
    order: Literal["asc", "desc"] = "asc"

    @property
    def page(self) -> Page:
        return Page(limit=self.limit, order=self.order, after=self.after)


class StoredList(Struct, kw_only=True):
    object: str = "list"
    data: list[Any]
    first_id: str
    last_id: str
    """Both are empty for an empty page: typed clients require texts, as OpenAI's schema does."""
    has_more: bool


def to_list(members: Sequence[Item], has_more: bool) -> StoredList:
    """Render a page of JSON objects."""
    return StoredList(
        data=[Raw(member.object) for member in members],
        first_id=members[0].id if members else "",
        last_id=members[-1].id if members else "",
        has_more=has_more,
    )


def select(members: Sequence[Item], page: Page) -> tuple[Sequence[Item], bool]:
    """Select a page of `members`, and tell whether there are more.

    Raises:
        NotStoredError: none has the id `page.after`.
    """
    rest = members if page.order == "asc" else members[::-1]
    if page.after is not None:
        keys = [member.id for member in rest]
        if page.after not in keys:
            raise NotStoredError("item", page.after)
        rest = rest[keys.index(page.after) + 1 :]
    return rest[: page.limit], len(rest) > (page.limit or len(rest))


def to_metadata(value: object) -> dict[str, str]:
    """Check metadata that is to be stored.

    Raises:
        InvalidRequestError: it is no object of texts, or too large.
    """
    return convert({"metadata": value}, MetadataHolder).metadata or {}

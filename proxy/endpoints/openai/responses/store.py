"""The seam between the dialect and what keeps its answers: a database, or one connection's memory.

The dialect asks a store for the items before an input, and hands it each finished answer. Without a
store, answers are not kept.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from adapters.errors import InvalidRequestError
from proxy.endpoints.openai.responses.items import InputItem
from proxy.endpoints.openai.responses.request import ResponseRequest
from proxy.errors import PreviousResponseNotFoundError

if TYPE_CHECKING:
    from proxy.endpoints.openai.responses.response import Response
    from proxy.endpoints.openai.responses.turn import Turn


class ResponseStore(Protocol):
    keeps: bool
    """False if `store: true` has no effect."""

    async def earlier(self, body: ResponseRequest, client: str) -> Sequence[InputItem]:
        """Return the items before the input: those of `previous_response_id` (its input and its
        output, and of all answers before it) or of `conversation`.

        `client` is the digest of the API key. Called only if the body has one of the two.

        Raises:
            PreviousResponseNotFoundError: there is no such answer of this client.
            NotStoredError: there is no such conversation of this client.
        """
        ...

    async def find(self, ids: Sequence[str], client: str) -> Mapping[str, InputItem]:
        """Return the items with these ids, of this client's answers; unknown ones are left out."""
        ...

    def keep(
        self, turn: "Turn", response: "Response", send: Callable[[], object] | None = None
    ) -> None:
        """Take an answer that has ended, of whatever status; `send` sends its end.

        Called once for each answer that has begun, on the event loop: no I/O. `turn.items` is its
        input without the items before it. A failure must not raise: the answer is sent anyway.
        Without `send` the end is sent at once, or when `settle` returns.
        """
        ...

    async def settle(self) -> None:
        """Wait until the answer that was given to `keep`, if any, is stored, and send its end."""
        ...


class NoStore:
    """Keeps nothing."""

    keeps = False

    async def earlier(self, body: ResponseRequest, client: str) -> Sequence[InputItem]:
        if body.conversation is not None:
            raise InvalidRequestError(
                "'conversation' needs stored conversations.", param="conversation"
            )
        raise previous_response_not_found(body.previous_response_id or "")

    async def find(self, ids: Sequence[str], client: str) -> Mapping[str, InputItem]:
        return {}

    def keep(
        self, turn: "Turn", response: "Response", send: Callable[[], object] | None = None
    ) -> None:
        if send is not None:
            send()

    async def settle(self) -> None:
        return None


def previous_response_not_found(response_id: str) -> PreviousResponseNotFoundError:
    return PreviousResponseNotFoundError(
        f"Previous response with id '{response_id[:100]}' not found.",
        param="previous_response_id",
    )

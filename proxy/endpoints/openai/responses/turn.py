"""One request to the Responses API, from its body to its end."""

import time
from collections.abc import Sequence

from msgspec import Struct, field

from proxy.endpoints.openai.responses.encrypted import EncryptedContent
from proxy.endpoints.openai.responses.items import CompactionTrigger, InputItem
from proxy.endpoints.openai.responses.request import ResponseRequest
from proxy.endpoints.openai.responses.store import NoStore, ResponseStore
from proxy.endpoints.openai.responses.stored_items import complete_all
from proxy.endpoints.openai.responses.tools import Toolbox
from proxy.record import new_id


def _new_response_id() -> str:
    return new_id("resp_")


def _now() -> int:
    return int(time.time())


class Turn(Struct, kw_only=True):
    """A request with all that its answer needs; the body of its `Call`."""

    body: ResponseRequest
    encryption: EncryptedContent
    items: Sequence[InputItem] = ()
    """The input of this request, without earlier items."""
    earlier: Sequence[InputItem] = ()
    """The items before it: of a previous answer, or of a conversation."""
    store: ResponseStore = field(default_factory=NoStore)
    toolbox: Toolbox = Toolbox()
    images: dict[str, str] = {}
    """The contract's place of each image -> the client's path."""
    client: str = ""
    """Digest of the API key: stored answers are separate by client."""
    id: str = field(default_factory=_new_response_id)
    created_at: int = field(default_factory=_now)

    @property
    def is_stored(self) -> bool:
        """True if the answer can be read later: `store` is true where it is absent."""
        return self.store.keeps and self.body.store is not False

    @property
    def completed_items(self) -> list[InputItem]:
        """The input of this request as it is stored; new ids are made at each call.

        In a conversation an item replaces the one with its id.
        """
        is_chained = self.body.previous_response_id is not None
        return complete_all(self.items, self.earlier if is_chained else ())

    @property
    def compacts(self) -> bool:
        """True if the answer is the summary of the input."""
        return any(isinstance(item, CompactionTrigger) for item in self.items)

    def includes(self, what: str) -> bool:
        return what in (self.body.include or ())

    @property
    def wants_logprobs(self) -> bool:
        return bool(self.body.top_logprobs) or self.includes("message.output_text.logprobs")

    @property
    def wants_summary(self) -> bool:
        """True if reasoning is shown as its summary."""
        reasoning = self.body.reasoning
        return bool(reasoning and (reasoning.summary or reasoning.generate_summary))

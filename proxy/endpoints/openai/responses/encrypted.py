"""Encrypted content of items: reasoning, and the summary of a compacted conversation."""

from adapters.errors import BackendError
from proxy.encryption import BrokenTextError, Encryption, ForeignTextError
from proxy.errors import InvalidEncryptedContentError

_REASONING = "reasoning"
_SUMMARY = "compaction"


class EncryptedContent:
    """Seals and opens what clients keep; refusals are worded as OpenAI's."""

    def __init__(self, cipher: Encryption) -> None:
        self._cipher = cipher

    def seal_reasoning(self, text: str) -> str:
        return self._cipher.encrypt(text, _REASONING)

    def seal_summary(self, text: str) -> str:
        return self._cipher.encrypt(text, _SUMMARY)

    def open_reasoning(self, encrypted: str, path: str) -> str | None:
        """Return the reasoning of the item at `path`; `None` for that of another server.

        A client that changes servers in the middle of a conversation sends such an item. Its
        conversation is complete without it.

        Raises:
            InvalidEncryptedContentError: it was changed, or its key is lost.
        """
        try:
            return self._cipher.decrypt(encrypted, _REASONING)
        except ForeignTextError:
            return None
        except BrokenTextError:
            raise _refused(path) from None

    def open_summary(self, encrypted: str, path: str) -> str:
        """Return the conversation that the item at `path` stands for.

        Raises:
            InvalidEncryptedContentError: it is another server's, was changed, or its key is lost.
        """
        try:
            return self._cipher.decrypt(encrypted, _SUMMARY)
        except (BrokenTextError, ForeignTextError):
            raise _refused(path) from None


def _refused(path: str) -> BackendError:
    return InvalidEncryptedContentError(
        f"The encrypted content of '{path}' could not be verified: this server did not encrypt it, "
        "or it was changed.",
        param=f"{path}.encrypted_content",
    )

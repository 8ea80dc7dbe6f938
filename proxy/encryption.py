"""Encryption of text that clients keep for this server: reasoning, and compacted conversations.

AES-256-GCM with a key in the state folder (0600). Nothing is stored for a text: a client that sends
it back sends all there is. The purpose is authenticated too, so that a text of one kind is not
accepted as another.
"""

import base64
import binascii
import logging
import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING

from adapters.config import make_private_folder

if TYPE_CHECKING:
    # Imported on first use: it takes megabytes that most servers never need.
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

log = logging.getLogger("tandem")

KEY_FILE = "encryption.key"
PREFIX = "tandem1."
"""Begins each encrypted text of this server: texts of others can be told apart."""
_KEY_BYTES = 32
_NONCE_BYTES = 12


class ForeignTextError(Exception):
    """The text was encrypted by another server."""


class BrokenTextError(Exception):
    """The text was changed, or its key is lost."""


class Encryption:
    """Encrypts with the key in `folder`, which is read or created on first use."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._cipher: AESGCM | None = None

    def encrypt(self, text: str, purpose: str) -> str:
        nonce = secrets.token_bytes(_NONCE_BYTES)
        sealed = self._loaded().encrypt(nonce, text.encode(), purpose.encode())
        return PREFIX + base64.urlsafe_b64encode(nonce + sealed).decode()

    def decrypt(self, encrypted: str, purpose: str) -> str:
        """Decrypt a text that `encrypt` returned for the same purpose.

        Raises:
            ForeignTextError: another server encrypted it.
            BrokenTextError: it was changed, or encrypted with another key.
        """
        if not encrypted.startswith(PREFIX):
            raise ForeignTextError
        from cryptography.exceptions import InvalidTag

        try:
            data = base64.b64decode(encrypted.removeprefix(PREFIX), altchars=b"-_", validate=True)
            nonce, sealed = data[:_NONCE_BYTES], data[_NONCE_BYTES:]
            return self._loaded().decrypt(nonce, sealed, purpose.encode()).decode()
        except (binascii.Error, ValueError, InvalidTag) as exc:
            raise BrokenTextError from exc

    def _loaded(self) -> "AESGCM":
        if self._cipher is None:
            from cryptography.hazmat.primitives.ciphers.aead import AESGCM

            self._cipher = AESGCM(self._read_or_create())
        return self._cipher

    def _read_or_create(self) -> bytes:
        """Return the key; one of this process alone if the folder cannot be written."""
        path = self._folder / KEY_FILE
        try:
            make_private_folder(self._folder)
            if not path.exists():
                _create(path)
            key = path.read_bytes()
            if len(key) == _KEY_BYTES:
                return key
            log.warning("%s is no key: encrypted content is readable until the server ends.", path)
        except OSError as exc:
            log.warning(
                "%s: %s. Encrypted content is readable until the server ends.", path, exc.strerror
            )
        return secrets.token_bytes(_KEY_BYTES)


def _create(path: Path) -> None:
    """Write a new key; of several processes the first one wins."""
    draft = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(secrets.token_bytes(_KEY_BYTES))
    try:
        os.link(draft, path)
    except FileExistsError:
        pass
    finally:
        draft.unlink()

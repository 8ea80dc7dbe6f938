"""A conversation of `tandem chat`: messages, images by path, and streamed answers."""

import base64
import os
import shlex
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from proxy.cli.command import CommandError

if TYPE_CHECKING:
    from proxy.cli.running_server import RunningServer

_IMAGE_TYPES = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".gif": "image/gif",
    ".webp": "image/webp",
}

Piece = tuple[Literal["text", "thoughts", "usage"], Any]


def _pieces(events: Iterator[dict[str, Any]]) -> Iterator[Piece]:
    """Yield what the events of a streamed chat completion add to the answer."""
    first = None
    for event in events:
        for choice in event["choices"]:
            first = first or time.monotonic()
            if thoughts := choice["delta"].get("reasoning_content"):
                yield "thoughts", thoughts
            if text := choice["delta"].get("content"):
                yield "text", text
        if usage := event.get("usage"):
            seconds = time.monotonic() - (first or time.monotonic())
            yield (
                "usage",
                usage | {"speed": usage["completion_tokens"] / seconds if seconds else None},
            )


class Conversation:
    def __init__(
        self, model: str, system: str | None, options: Mapping[str, int | float | None]
    ) -> None:
        """`options` are fields of a chat completion; `None` leaves one out."""
        self.model = model
        self.system = system
        self._options = {name: value for name, value in options.items() if value is not None}
        self._messages: list[dict[str, Any]] = []
        self._images: list[str] = []

    def clear(self) -> None:
        self._messages, self._images = [], []

    def add_image(self, path: Path) -> None:
        """Add an image to the next message.

        Raises:
            CommandError: it is no image, or cannot be read.
        """
        kind = _IMAGE_TYPES.get(path.suffix.lower())
        if kind is None:
            known = ", ".join(_IMAGE_TYPES)
            raise CommandError(f"'{path}' is no image; use a file that ends with one of {known}.")
        try:
            data = base64.b64encode(path.read_bytes()).decode()
        except OSError as exc:
            raise CommandError(f"'{path}' cannot be read: {exc.strerror}.") from exc
        self._images.append(f"data:{kind};base64,{data}")

    def ask(self, server: "RunningServer", text: str) -> Iterator[Piece]:
        """Yield the pieces of the answer, and its usage last, with the `speed` in tokens a second.

        The message and the answer are kept once the answer is complete, or was interrupted in
        its middle: the next message may be about it. What failed is not kept, nor are its images.
        """
        text = self._without_paths(text)
        message = {"role": "user", "content": self._content(text)}
        self._images = []
        head = [{"role": "system", "content": self.system}] if self.system else []
        body = self._options | {
            "model": self.model,
            "messages": [*head, *self._messages, message],
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        answer = ""
        try:
            for kind, piece in _pieces(server.events("/v1/chat/completions", body)):
                answer += piece if kind == "text" else ""
                yield kind, piece
        except CommandError:
            raise
        except BaseException:  # Ctrl-C, here or where the pieces are shown.
            if answer:
                self._keep(message, answer)
            raise
        self._keep(message, answer)

    def _keep(self, message: dict[str, Any], answer: str) -> None:
        self._messages += [message, {"role": "assistant", "content": answer}]

    def _without_paths(self, text: str) -> str:
        """Add the images at paths in `text`, and return it without these paths."""
        try:
            words = shlex.split(text)
        except ValueError:  # An apostrophe, as in "don't".
            words = text.split()
        for word in words:
            path = Path(word).expanduser()
            if path.suffix.lower() in _IMAGE_TYPES and os.path.isfile(path):
                self.add_image(path)
                for written in (shlex.quote(word), f'"{word}"', word):
                    text = text.replace(written, "")
        return text.strip()

    def _content(self, text: str) -> str | list[dict[str, Any]]:
        if not self._images:
            return text
        parts = [{"type": "image_url", "image_url": {"url": url}} for url in self._images]
        return [{"type": "text", "text": text}, *parts]

"""One OpenAI-compatible server in front of an Ollama, asked with plain JSON."""

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

from servers.ollama_server import PLAIN

JSON = dict[str, Any]
_SECONDS = 400.0


class RefusedError(Exception):
    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class Side:
    def __init__(self, url: str, ollama: str) -> None:
        """`url` is the server's own; `ollama` the Ollama that answers in the end."""
        self._url = url
        self._ollama = ollama

    def chat(self, text: str = "What is the capital of France?", **fields: Any) -> JSON:
        messages = [{"role": "user", "content": text}]
        body = {"model": PLAIN, "messages": messages, "max_tokens": 12} | fields
        return self.post("/v1/chat/completions", body)

    def message(self, text: str = "What is the capital of France?", **fields: Any) -> JSON:
        return self.chat(text, **fields)["choices"][0]["message"]

    def says(self, text: str = "What is the capital of France?", **fields: Any) -> str:
        return self.message(text, **fields)["content"]

    def post(self, path: str, body: JSON) -> JSON:
        with self._open(path, body) as response:
            return json.load(response)

    def stream(self, body: JSON) -> Iterator[JSON]:
        """Yield the frames of a chat. Closing the iterator closes the connection."""
        asked = {"model": PLAIN, "stream": True} | body
        with self._open("/v1/chat/completions", asked) as response:
            for line in response:
                if line.startswith(b"data: {"):
                    yield json.loads(line.removeprefix(b"data: "))

    def loaded(self) -> list[JSON]:
        """List the models that Ollama reports as loaded."""
        with urllib.request.urlopen(f"{self._ollama}/api/ps", timeout=_SECONDS) as response:
            return json.load(response)["models"]

    def _open(self, path: str, body: JSON) -> Any:
        headers = {"content-type": "application/json"}
        request = urllib.request.Request(self._url + path, json.dumps(body).encode(), headers)
        try:
            return urllib.request.urlopen(request, timeout=_SECONDS)
        except urllib.error.HTTPError as error:
            with error:
                raise RefusedError(error.code) from None

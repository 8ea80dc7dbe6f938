"""A small server in the hub's place: one repository, which it gives in pieces if it is told to."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "c" * 40


class Hub:
    def __init__(self, repository: str, folder: Path) -> None:
        self.repository = repository
        self.files = {path.name: path.read_bytes() for path in folder.iterdir()}
        self.fetched: list[str] = []
        self.broken = False
        """Answer 503 to everything."""
        self.held: str | None = None
        """The file of which half is given until `going_on` is set."""
        self.going_on = threading.Event()

    def listing(self) -> bytes:
        siblings = [{"rfilename": name, "size": len(data)} for name, data in self.files.items()]
        return json.dumps({"id": self.repository, "sha": COMMIT, "siblings": siblings}).encode()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its own name.
        pass

    def _answer(self, *, with_body: bool) -> None:
        path = self.path.partition("?")[0]
        _, _, name = path.rpartition(f"/{self.hub.repository}/resolve/main/")
        if self.hub.broken:
            self._say(503, b"")
        elif path.startswith(f"/api/models/{self.hub.repository}"):
            self._say(200, self.hub.listing())
        elif name in self.hub.files and path != name:
            self._give(name, with_body)
        else:
            self._say(404, b"", {"X-Error-Code": "RepoNotFound"})

    def _give(self, name: str, with_body: bool) -> None:
        data = self.hub.files[name]
        headers = {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Repo-Commit": COMMIT}
        if not with_body:
            self._say(200, data, headers, with_body=False)
            return
        self.hub.fetched.append(name)
        self._say(200, data, headers, held=self.hub.held == name)

    def _say(
        self,
        status: int,
        body: bytes,
        headers: dict[str, str] | None = None,
        *,
        with_body: bool = True,
        held: bool = False,
    ) -> None:
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if not with_body:
            return
        half = len(body) // 2 if held else len(body)
        self.wfile.write(body[:half])
        self.wfile.flush()
        if held:
            self.hub.going_on.wait(30)
            self.wfile.write(body[half:])


@contextmanager
def serving_hub(hub: Hub) -> Iterator[str]:
    """Its address, for `HF_ENDPOINT`."""
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.handle_error = lambda request, client_address: None  # The client may go at any time.
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        hub.going_on.set()
        server.shutdown()
        thread.join()
        server.server_close()

"""A small HTTP server in place of the hub, with one repository; it can stall in a file."""

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
        files = [path for path in folder.rglob("*") if path.is_file()]
        self.files = {str(path.relative_to(folder)): path.read_bytes() for path in files}
        self.fetched: list[str] = []
        self.broken = False
        """Answer 503 to everything."""
        self.stalls_at: str | None = None
        """Name of a file that stops after its first half until `resume` is set."""
        self.has_stalled = threading.Event()
        self.resume = threading.Event()

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

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name in the base class.
        pass

    def _answer(self, *, with_body: bool) -> None:
        path = self.path.partition("?")[0]
        _, _, name = path.rpartition(f"/{self.hub.repository}/resolve/main/")
        if self.hub.broken:
            self._respond(503, b"")
        elif path.startswith(f"/api/models/{self.hub.repository}"):
            self._respond(200, self.hub.listing())
        elif name in self.hub.files and path != name:
            self._send_file(name, with_body)
        else:
            self._respond(404, b"", {"X-Error-Code": "RepoNotFound"})

    def _send_file(self, name: str, with_body: bool) -> None:
        data = self.hub.files[name]
        headers = {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Repo-Commit": COMMIT}
        if not with_body:
            self._respond(200, data, headers, with_body=False)
            return
        self.hub.fetched.append(name)
        self._respond(200, data, headers, stalls=self.hub.stalls_at == name)

    def _respond(
        self,
        status: int,
        body: bytes,
        headers: dict[str, str] | None = None,
        *,
        with_body: bool = True,
        stalls: bool = False,
    ) -> None:
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if not with_body:
            return
        half = len(body) // 2 if stalls else len(body)
        self.wfile.write(body[:half])
        self.wfile.flush()
        if stalls:
            self.hub.has_stalled.set()
            self.hub.resume.wait(30)
            self.wfile.write(body[half:])


@contextmanager
def serving_hub(hub: Hub) -> Iterator[str]:
    """Run the server; yields its address for `HF_ENDPOINT`."""
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.handle_error = lambda request, client_address: (
        None
    )  # The client may disconnect at any time.
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        hub.resume.set()
        server.shutdown()
        thread.join()
        server.server_close()

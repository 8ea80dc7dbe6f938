"""A server between Tandem and Ollama, which passes everything on and keeps what was asked."""

import http.client
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit


class Between:
    def __init__(self, port: int) -> None:
        self.host = f"http://127.0.0.1:{port}"
        self.asked: list[tuple[str, bytes]] = []
        """Path and body, in order."""

    def bodies(self, path: str) -> list[Any]:
        return [json.loads(body) for where, body in self.asked if where == path]


@contextmanager
def between(ollama: str) -> Iterator[Between]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    it = Between(server.server_address[1])
    server.kept, server.upstream = it.asked, urlsplit(ollama).netloc  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield it
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._pass_on(b"")

    def do_POST(self) -> None:
        self._pass_on(self.rfile.read(int(self.headers["Content-Length"])))

    def _pass_on(self, body: bytes) -> None:
        self.server.kept.append((self.path, body))  # type: ignore[attr-defined]
        upstream = http.client.HTTPConnection(self.server.upstream, timeout=120)  # type: ignore[attr-defined]
        upstream.request(
            self.command, self.path, body or None, {"Content-Type": "application/json"}
        )
        answer = upstream.getresponse()
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.headers["Content-Type"])
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        while piece := answer.read1(65536):
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        self.wfile.write(b"0\r\n\r\n")
        upstream.close()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name there.
        """Nothing: the test tells."""

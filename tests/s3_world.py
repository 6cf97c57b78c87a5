"""S3's API over HTTP on loopback, by moto's server; and a proxy in front of it that loses replies.

moto stands in for the real service: what it honours is looked at in the tests, before anything is concluded from it.
"""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Protocol
from urllib.parse import quote

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_EC2_METADATA_DISABLED": "true"}
BUCKET = "objects"


@dataclass
class Service:
    """The service. Requests go to `endpoint`."""

    endpoint: str

    def location(self, prefix: str, endpoint: str | None = None) -> str:
        """An object store in the bucket, below `prefix`."""
        return f"s3://{BUCKET}/{prefix}?region=us-east-1&endpoint={quote(endpoint or self.endpoint, safe='')}"

    def request(
        self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> tuple[int, bytes]:
        """One request as it is, without a client's cleverness; moto checks no signature."""
        connection = http.client.HTTPConnection(self.endpoint.removeprefix("http://"), timeout=30)
        try:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()


class _OneAtATime:
    """moto looks whether an object is there, and then writes it; the real service does both at once."""

    def __init__(self) -> None:
        self._application = DomainDispatcherApplication(create_backend_app)
        self._turn = threading.Lock()

    def __call__(self, environ: dict[str, Any], start_response: Any) -> list[bytes]:
        with self._turn:
            return list(self._application(environ, start_response))


class _Silent(WSGIRequestHandler):
    def log(self, type: str, message: str, *args: object) -> None:  # noqa: A002 - the base class's name
        return


@contextmanager
def service() -> Iterator[Service]:
    """A fresh service with one empty bucket."""
    server = make_server("127.0.0.1", 0, _OneAtATime(), threaded=True, request_handler=_Silent)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        made = Service(f"http://127.0.0.1:{server.server_port}")
        assert made.request("PUT", f"/{BUCKET}")[0] == 200
        yield made
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Keeper(Protocol):
    """Who says what may be done (`s3_guard`)."""

    def admits(self, method: str, path: str, headers: Mapping[str, str]) -> bool: ...

    def hides_what_is_missing(self, headers: Mapping[str, str]) -> bool: ...


@dataclass
class Proxy:
    """In front of a service. `lose` says of a method and a path whether the answer to what was done is dropped.

    What the `keeper` does not admit is forbidden (403). While `down`, requests are refused as by an overloaded service
    (503); each one waits for `hold_seconds` first.
    `seen` holds each request's method, path and status.
    """

    endpoint: str
    lose: Callable[[str, str], bool] = lambda _method, _path: False
    seen: list[tuple[str, str, int]] = field(default_factory=list)
    lost: int = 0
    drop_header: str = ""  # as a service would that does not know it
    down: bool = False
    hold_seconds: float = 0.0
    refused: int = 0
    keeper: Keeper | None = None
    forbidden: list[tuple[str, str]] = field(default_factory=list)


@contextmanager
def proxy(behind: Service) -> Iterator[Proxy]:
    """A proxy that passes everything on."""
    host = behind.endpoint.removeprefix("http://")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _pass_on(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            time.sleep(made.hold_seconds)
            if made.down:
                made.refused += 1
                self._refuse(503)
                return
            headers = {name.lower(): value for name, value in self.headers.items()}
            if made.keeper is not None and not made.keeper.admits(self.command, self.path, headers):
                made.forbidden.append((self.command, self.path))
                self._refuse(403)
                return
            connection = http.client.HTTPConnection(host, timeout=30)
            passed = {name: value for name, value in headers.items() if name != made.drop_header.lower()}
            connection.request(self.command, self.path, body, passed)
            answer = connection.getresponse()
            content = answer.read()
            connection.close()
            made.seen.append((self.command, self.path, answer.status))
            if answer.status == 404 and made.keeper is not None and made.keeper.hides_what_is_missing(headers):
                self._refuse(403)
                return
            if made.lose(self.command, self.path):
                made.lost += 1
                self.close_connection = True
                self.connection.close()
                return
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in {"transfer-encoding", "connection", "content-length"}:
                    self.send_header(name, value)
            length = answer.getheader("Content-Length") if self.command == "HEAD" else str(len(content))
            self.send_header("Content-Length", length or "0")
            self.end_headers()
            self.wfile.write(content)

        def _refuse(self, status: int) -> None:
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = _pass_on  # noqa: N815 - the base class looks for these

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made = Proxy(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield made
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

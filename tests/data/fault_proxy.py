"""A proxy before the S3 server of the tests: throttles, cuts, and lags behind, as real stores do."""

from __future__ import annotations

import http.client
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
NO_KEY = b"<Error><Code>NoSuchKey</Code><Message>The specified key does not exist.</Message></Error>"


class Proxy:
    """What it does wrong, and what was asked of it.

    Attributes:
        faults: for the next ranged `GET` requests, one after the other: `throttle`, `cut`, `short`, or nothing.
        unlisted: base names of objects that listings do not show yet.
        absent: base names of objects that `GET` and `HEAD` do not find yet, and for how many requests each.
        stale: listings that were answered once are answered so again, whatever has changed.
        requests: ranged `GET` requests.
        heads: base names that `HEAD` requests asked for.
    """

    def __init__(self, target: str) -> None:
        self.target = urlsplit(target).netloc
        self.faults: list[str] = []
        self.unlisted: set[str] = set()
        self.absent: dict[str, int] = {}
        self.stale = False
        self.requests = 0
        self.heads: list[str] = []
        self._listings: dict[str, bytes] = {}
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def address(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def fault_of(self, method: str, path: str, ranged: bool) -> str:
        """Count a request; what is to be done to it."""
        name = unquote(urlsplit(path).path).rpartition("/")[2]
        if method == "HEAD":
            self.heads.append(name)
        self.requests += ranged
        if method in ("GET", "HEAD") and self.absent.get(name, 0) > 0:
            self.absent[name] -= 1
            return "absent"
        return self.faults.pop(0) if ranged and self.faults else ""

    def listing(self, path: str, data: bytes) -> bytes:
        """The answer to a listing, as old as it is to be."""
        if self.stale and path in self._listings:
            return self._listings[path]
        for name in self.unlisted:
            entry = rb"<Contents>\s*<Key>[^<]*/?" + re.escape(name.encode()) + rb"</Key>.*?</Contents>"
            data = re.sub(entry, b"", data, flags=re.DOTALL)
        self._listings[path] = data
        return data


def _handler(proxy: Proxy) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            fault = proxy.fault_of(self.command, self.path, self.command == "GET" and "Range" in self.headers)
            if fault in ("throttle", "absent"):
                self.refuse(*((503, SLOW_DOWN) if fault == "throttle" else (404, NO_KEY)))
                return
            onward = http.client.HTTPConnection(proxy.target)
            onward.request(self.command, self.path, body, dict(self.headers))
            answer = onward.getresponse()
            data = answer.read()
            if self.command == "GET" and "list-type=2" in self.path:
                data = proxy.listing(self.path, data)
            self.send_response(answer.status)
            sent = data[: len(data) // 2] if fault in ("cut", "short") else data
            length = len(sent) if fault == "short" else len(data)
            for name, value in answer.getheaders():
                if name.lower() not in ("content-length", "connection", "transfer-encoding"):
                    self.send_header(name, value)
            length = int(answer.getheader("Content-Length") or 0) if self.command == "HEAD" else length
            self.send_header("Content-Length", str(length))
            self.end_headers()
            self.wfile.write(sent)
            if fault == "cut":
                self.close_connection = True

        def refuse(self, status: int, why: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(why)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(why)

        do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = handle_any

        def log_message(self, *_: object) -> None:
            """Nothing."""

    return Handler

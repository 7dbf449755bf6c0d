"""What lies behind Envoy in the demo: an HTTP server that tells what reached it, and a TCP echo."""

import contextlib
import json
import socketserver
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler

_SHOWN = ("x-user", "x-role", "authorization")


class _Http(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # Envoy keeps its connections
    wbufsize = (
        -1
    )  # headers and body in one packet; in two, the second waits for the first one's acknowledgement

    def _answer(self) -> None:
        self.rfile.read(int(self.headers.get("content-length") or 0))
        body = json.dumps(
            {
                "upstream": f"{self.command} {self.path}",
                "headers": {name: self.headers[name] for name in _SHOWN if name in self.headers},
            }
        ).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = _answer  # noqa: N815 (http.server's)

    def log_message(self, format: str, *args: object) -> None:
        """Silent: the demo shows the requests itself."""


class _Echo(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):
            while data := self.request.recv(4096):
                self.request.sendall(data)


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True


@contextlib.contextmanager
def upstreams() -> Iterator[dict[str, str]]:
    """Both servers on free ports: the addresses by the names of Envoy's clusters."""
    with _Server(("127.0.0.1", 0), _Http) as http, _Server(("127.0.0.1", 0), _Echo) as echo:
        for server in (http, echo):
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        try:
            yield {
                "upstream-http": f"127.0.0.1:{http.server_address[1]}",
                "upstream-tcp": f"127.0.0.1:{echo.server_address[1]}",
            }
        finally:
            for server in (http, echo):
                server.shutdown()

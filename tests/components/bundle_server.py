"""A bundle server: a process of its own that serves a folder's files over HTTP, and may misbehave.

What it does next is in the file `mode` of the folder: `500`, `html` (a page of a proxy's, with status 200), `endless`
(a body without an end), `cut` (half of what was announced); where there is none, it serves.
"""

import contextlib
import sys
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.components.server import Server, connect, free_port, http_call, running, scratch

CHUNK = b"\x1f\x8b" + bytes(65534)


class Handler(SimpleHTTPRequestHandler):
    def do_GET(self) -> None:
        folder = Path(self.directory)
        file, mode = folder / "mode", ""
        with contextlib.suppress(FileNotFoundError):
            mode = file.read_text()
        served = self.path != "/health" and mode
        if self.path == "/health":
            self._head(200, "text/plain", 0)
        elif served == "500":
            self._head(500, "text/plain", 0)
        elif served == "html":
            page = b"<html><body>Please sign in</body></html>"
            self._head(200, "text/html", len(page))
            self.wfile.write(page)
        elif served == "cut":
            whole = (folder / self.path.lstrip("/")).read_bytes()
            self._head(200, "application/gzip", len(whole))
            self.wfile.write(whole[: len(whole) // 2])
            self.close_connection = True
        elif served == "endless":
            self._head(200, "application/gzip", None)
            with contextlib.suppress(OSError):
                while True:
                    self.wfile.write(CHUNK)
        else:
            super().do_GET()

    def _head(self, status: int, kind: str, length: int | None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Nothing."""


class BundleServer(Server):
    """`url` is that of the one bundle, which `serve` exchanges."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.url = f"http://{self.address}/bundle.tar.gz"
        self._served = folder / "served"
        self._served.mkdir()
        super().__init__(
            "bundles",
            [sys.executable, "-m", "tests.components.bundle_server", str(self.port), self._served],
            folder=folder,
            answers=lambda: http_call(connect(self.address), "GET", "/health")[0] == 200,
        )

    def serve(self, bundle: bytes) -> None:
        new = self._served / "new"
        new.write_bytes(bundle)
        new.rename(self._served / "bundle.tar.gz")

    def misbehave(self, mode: str) -> None:
        """See the module; empty: serve."""
        (self._served / "mode").write_text(mode)


@contextlib.contextmanager
def bundle_server(bundle: bytes) -> Iterator[BundleServer]:
    with scratch("bundles") as folder:
        server = BundleServer(folder)
        server.serve(bundle)
        with running(server):
            yield server


if __name__ == "__main__":
    _port, _folder = int(sys.argv[1]), sys.argv[2]

    def _handler(*args: Any) -> Handler:
        return Handler(*args, directory=_folder)

    ThreadingHTTPServer(("127.0.0.1", _port), _handler).serve_forever()

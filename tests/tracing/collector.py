"""A collector of spans, by OTLP over HTTP."""

import contextlib
import http.server
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from mixer.tracing.otlp_pb2 import ExportTraceServiceRequest


@dataclass
class Collector:
    url: str = ""
    status: int = 200
    requests: list[tuple[dict[str, str], ExportTraceServiceRequest]] = field(default_factory=list)
    refused: int = 0

    def spans(self, service: str = "mixer") -> list[Any]:
        return [
            span
            for _, request in list(self.requests)
            for resource in request.resource_spans
            if attributes(resource.resource)["service.name"] == service
            for scope in resource.scope_spans
            for span in scope.spans
        ]


def attributes(told: Any) -> dict[str, Any]:
    return {
        each.key: getattr(each.value, each.value.WhichOneof("value") or "string_value")
        for each in told.attributes
    }


@contextlib.contextmanager
def collector() -> Iterator[Collector]:
    found = Collector()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self._body()
            if found.status == 200:
                assert self.path == "/v1/traces"
                headers = {name.lower(): value for name, value in self.headers.items()}
                found.requests.append((headers, ExportTraceServiceRequest.FromString(body)))
            else:
                found.refused += 1
            self.send_response(found.status)
            self.send_header("content-length", "0")
            self.end_headers()

        def _body(self) -> bytes:
            if (length := self.headers["content-length"]) is not None:
                return self.rfile.read(int(length))
            body = b""
            while size := int(self.rfile.readline(), 16):  # in chunks, as Envoy sends it
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    found.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield found
    finally:
        server.shutdown()
        thread.join()
        server.server_close()

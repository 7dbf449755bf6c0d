"""What a call asks for, by its headers: gRPC over HTTP/2 (https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md)."""

import re
import zlib
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import grpc

from mixer.server.answering import Begin, StatusError
from mixer.server.http2.header_blocks import STATUS_200, Field, added, literal
from mixer.server.listening import MAX_MESSAGE

_TIMEOUT = re.compile(rb"(\d{1,8})([HMSmun])")
_UNITS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_GRPC = re.compile(rb"application/grpc(?:[+;].*)?")
_UPPER = re.compile(rb"[A-Z]")
_OF_CONNECTIONS = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade")
)
_PSEUDO = frozenset((b":method", b":scheme", b":path", b":authority"))
_NEEDED = frozenset((b":method", b":scheme", b":path"))
_TRACE = (b"traceparent", b"tracestate")
_WINDOW_BITS = {b"gzip": 31, b"deflate": 15}  # as zlib wants them
_ENCODINGS = b"identity,deflate,gzip"

_CONTENT_TYPE = (b"content-type", b"application/grpc")
BEGIN = STATUS_200 + literal(*_CONTENT_TYPE)
BEGIN_ADDED = STATUS_200 + added(*_CONTENT_TYPE)
OK = literal(b"grpc-status", b"0")
OK_ADDED = added(b"grpc-status", b"0")

Serve = Callable[[Any], Coroutine[Any, Any, None]]


class Refusal(NamedTuple):
    """How calls end that are not begun, and the header block that says so."""

    error: StatusError
    block: bytes


Shed = Callable[[str, int], Refusal]


@dataclass(frozen=True, slots=True, eq=False)
class Route:
    """A method that is served: unary ones by `begin`, others by `serve`, with the stream. Of unary calls that are not
    begun, `shed` counts those that are refused for a reason, `gave_up` those that their client does not want any more.
    """

    begin: Begin | None = None
    serve: Serve | None = None
    name: str = ""  # of a unary method: "envoy.service.auth.v3.Authorization/Check"
    shed: Shed | None = None
    gave_up: Callable[[int], None] | None = None


class Request(NamedTuple):
    """`refusal`: the header block that answers it instead; `body`: what comes behind, at the end of the request."""

    route: Route | None
    timeout: float | None = None  # seconds
    encoding: bytes = b""  # of compressed messages
    refusal: bytes = b""
    body: bytes = b""
    trace: tuple[tuple[str, str], ...] = ()  # headers of W3C Trace Context


MALFORMED = Request(None)
"""Headers that are no request of HTTP/2, nor trailers."""


def reader(routes: Mapping[bytes, Route]) -> Callable[[list[Field]], Request]:
    """Requests by their headers. `routes`: by path."""

    def read(fields: list[Field]) -> Request:
        headers = dict(fields)
        if not _is_well_formed(fields) or not headers.keys() >= _NEEDED:
            return MALFORMED
        if headers[b":method"] != b"POST":
            return _NO_POST
        if not _GRPC.fullmatch(headers.get(b"content-type", b"")):
            return _NO_GRPC
        route = routes.get(path := headers[b":path"])
        if route is None:
            shown = path[:200].decode("ascii", "backslashreplace")
            return Request(None, refusal=failed(grpc.StatusCode.UNIMPLEMENTED, f"no method {shown}"))
        return _of(route, headers)

    return read


def _of(route: Route, headers: Mapping[bytes, bytes]) -> Request:
    timeout = None
    if (told := headers.get(b"grpc-timeout")) is not None:
        if (match := _TIMEOUT.fullmatch(told)) is None:
            return Request(None, refusal=failed(grpc.StatusCode.INTERNAL, "grpc-timeout is no timeout"))
        timeout = int(match[1]) * _UNITS[match[2]]
    encoding = headers.get(b"grpc-encoding", b"identity")
    if encoding != b"identity" and encoding not in _WINDOW_BITS:
        refusal = failed(grpc.StatusCode.UNIMPLEMENTED, "grpc-encoding is none of those that are accepted")
        return Request(None, refusal=refusal + literal(b"grpc-accept-encoding", _ENCODINGS))
    trace = tuple(
        (name.decode(), headers[name].decode("utf-8", "replace")) for name in _TRACE if name in headers
    )
    return Request(route, timeout, encoding, trace=trace)


def _is_well_formed(fields: list[Field]) -> bool:
    """RFC 9113, sections 8.2 and 8.3."""
    seen: set[bytes] = set()
    for name, value in fields:
        if name[:1] == b":":
            if name not in _PSEUDO or name in seen or len(seen) > len(_PSEUDO):
                return False
            seen.add(name)
            if not value:
                return False
        else:
            seen.update(_PSEUDO)  # none may follow
            if not name or _UPPER.search(name) or name in _OF_CONNECTIONS:
                return False
            if name == b"te" and value != b"trailers":
                return False
    return True


def decompressed(encoding: bytes, data: bytes) -> bytes:
    """A message. Raises `StatusError`."""
    bits = _WINDOW_BITS.get(encoding)
    if bits is None:
        raise StatusError(
            grpc.StatusCode.INTERNAL, "a message is compressed, and grpc-encoding does not say how"
        )
    inflate = zlib.decompressobj(bits)
    try:
        message = inflate.decompress(data, MAX_MESSAGE + 1)
    except zlib.error:
        raise StatusError(
            grpc.StatusCode.INTERNAL, f"a message is not compressed by {encoding.decode()}"
        ) from None
    if len(message) > MAX_MESSAGE:
        raise TOO_LARGE
    if not inflate.eof:
        raise StatusError(grpc.StatusCode.INTERNAL, "a compressed message is not complete")
    return message


def failed(code: grpc.StatusCode, details: str) -> bytes:
    """The header block of an answer without message."""
    return BEGIN + ended(code, details)


def ended(code: grpc.StatusCode, details: str) -> bytes:
    """The trailers that say so."""
    number = str(code.value[0]).encode()
    return literal(b"grpc-status", number) + literal(b"grpc-message", _percent(details))


def _percent(text: str) -> bytes:
    """As gRPC wants a status message: printable ASCII stays."""
    return b"".join(
        b"%c" % byte if 0x20 <= byte <= 0x7E and byte != 0x25 else b"%%%02X" % byte
        for byte in text.encode("utf-8", "replace")
    )


def _http(status: int, body: bytes) -> Request:
    headers = literal(b":status", str(status).encode()) + literal(b"content-type", b"text/plain")
    return Request(None, refusal=headers, body=body)


_NO_POST = _http(405, b"This is a gRPC server: calls are sent with POST.\n")
_NO_GRPC = _http(415, b"This is a gRPC server: calls have content-type application/grpc.\n")

TOO_LARGE = StatusError(grpc.StatusCode.RESOURCE_EXHAUSTED, f"a message may have {MAX_MESSAGE} bytes at most")

"""OTLP over HTTP (https://opentelemetry.io/docs/specs/otlp/#otlphttp): one unary method behind `POST /v1/logs`."""

import asyncio
import contextlib
import zlib
from typing import cast

import grpc
from aiohttp import web
from google.protobuf import json_format
from google.rpc.status_pb2 import Status

from mixer import config
from mixer.metrics import Metrics
from mixer.server.answering import StatusError
from mixer.server.front import Unary
from mixer.server.handlers import Handlers
from mixer.server.listening import MAX_MESSAGE, Kept, PlainListener
from mixer.server.secured import TlsListener
from mixer.telemetry import otlp_json

PATH = "/v1/logs"
SLOW = 10.0  # seconds in which a request must have come whole, and the first on a connection must have begun
MAX_HELD = 64 * 1024 * 1024  # bytes of requests that are read or not answered yet; others are to come again
RETRY_AFTER = "1"  # seconds
# Longer than Envoy keeps a connection (an hour): one that is closed while it is used loses what it brings.
KEEPALIVE = 4000.0

_PROTOBUF, _JSON = "application/x-protobuf", "application/json"
_CODES = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 413,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
}


class RefusedError(Exception):
    """A request that is not one of this door: an HTTP status, and why."""

    def __init__(self, status: int, message: str) -> None:
        self.status = status
        self.message = message
        super().__init__(message)


class OtlpHttpFront:
    """See `Front`. `method` gets and answers protobuf; JSON is made of and into it here. No gRPC, and no health.

    Errors are told as a google.rpc.Status in the request's own form. 503 has a `Retry-After`.
    """

    def __init__(
        self, settings: config.OtlpHttpListener, method: Unary, metrics: Metrics, kept: Kept = None
    ) -> None:
        self.address = settings.address
        self._listener: PlainListener | TlsListener
        if (tls := settings.tls) is None:
            self._listener = PlainListener(self.address, self._connection, kept)
        else:
            self._listener = TlsListener(
                *("otlp_http", self.address, tls, self._connection, metrics),
                protocol="http/1.1",
                kept=kept,
            )
        self._refused = metrics.calls
        self._name = method.name
        self._handlers = Handlers((method,), metrics)
        self._begin = self._handlers.unary(method).begin
        self._held = 0
        self._fresh: dict[object, asyncio.TimerHandle] = {}  # connections on which nothing was asked yet

    async def start(self) -> None:
        app = web.Application()
        app.router.add_route("*", PATH, self._export)
        # Bodies are unpacked here, within their bound.
        self._runner = web.AppRunner(
            app,
            access_log=None,
            handle_signals=False,
            auto_decompress=False,
            keepalive_timeout=KEEPALIVE,
            lingering_time=1.0,
            shutdown_timeout=1.0,
        )
        await self._runner.setup()
        self._new_protocol = cast("web.Server", self._runner.server)
        await self._listener.start()
        self.address = self._listener.address

    async def hand_over(self, timeout: float) -> None:
        """HTTP/1.1 cannot ask clients to leave: a connection ends in `drain`, after an answer."""
        self._listener.pass_on()

    async def drain(self, timeout: float) -> None:
        await self._handlers.drain(timeout / 2)
        await self._listener.close()
        for timer in self._fresh.values():
            timer.cancel()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._runner.cleanup(), timeout / 2)

    def _connection(self) -> asyncio.Protocol:
        protocol = self._new_protocol()

        def close() -> None:
            self._fresh.pop(protocol, None)
            protocol.force_close()

        self._fresh[protocol] = asyncio.get_running_loop().call_later(SLOW, close)
        return protocol

    async def _export(self, request: web.Request) -> web.Response:
        if (timer := self._fresh.pop(request.protocol, None)) is not None:
            timer.cancel()
        kind = request.content_type
        size = min(request.content_length or MAX_MESSAGE, MAX_MESSAGE)
        try:
            if self._held + size > MAX_HELD:
                raise RefusedError(503, "too much is being received; try again")
            self._held += size
            try:
                return await self._answer(request, kind)
            finally:
                self._held -= size
        except RefusedError as error:
            self._refused.labels(self._name, f"HTTP_{error.status}").inc()
            answer = _failure(kind, error.status, 0, error.message)
            answer.force_close()  # what was not read of it is not waited for
            return answer
        except StatusError as error:
            return _failure(kind, _CODES.get(error.code, 500), error.code.value[0], error.details)

    async def _answer(self, request: web.Request, kind: str) -> web.Response:
        if request.method != "POST":
            raise RefusedError(405, "expected POST")
        if kind not in (_PROTOBUF, _JSON):
            raise RefusedError(415, f"content-type: expected {_PROTOBUF} or {_JSON}")
        data = await _body(request)
        if kind == _JSON:
            data = await self._json(data)
        (begun,) = self._begin(((data, None),))
        if isinstance(begun, StatusError):
            raise begun
        answer = begun if isinstance(begun, bytes) else await begun
        return web.Response(body=otlp_json.response(answer) if kind == _JSON else answer, content_type=kind)

    async def _json(self, data: bytes) -> bytes:
        """In a thread: 4 MB of JSON take seconds."""
        try:
            return await asyncio.to_thread(otlp_json.request, data)
        except Exception as error:
            raise self._handlers.failure(self._name, error) from None


async def _body(request: web.Request) -> bytes:
    """The whole body, unpacked. Raises `RefusedError`."""
    encoding = request.headers.get("content-encoding", "identity").lower()
    if encoding not in ("identity", "gzip"):
        raise RefusedError(415, "content-encoding: expected gzip, or none")
    if (request.content_length or 0) > MAX_MESSAGE:
        raise _too_large()
    data = bytearray()
    try:
        async with asyncio.timeout(SLOW):
            async for chunk in request.content.iter_any():
                data += chunk
                if len(data) > MAX_MESSAGE:
                    raise _too_large()
    except TimeoutError:
        raise RefusedError(408, f"the request did not come whole within {SLOW:.0f} s") from None
    except web.RequestPayloadError:
        raise RefusedError(400, "the request's body cannot be read") from None
    return _unpacked(data) if encoding == "gzip" else bytes(data)


def _unpacked(data: bytearray) -> bytes:
    """Raises `RefusedError`, also for what would become larger than a message may be, before it does."""
    unpacking = zlib.decompressobj(wbits=31)  # gzip, and nothing else
    try:
        found = unpacking.decompress(data, MAX_MESSAGE + 1)
    except zlib.error:
        raise RefusedError(400, "the body is no gzip") from None
    if len(found) > MAX_MESSAGE:
        raise _too_large()
    if not unpacking.eof or unpacking.unused_data:
        raise RefusedError(400, "the body is no whole gzip")
    return found


def _too_large() -> RefusedError:
    return RefusedError(413, f"a request may have {MAX_MESSAGE} bytes at most, unpacked too")


def _failure(kind: str, http_status: int, code: int, message: str) -> web.Response:
    status = Status(code=code, message=message)
    as_json = kind == _JSON
    body = json_format.MessageToJson(status, indent=None).encode() if as_json else status.SerializeToString()
    return web.Response(
        status=http_status,
        body=body,
        content_type=_JSON if as_json else _PROTOBUF,
        headers={"Retry-After": RETRY_AFTER} if http_status == 503 else None,
    )

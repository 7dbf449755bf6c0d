"""The native front: pygrpc-native, whose HTTP/2 work runs in Rust beside the event loop. Plaintext; see `secured`.

Unary methods are driven from its low-level events: a call that is answered at once costs no task and no context
object, which halves the price of a cached check (measured beside `pygrpc_native.aio`, one core: 33 against 47 µs for
a constant). Streams and health go through a grpc.aio server behind it, at grpcio's speed.

It takes a message whole before its size can be judged, so listen where only your proxies connect.
"""

import asyncio
import contextlib
import shutil
import tempfile
import threading
from collections.abc import Awaitable
from functools import partial
from typing import Any

import grpc
from grpc import aio
from grpc_health.v1 import health_pb2_grpc
from pygrpc_native import EVENT_CANCEL, NativeGrpcFront

from mixer import config
from mixer.metrics import Metrics
from mixer.server import threads
from mixer.server.front import ClientStream, Methods, Pending, Unary
from mixer.server.handlers import CANCELLED, QUIET, Begin, Handlers, Received, StatusError
from mixer.server.health import Health
from mixer.server.listening import (
    KEEPALIVE,
    KEEPALIVE_TIMEOUT,
    MAX_MESSAGE,
    MAX_METADATA,
    MAX_STREAMS_NATIVE,
    OPTIONS_BEHIND,
    bound,
    cannot_listen,
    refuse_socket_in_use,
)
from mixer.tracing.tracer import Metadata, Span, Tracer

_BATCH = 64  # calls taken from the queue at once; at 100 µs each, the loop is held for 6 ms at most
# Calls begun at once; more make a call hardly cheaper, and the first wait longer for their answer.
_TOGETHER = 16

_TOO_LARGE = StatusError(
    grpc.StatusCode.RESOURCE_EXHAUSTED, f"a message may have {MAX_MESSAGE} bytes at most"
)
_STOPPING = StatusError(grpc.StatusCode.UNAVAILABLE, "the server is shutting down")


class NativeFront:
    """See `Front`."""

    def __init__(
        self, settings: config.Listener, methods: Methods, metrics: Metrics, tracer: Tracer | None = None
    ) -> None:
        self.address = settings.address
        self._tracer = tracer
        self._spans: dict[int, Span] = {}  # of calls that are traced
        self._handlers = Handlers(methods, metrics, tracer)
        self._methods = methods
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._pending: dict[int, Pending[bytes]] = {}
        self._ended = asyncio.Event()  # one of those, while this front drains
        self._stopping = False

    async def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        unary = [method for method in self._methods if isinstance(method, Unary)]
        self._begin: list[Begin] = [self._handlers.unary(method) for method in unary]
        paths = [(f"/{method.service}/{method.name}", False) for method in unary]
        refuse_socket_in_use(self.address)
        try:
            with threads.made_batch():
                self._front = NativeGrpcFront(
                    self.address,
                    paths,
                    io_threads=1,
                    call_details=True,
                    max_concurrent_streams=MAX_STREAMS_NATIVE,
                    max_metadata_size=MAX_METADATA,
                    keepalive_time_ms=KEEPALIVE,
                    keepalive_timeout_ms=KEEPALIVE_TIMEOUT,
                    keepalive_permit_without_calls=True,
                )
        except OSError:
            raise cannot_listen(self.address) from None
        self.address = bound(self.address, self._front.bound_port)
        self._respond = self._front.respond if self._tracer is None else self._traced
        self._paths = [path for path, _ in paths]
        await self._start_behind()
        self._front.start()
        threading.Thread(target=self._dispatch, name="native-dispatch", daemon=True).start()

    async def _start_behind(self) -> None:
        """The grpc.aio server that the front hands all other methods to."""
        self._folder = tempfile.mkdtemp(prefix="mixer-")  # only this user may enter it
        path = f"{self._folder}/behind.sock"
        with threads.made_batch():
            self._behind = aio.server(options=OPTIONS_BEHIND)
        for service, handlers in self._handlers.by_service((ClientStream,)).items():
            self._behind.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
        self._health = Health(dict.fromkeys(method.service for method in self._methods))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._behind)
        self._behind.add_insecure_port(f"unix:{path}")
        await self._health.start()
        await self._behind.start()
        self._front.set_fallback(path)

    async def drain(self, timeout: float) -> None:
        await self._health.drain()
        done = await self._handlers.drain(timeout / 2)
        self._stopping = True
        behind = asyncio.ensure_future(self._behind.stop(timeout / 2))
        end = self._loop.time() + timeout / 2
        if self._tasks:
            _, late = await asyncio.wait(self._tasks.values(), timeout=timeout / 2)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        await self._end_pending(end)
        await behind
        if not done:
            await asyncio.sleep(QUIET)  # the last answers are written, which closing does not wait for
        await asyncio.to_thread(self._front.close)
        shutil.rmtree(self._folder, ignore_errors=True)

    async def _end_pending(self, end: float) -> None:
        """Wait for them until `end`, by the loop's clock; then cancel them."""
        while self._pending and (left := end - self._loop.time()) > 0:
            self._ended.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ended.wait(), left)
        for pending in list(self._pending.values()):
            pending.cancel()
        while self._pending:
            self._ended.clear()
            await self._ended.wait()

    def _dispatch(self) -> None:
        """Of a thread of its own: hands events to the loop until the front is closed."""
        while (events := self._front.recv_batch_details(_BATCH)) is not None:
            try:
                self._loop.call_soon_threadsafe(self._on_events, events)
            except RuntimeError:  # the loop was closed without a drain
                self._front.close()

    def _on_events(self, events: list[tuple[Any, ...]]) -> None:
        """Begin calls, those that arrived together in one go, some at a time."""
        for start in range(0, len(events), _TOGETHER):
            calls: dict[int, list[tuple[int, Received]]] = {}
            cancelled = []
            for kind, call, method, message, _, details in events[start : start + _TOGETHER]:
                if kind == EVENT_CANCEL:
                    cancelled.append(call)
                elif len(message) > MAX_MESSAGE:
                    self._fail(call, _TOO_LARGE)
                elif self._stopping:
                    self._fail(call, _STOPPING)
                else:
                    if self._tracer is not None:
                        self._trace(self._tracer, call, method, details[0])
                    calls.setdefault(method, []).append((call, (message, details[2])))
            for method, received in calls.items():
                self._begin_all(method, received)
            for call in cancelled:
                if self._tracer is not None and (span := self._spans.pop(call, None)) is not None:
                    self._tracer.end(span, None, CANCELLED)
                if (waited := self._tasks.get(call) or self._pending.get(call)) is not None:
                    waited.cancel()

    def _begin_all(self, method: int, received: list[tuple[int, Received]]) -> None:
        begun = self._begin[method]([message for _, message in received])
        for (call, _), answer in zip(received, begun, strict=True):
            if isinstance(answer, bytes):
                self._respond(call, answer)
            elif isinstance(answer, StatusError):
                self._fail(call, answer)
            elif isinstance(answer, Pending):
                self._pending[call] = answer
                answer.then(partial(self._end, call))
            else:
                self._tasks[call] = self._loop.create_task(self._wait(call, answer))

    def _end(self, call: int, result: bytes | BaseException) -> None:
        del self._pending[call]
        if self._stopping:
            self._ended.set()
        if isinstance(result, bytes):
            self._respond(call, result)
        else:  # a client that cancelled is not there to hear it
            self._fail(call, result if isinstance(result, StatusError) else _STOPPING)

    async def _wait(self, call: int, answer: Awaitable[bytes]) -> None:
        try:
            self._respond(call, await answer)
        except StatusError as error:
            self._fail(call, error)
        except asyncio.CancelledError:
            self._fail(call, _STOPPING)  # a client that cancelled is not there to hear it
            raise
        finally:
            del self._tasks[call]

    def _fail(self, call: int, error: StatusError) -> None:
        self._front.fail(call, error.code.value[0], error.details)
        if self._tracer is not None and (span := self._spans.pop(call, None)) is not None:
            self._tracer.end(span, None, error.code.value[0], error.details)

    def _trace(self, tracer: Tracer, call: int, method: int, metadata: Metadata) -> None:
        if (span := tracer.begin(self._paths[method][1:], metadata)) is not None:
            self._spans[call] = span

    def _traced(self, call: int, answer: bytes) -> None:
        """Instead of the front's own `respond`, where calls are traced."""
        self._front.respond(call, answer)
        if self._tracer is not None and (span := self._spans.pop(call, None)) is not None:
            self._tracer.end(span, answer)

"""The contract of `mixer.server.front.Front`, on both servers, over TCP, a Unix socket and TLS."""

import asyncio
import functools
import socket
import time
from collections.abc import AsyncIterator, Awaitable
from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from grpc import StatusCode, aio
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from mixer import config
from mixer.backends import FRONTS
from mixer.errors import (
    CounterError,
    DeadlineError,
    DecisionError,
    MixerError,
    RequestError,
    SinkError,
    StartError,
)
from mixer.metrics import Metrics
from mixer.server.front import Done, Front, Pending
from tests.components.server import scratch
from tests.loop import on_loop
from tests.server.served import (
    PATIENCE,
    Serve,
    Served,
    another,
    echo,
    eventually,
    served,
    stream,
    text,
    unary,
)

LIMIT = 4 * 1024 * 1024  # bytes of a message
ENDED = (
    StatusCode.UNAVAILABLE,
    StatusCode.CANCELLED,
)  # by the server; grpcio says the latter to calls it has begun
SERVING, NOT_SERVING = HealthCheckResponse.SERVING, HealthCheckResponse.NOT_SERVING


@pytest.fixture(params=["asyncio", "grpcio"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=["tcp", "unix", "tls"])
def serve(request: pytest.FixtureRequest, kind: str) -> Serve:
    """`served` for one server and transport."""
    return functools.partial(served, kind, request.param)


class Gate:
    """A unary method that answers "" at once, and anything else only once the gate is open."""

    def __init__(self) -> None:
        self.opened = asyncio.Event()
        self.waiting = 0
        self.cancelled = 0

    def __call__(self, request: StringValue, timeout: float | None) -> bytes | Awaitable[bytes]:
        return echo(request, timeout) if not request.value else self._wait(request)

    async def _wait(self, request: StringValue) -> bytes:
        self.waiting += 1
        try:
            await self.opened.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return request.SerializeToString()


class PendingGate(Gate):
    """The same with answers that need no task."""

    def __call__(self, request: StringValue, timeout: float | None) -> bytes | Awaitable[bytes]:
        if not request.value:
            return echo(request, timeout)
        self.waiting += 1
        return _Held(self, request)


class _Held(Pending):
    def __init__(self, gate: PendingGate, request: StringValue) -> None:
        self._gate = gate
        self._request = request
        self._opened = asyncio.ensure_future(gate.opened.wait())

    def then(self, done: Done) -> None:
        def opened(future: asyncio.Future[Any]) -> None:
            done(asyncio.CancelledError() if future.cancelled() else self._request.SerializeToString())

        self._opened.add_done_callback(opened)

    def cancel(self) -> None:
        self._gate.cancelled += self._opened.cancel()


@pytest.fixture(params=[Gate, PendingGate])
def gate(request: pytest.FixtureRequest) -> Gate:
    made: Gate = request.param()
    return made


class Reader:
    """A client-streaming method that keeps what it was sent."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.ended = False

    async def __call__(self, messages: AsyncIterator[Any]) -> None:
        async for message in messages:
            self.seen.append(message.value)
        self.ended = True


async def status(call: Awaitable[Any]) -> tuple[StatusCode, str]:
    """How a call failed."""
    with pytest.raises(aio.AioRpcError) as raised:
        async with asyncio.timeout(PATIENCE):
            await call
    return raised.value.code(), raised.value.details() or ""


async def health(channel: aio.Channel, service: str = "") -> int:
    answer = await HealthStub(channel).Check(HealthCheckRequest(service=service))
    return int(answer.status)


async def refuses_connections(running: Served) -> bool:
    return (await status(running.call(text(""))))[0] is StatusCode.UNAVAILABLE


# Calls


@on_loop
async def test_call_is_answered_at_once(serve: Serve) -> None:
    async with serve(unary(echo)) as running:
        assert await running.call(text("hello")) == text("hello")


@on_loop
async def test_call_is_answered_later(serve: Serve) -> None:
    gate = Gate()
    async with serve(unary(gate)) as running:
        call = running.call(text("hello"))
        await eventually(lambda: gate.waiting == 1)
        gate.opened.set()
        assert await call == text("hello")


@on_loop
async def test_calls_that_wait_do_not_hold_up_others(serve: Serve) -> None:
    gate = Gate()
    async with serve(unary(gate)) as running:
        channel = running.channel()
        waiting = [running.call(text(str(number)), channel=channel) for number in range(20)]
        await eventually(lambda: gate.waiting == 20)
        assert await running.call(text(""), channel=channel) == text("")
        gate.opened.set()
        assert await asyncio.gather(*waiting) == [text(str(number)) for number in range(20)]


ERRORS: dict[str, tuple[MixerError, StatusCode]] = {
    "request": (RequestError("wrong"), StatusCode.INVALID_ARGUMENT),
    "decision": (DecisionError("undefined", "no decision"), StatusCode.UNAVAILABLE),
    "counter": (CounterError("unavailable", "no counters"), StatusCode.UNAVAILABLE),
    "deadline": (DeadlineError("timeout", "too late"), StatusCode.DEADLINE_EXCEEDED),
    "sink": (SinkError("not meant for a call"), StatusCode.INTERNAL),
}


@pytest.mark.parametrize("later", [False, True], ids=["at once", "later"])
@on_loop
async def test_error_of_ours_becomes_its_status(serve: Serve, later: bool) -> None:
    def fail(request: StringValue, timeout: object) -> bytes | Awaitable[bytes]:
        error, _ = ERRORS[request.value]
        if not later:
            raise error
        return wait(error)

    async def wait(error: MixerError) -> bytes:
        await asyncio.sleep(0)
        raise error

    async with serve(unary(fail)) as running:
        channel = running.channel()
        for name, (error, code) in ERRORS.items():
            before = running.calls("Unary", code.name)
            assert await status(running.call(text(name), channel=channel)) == (code, str(error))
            assert running.calls("Unary", code.name) == before + 1
        assert running.calls("Unary", "OK") == 0


@pytest.mark.parametrize("later", [False, True], ids=["at once", "later"])
@on_loop
async def test_unexpected_exception_is_logged_and_not_told(serve: Serve, later: bool) -> None:
    def fail(request: object, timeout: object) -> bytes | Awaitable[bytes]:
        if not later:
            raise KeyError("of the inside")
        return wait()

    async def wait() -> bytes:
        await asyncio.sleep(0)
        raise KeyError("of the inside")

    async with serve(unary(fail)) as running:
        with capture_logs() as events:
            code, details = await status(running.call())
        assert code is StatusCode.INTERNAL
        assert "inside" not in details
        assert "Error" not in details
        assert "Traceback" not in details
        (event,) = events
        assert (event["event"], event["method"], event["log_level"]) == ("call_failed", "Unary", "error")
        assert repr(event["exc_info"]) == "KeyError('of the inside')"
        assert running.calls("Unary", "INTERNAL") == 1


@on_loop
async def test_malformed_message_is_the_callers_mistake(serve: Serve) -> None:
    async with serve(unary(echo)) as running:
        code, details = await status(running.call(b"\xff\xff\xff"))
        assert code is StatusCode.INVALID_ARGUMENT
        assert "protobuf" in details
        assert running.calls("Unary", "INVALID_ARGUMENT") == 1
        assert await running.call(text("next")) == text("next")


@on_loop
async def test_message_at_the_limit_is_taken_and_above_it_refused(serve: Serve) -> None:
    framing = len(text("x" * (LIMIT - 10))) - (LIMIT - 10)

    def length(request: StringValue, _: float | None) -> bytes:
        return text(str(len(request.value)))

    async with serve(unary(length)) as running:
        channel = running.channel()
        largest = text("x" * (LIMIT - framing))
        assert len(largest) == LIMIT
        assert await running.call(largest, channel=channel) == text(str(LIMIT - framing))
        code, _ = await status(running.call(largest + b"\x00", channel=channel))
        assert code is StatusCode.RESOURCE_EXHAUSTED
        assert await running.call(text(""), channel=channel) == text("0")


@on_loop
async def test_unknown_method_is_unimplemented(serve: Serve) -> None:
    async with serve(unary(echo)) as running:
        code, _ = await status(running.channel().unary_unary("/test.Service/Other")(b""))
        assert code is StatusCode.UNIMPLEMENTED


@on_loop
async def test_handler_sees_the_seconds_left(serve: Serve) -> None:
    seen: list[float | None] = []

    def note(request: object, timeout: float | None) -> bytes:
        seen.append(timeout)
        return b""

    async with serve(unary(note)) as running:
        await running.call(timeout=30)
        await running.call()
        assert seen[0] is not None
        assert 25 < seen[0] < 31  # the client may round it up
        assert seen[1] is None


@on_loop
async def test_call_that_the_client_gives_up_is_cancelled_and_counted(serve: Serve, gate: Gate) -> None:
    async with serve(unary(gate)) as running:
        call = running.call(text("wait"))
        await eventually(lambda: gate.waiting == 1)
        call.cancel()
        await eventually(lambda: running.calls("Unary", "CANCELLED") == 1)
        assert gate.cancelled == 1
        assert running.value("mixer_calls_in_flight", method="Unary") == 0


@on_loop
async def test_call_is_cancelled_when_its_deadline_passes(serve: Serve, gate: Gate) -> None:
    async with serve(unary(gate)) as running:
        code, _ = await status(running.call(text("wait"), timeout=0.2))
        assert code is StatusCode.DEADLINE_EXCEEDED
        await eventually(lambda: running.calls("Unary", "CANCELLED") == 1)
        assert gate.cancelled == 1


# Streams


@on_loop
async def test_stream_is_read_to_its_end(serve: Serve) -> None:
    reader = Reader()
    async with serve(stream(reader)) as running:
        call = running.stream()
        for number in range(100):
            await call.write(text(str(number)))
        await call.done_writing()
        assert await call == b""
        assert reader.seen == [str(number) for number in range(100)]
        await eventually(lambda: running.calls("Stream", "OK") == 1)


@on_loop
async def test_streams_of_many_clients_are_read_together(serve: Serve) -> None:
    reader = Reader()
    async with serve(stream(reader)) as running:
        calls = []
        for number in range(150):
            calls.append(call := running.stream())  # on a connection of its own
            await call.write(text(str(number)))
        async with asyncio.timeout(PATIENCE):
            await eventually(lambda: len(reader.seen) == 150)
        assert running.value("mixer_calls_in_flight", method="Stream") == 150
        for call in calls:
            call.cancel()


@on_loop
async def test_asyncio_front_takes_as_many_streams_of_a_client_as_it_says() -> None:
    reader = Reader()
    async with served("asyncio", "tcp", stream(reader)) as running:
        channel = running.channel()
        calls = []
        for number in range(150):
            calls.append(call := channel.stream_unary("/test.Streams/Stream")())
            await call.write(text(str(number)))
        await eventually(lambda: len(reader.seen) == 150)
        for call in calls:
            call.cancel()


@on_loop
async def test_malformed_message_ends_a_stream_as_the_callers_mistake(serve: Serve) -> None:
    reader = Reader()
    async with serve(stream(reader)) as running:
        call = running.stream()
        await call.write(text("first"))
        await call.write(b"\xff\xff\xff")
        code, _ = await status(call)
        assert code is StatusCode.INVALID_ARGUMENT
        assert reader.seen == ["first"]
        assert running.calls("Stream", "INVALID_ARGUMENT") == 1


@on_loop
async def test_exception_in_a_stream_is_logged_and_not_told(serve: Serve) -> None:
    async def fail(messages: AsyncIterator[Any]) -> None:
        async for _ in messages:
            raise KeyError("of the inside")

    async with serve(stream(fail)) as running:
        with capture_logs() as events:
            call = running.stream()
            await call.write(text("first"))
            code, details = await status(call)
        assert code is StatusCode.INTERNAL
        assert "inside" not in details
        assert [event["event"] for event in events] == ["call_failed"]


@on_loop
async def test_stream_that_the_client_gives_up_is_cancelled_and_counted(serve: Serve) -> None:
    reader = Reader()
    async with serve(stream(reader)) as running:
        call = running.stream()
        await call.write(text("first"))
        await eventually(lambda: reader.seen == ["first"])
        call.cancel()
        await eventually(lambda: running.calls("Stream", "CANCELLED") == 1)
        assert not reader.ended
        assert running.value("mixer_calls_in_flight", method="Stream") == 0


# Health


@on_loop
async def test_health_serves_for_the_server_and_each_service(serve: Serve) -> None:
    async with serve(unary(echo), stream(Reader())) as running:
        channel = running.channel()
        for service in ("", "test.Service", "test.Streams"):
            assert await health(channel, service) == SERVING
        code, _ = await status(health(channel, "test.Unknown"))
        assert code is StatusCode.NOT_FOUND


@on_loop
async def test_watch_is_told_of_the_drain_and_ended(serve: Serve) -> None:
    async with serve(unary(echo)) as running:
        watch = HealthStub(running.channel()).Watch(HealthCheckRequest(service="test.Service"))
        assert (await watch.read()).status == SERVING
        drain = asyncio.create_task(running.drain())
        async with asyncio.timeout(PATIENCE):
            assert (await watch.read()).status == NOT_SERVING
            assert await watch.read() is aio.EOF
        await drain


# Drain


@on_loop
async def test_drain_answers_the_call_in_flight_and_new_ones_meanwhile(serve: Serve) -> None:
    gate = Gate()
    async with serve(unary(gate)) as running:
        call = running.call(text("in flight"))
        await eventually(lambda: gate.waiting == 1)
        channel = running.channel()
        assert await health(channel) == SERVING
        drain = asyncio.create_task(running.drain())
        async with asyncio.timeout(PATIENCE):
            while await health(channel) == SERVING:
                await asyncio.sleep(0.005)
        assert await running.call(text(""), channel=channel) == text("")  # on a connection it has
        assert await running.call(text("")) == text("")  # and on a new one
        assert not drain.done()
        gate.opened.set()
        assert await call == text("in flight")
        await drain
        assert await refuses_connections(running)


@on_loop
async def test_drain_answers_calls_for_as_long_as_they_keep_coming(serve: Serve) -> None:
    async with serve(unary(echo)) as running:
        channel = running.channel()
        await running.call(channel=channel)
        drain = asyncio.create_task(running.drain(PATIENCE))
        until = time.monotonic() + 0.5

        async def keep_calling() -> None:
            while time.monotonic() < until:
                assert await running.call(text("more"), channel=channel) == text("more")

        await asyncio.gather(*(keep_calling() for _ in range(4)))
        assert not drain.done()
        start = time.monotonic()
        await drain
        assert time.monotonic() - start < PATIENCE / 2


@on_loop
async def test_drain_ends_though_calls_keep_coming(serve: Serve) -> None:
    async with serve(unary(echo)) as running:
        channel = running.channel()

        async def call_until_refused() -> StatusCode:
            while True:
                try:
                    await running.call(channel=channel)
                except aio.AioRpcError as error:
                    return error.code()

        await running.call(channel=channel)
        start = time.monotonic()
        calling = asyncio.create_task(call_until_refused())
        await running.drain(1.0)
        assert 0.4 < time.monotonic() - start < PATIENCE / 2
        assert await calling in ENDED


@on_loop
async def test_idle_front_drains_at_once(serve: Serve) -> None:
    async with serve(unary(echo)) as running:
        await running.call()
        start = time.monotonic()
        await running.drain(PATIENCE)
        assert time.monotonic() - start < PATIENCE / 2
        assert await refuses_connections(running)


@on_loop
async def test_drain_takes_no_longer_than_allowed_when_a_call_hangs(serve: Serve, gate: Gate) -> None:
    async with serve(unary(gate)) as running:
        call = running.call(text("hangs"))
        await eventually(lambda: gate.waiting == 1)
        start = time.monotonic()
        await running.drain(0.6)
        assert 0.5 < time.monotonic() - start < PATIENCE / 2
        code, _ = await status(call)
        assert code in ENDED
        await eventually(lambda: gate.cancelled == 1)


@on_loop
async def test_call_that_ends_in_the_second_half_of_a_drain_is_answered(serve: Serve, gate: Gate) -> None:
    async with serve(unary(gate)) as running:
        call = running.call(text("slow"))
        await eventually(lambda: gate.waiting == 1)
        drain = asyncio.create_task(running.drain(1.2))
        asyncio.get_running_loop().call_later(0.8, gate.opened.set)
        assert await call == text("slow")
        await drain


@on_loop
async def test_drain_ends_a_quiet_stream_with_ok(serve: Serve) -> None:
    reader = Reader()
    async with serve(stream(reader)) as running:
        call = running.stream()
        await call.write(text("first"))
        await eventually(lambda: reader.seen == ["first"])
        await running.drain()
        assert reader.ended
        assert await call == b""
        assert await call.code() is StatusCode.OK
        assert running.calls("Stream", "OK") == 1


@on_loop
async def test_drain_reads_what_is_still_on_its_way(serve: Serve) -> None:
    taken = asyncio.Semaphore(0)
    seen: list[str] = []

    async def slow(messages: AsyncIterator[Any]) -> None:
        async for message in messages:
            seen.append(message.value)
            await taken.acquire()

    async with serve(stream(slow)) as running:
        call = running.stream()
        for number in range(50):
            await call.write(text(str(number)))
        drain = asyncio.create_task(running.drain())
        for _ in range(50):
            taken.release()
        assert await call == b""
        await drain
        assert seen == [str(number) for number in range(50)]


@on_loop
async def test_drain_takes_no_longer_than_allowed_when_a_stream_never_rests(serve: Serve) -> None:
    reader = Reader()

    async def write(call: Any) -> None:
        try:
            while True:
                await call.write(text("more"))
                await asyncio.sleep(0.01)
        except (aio.AioRpcError, asyncio.InvalidStateError):
            pass  # the stream was ended

    async with serve(stream(reader)) as running:
        writing = asyncio.create_task(write(running.stream()))
        await eventually(lambda: bool(reader.seen))
        start = time.monotonic()
        await running.drain(1.0)
        assert time.monotonic() - start < PATIENCE / 2
        async with asyncio.timeout(PATIENCE):
            await writing


# Handing over


@pytest.mark.parametrize("transport", ["tcp", "unix", "tls"])
@on_loop
async def test_clients_of_a_front_that_hands_over_go_on_at_another_without_a_call_lost(
    transport: str,
) -> None:
    """grpcio's own end cancels calls of clients that come back in between."""
    async with (
        served("asyncio", transport, unary(echo), shared=True) as old,
        another(old, unary(echo)) as new,
    ):
        stop, counts = asyncio.Event(), []

        async def keep_calling(channel: aio.Channel) -> None:
            count = 0
            while not stop.is_set():
                assert await old.call(text("more"), channel=channel, timeout=PATIENCE) == text("more")
                count += 1
            counts.append(count)

        calling = asyncio.gather(
            *(keep_calling(channel) for channel in [old.channel() for _ in range(4)] * 4)
        )
        await eventually(lambda: old.calls("Unary", "OK") + new.calls("Unary", "OK") > 100)
        await old.front.hand_over(PATIENCE)
        await old.drain()
        before = new.calls("Unary", "OK")
        await eventually(lambda: new.calls("Unary", "OK") > before + 100)
        stop.set()
        await calling
        assert sum(counts) == old.calls("Unary", "OK") + new.calls("Unary", "OK")


@on_loop
async def test_hand_over_waits_for_the_call_in_flight_and_no_longer_than_allowed(
    serve: Serve, gate: Gate
) -> None:
    async with serve(unary(gate), shared=True) as old:
        call = old.call(text("slow"), timeout=PATIENCE)
        await eventually(lambda: gate.waiting == 1)
        async with another(old, unary(echo)) as new:
            await old.front.hand_over(0.3)
            assert not call.done()
            gate.opened.set()
            assert await call == text("slow")
            assert await new.call(text(""), timeout=PATIENCE) == text("")


# Addresses


def at(kind: str, address: str) -> Front:
    settings = config.Listener.model_validate({"address": address, "server": kind})
    return FRONTS[kind]("check", settings, [unary(echo)], Metrics(CollectorRegistry()))


@pytest.mark.parametrize("second", ["asyncio", "grpcio"])
@on_loop
async def test_address_in_use_is_refused_and_never_shared(serve: Serve, second: str) -> None:
    async with serve(unary(echo)) as running:
        address = running.front.address
        with pytest.raises(StartError, match="cannot listen on") as raised:
            await at(second, address).start()
        assert address in str(raised.value)
        for _ in range(10):
            assert await running.call(text("mine")) == text("mine")


@on_loop
async def test_unix_socket_that_a_killed_process_left_is_replaced(kind: str) -> None:
    with scratch("front") as folder, socket.socket(socket.AF_UNIX) as left:
        path = folder / "front.sock"
        left.bind(str(path))
        left.close()  # nobody listens on it any more, and the file stays
        front = at(kind, f"unix:{path}")
        await front.start()
        async with aio.insecure_channel(front.address) as channel:
            assert await health(channel) == SERVING
        await front.drain(1)


@on_loop
async def test_file_that_is_no_socket_stays(kind: str) -> None:
    with scratch("front") as folder:
        path = folder / "data"
        path.write_text("precious")
        with pytest.raises(StartError, match="cannot listen on"):
            await at(kind, f"unix:{path}").start()
        assert path.read_text() == "precious"


@on_loop
async def test_unix_socket_in_a_folder_that_does_not_exist_is_refused(kind: str) -> None:
    with pytest.raises(StartError, match="its folder must exist"):
        await at(kind, "unix:/nowhere/at/all/front.sock").start()


@on_loop
async def test_port_zero_becomes_the_bound_port(kind: str) -> None:
    async with served(kind, "tcp", unary(echo)) as running:
        host, _, port = running.front.address.rpartition(":")
        assert host == "127.0.0.1"
        assert int(port) > 0


# Metrics


@on_loop
async def test_calls_are_counted_timed_and_shown_in_flight(serve: Serve) -> None:
    gate = Gate()
    async with serve(unary(gate)) as running:
        await running.call(text(""))
        waiting = running.call(text("wait"))
        await eventually(lambda: gate.waiting == 1)
        assert running.value("mixer_calls_in_flight", method="Unary") == 1
        assert running.calls("Unary", "OK") == 1
        await asyncio.sleep(0.1)
        gate.opened.set()
        await waiting
        await eventually(lambda: running.calls("Unary", "OK") == 2)
        assert running.value("mixer_calls_in_flight", method="Unary") == 0
        assert running.value("mixer_call_duration_seconds_count", method="Unary") == 2
        assert 0.1 <= running.value("mixer_call_duration_seconds_sum", method="Unary") < 5


@on_loop
async def test_stream_is_shown_in_flight_until_it_ends(serve: Serve) -> None:
    reader = Reader()
    async with serve(stream(reader)) as running:
        call = running.stream()
        await call.write(text("first"))
        await eventually(lambda: running.value("mixer_calls_in_flight", method="Stream") == 1)
        await call.done_writing()
        await call
        await eventually(lambda: running.value("mixer_calls_in_flight", method="Stream") == 0)

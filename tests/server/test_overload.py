"""More calls than a front can answer: which of them are begun, which are refused, and how soon."""

import asyncio
import time
from collections.abc import Awaitable
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue
from grpc import aio
from structlog.testing import capture_logs

from mixer.errors import CounterError, DecisionError
from mixer.server.http2 import backlog, frames
from mixer.server.http2.alike import alike
from mixer.server.http2.calls import MAX_STREAMS
from mixer.server.http2.frames import (
    DATA,
    END_STREAM,
    HEADERS,
    MAX_FRAME,
    RST_STREAM,
    frame,
)
from tests.loop import on_loop
from tests.server.served import Served, eventually, served, text, unary
from tests.server.test_http2 import Peer, peer, prefixed

COST = 0.005  # seconds of the loop that a call of `Busy` takes
KINDS = ["asyncio", "grpcio"]
OK = "0"


class Busy:
    """A method that has the loop for `COST` seconds, as an evaluation has."""

    def __init__(self, cost: float = COST) -> None:
        self.cost = cost
        self.begun: list[str] = []
        self._took = 0.0

    def __call__(self, request: StringValue, _: float | None) -> bytes:
        start = time.monotonic()
        time.sleep(self.cost)
        self._took += time.monotonic() - start
        self.begun.append(request.value)
        return request.SerializeToString()

    @property
    def mean(self) -> float:
        """Seconds that a call really took."""
        return self._took / len(self.begun)


class Cheap:
    """A connection with calls that cost nothing. See `backlog.Caller`."""

    def __init__(self, calls: int) -> None:
        self.queue = backlog.Queue()
        self.begun = 0
        self._calls = calls

    def begin(self) -> None:
        time.sleep(backlog.SLICE)

    def take(self) -> Any:
        return {"method": (list(range(self._calls)), [(b"", None)] * self._calls)}

    def is_wanted(self, _: int) -> bool:
        return True

    def begin_these(self, _: Any, numbers: list[int], *__: object) -> None:
        self.begun += len(numbers)

    def refuse(self, *_: object) -> None:
        raise AssertionError("none is refused")

    def flush(self) -> None:
        """Nothing is to be written."""


class Held:
    """A method whose calls wait until they are let go."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.begun = 0

    def __call__(self, request: StringValue, _: float | None) -> Awaitable[bytes]:
        self.begun += 1
        return self._wait(request)

    async def _wait(self, request: StringValue) -> bytes:
        await self.go.wait()
        return request.SerializeToString()


async def ended(call: Any) -> tuple[grpc.StatusCode, str]:
    try:
        await call
    except aio.AioRpcError as error:
        return error.code(), error.details() or ""
    return grpc.StatusCode.OK, ""


def shed(running: Served, reason: str) -> float:
    return running.value("mixer_calls_shed_total", method="Unary", reason=reason)


async def results(client: Peer, count: int) -> dict[int, str]:
    """The status of so many calls, by the number of their stream."""
    found: dict[int, str] = {}
    while len(found) < count:
        kind, flags, number, payload = await client.frame()
        if kind == HEADERS:
            fields = dict(client._decoder.decode(payload))
            if flags & END_STREAM:
                found[number] = fields["grpc-status"]
    return found


# Both fronts


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("code", ["UNAVAILABLE", "RESOURCE_EXHAUSTED"])
@on_loop
async def test_call_beyond_the_bound_is_refused_at_once_by_the_code_of_the_settings(
    kind: str, code: str
) -> None:
    method = Held()
    overload = {"max_in_flight": 3, "code": code}
    async with served(kind, "tcp", unary(method), overload=overload) as running:
        channel = running.channel()
        with capture_logs() as logs:
            calls = [asyncio.ensure_future(ended(running.call(text("a"), channel=channel))) for _ in range(5)]
            await eventually(lambda: sum(call.done() for call in calls) == 2)
        refused = [await call for call in calls if call.done()]
        assert refused == [(grpc.StatusCode[code], "overloaded: too many calls wait for their answers")] * 2
        assert method.begun == 3
        assert shed(running, "full") == running.calls("Unary", code) == 2
        assert [entry["event"] for entry in logs] == ["overloaded"]
        method.go.set()
        assert sorted([(await call)[0].name for call in calls]) == ["OK"] * 3 + [code] * 2
        assert (await ended(running.call(text("b"), channel=channel)))[0] is grpc.StatusCode.OK


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("error", [DecisionError, CounterError])
@on_loop
async def test_backend_that_refuses_is_told_by_the_code_of_the_settings(kind: str, error: type) -> None:
    def refuse(_: object, __: float | None) -> bytes:
        raise error("overload", "ten wait already")

    overload = {"code": "RESOURCE_EXHAUSTED"}
    async with served(kind, "tcp", unary(refuse), overload=overload) as running:
        assert await ended(running.call()) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "ten wait already")
        assert shed(running, "backend") == running.calls("Unary", "RESOURCE_EXHAUSTED") == 1


@pytest.mark.parametrize("kind", KINDS)
@on_loop
async def test_call_whose_time_is_over_before_its_turn_is_not_begun(kind: str) -> None:
    method = Busy(0.3)
    async with served(kind, "tcp", unary(method)) as running:
        channel = running.channel()
        await channel.channel_ready()
        calls = [ended(running.call(text(str(n)), timeout=0.2, channel=channel)) for n in range(40)]
        assert {code for code, _ in await asyncio.gather(*calls)} <= {
            grpc.StatusCode.DEADLINE_EXCEEDED,
            grpc.StatusCode.UNAVAILABLE,
        }
        method.cost = 0
        assert (await ended(running.call(text("last"), channel=channel)))[0] is grpc.StatusCode.OK
        # Those that were read together are begun together, and have no more time than the first of them.
        assert len(method.begun) - 1 <= 34


# What the asyncio front reads before it begins anything


@on_loop
async def test_calls_that_are_reset_in_the_same_breath_are_not_begun() -> None:
    method = Busy(0)
    async with served("asyncio", "tcp", unary(method)) as running, peer(running) as client:
        reset = [client.call(n, text("reset")) + frames.rst_stream(n, frames.CANCEL) for n in range(1, 21, 2)]
        client.send(*reset, client.call(21, text("kept")))
        assert (await client.answer(21))[2]["grpc-status"] == OK
        assert method.begun == ["kept"]
        assert running.calls("Unary", "CANCELLED") == 10


@on_loop
async def test_calls_that_are_reset_while_they_wait_for_their_turn_are_not_begun() -> None:
    method = Busy()
    async with served("asyncio", "tcp", unary(method)) as running, peer(running) as client:
        numbers = range(1, 401, 2)
        client.send(*(client.call(n, text(str(n))) for n in numbers))
        client.send(*(frames.rst_stream(n, frames.CANCEL) for n in numbers[100:]))
        client.send(client.call(401, text("last")))
        found = await results(client, 101)
        assert found == {**dict.fromkeys(numbers[:100], OK), 401: OK}
        assert running.calls("Unary", "CANCELLED") == 100
        assert not {str(n) for n in numbers[100:]} & set(method.begun)
        await eventually(lambda: running.value("mixer_calls_waiting", listener="check") == 0)


@on_loop
async def test_one_that_floods_waits_and_others_do_not() -> None:
    method = Busy(0.001)
    async with (
        served("asyncio", "tcp", unary(method)) as running,
        peer(running) as flood,
        peer(running) as modest,
    ):
        flood.send(*(flood.call(n, text("flood")) for n in range(1, 2 * MAX_STREAMS, 2)))
        await eventually(lambda: len(method.begun) > 50)
        modest.send(modest.call(1, text("modest")))
        assert (await modest.answer(1))[2]["grpc-status"] == OK
        assert len(method.begun) < MAX_STREAMS / 2
        assert set((await results(flood, MAX_STREAMS)).values()) == {OK}


@on_loop
async def test_calls_without_deadline_wait_for_their_turn() -> None:
    method = Busy(0.0005)
    async with served("asyncio", "tcp", unary(method)) as running, peer(running) as client:
        client.send(*(client.call(n, b"") for n in range(1, 2 * MAX_STREAMS, 2)))
        assert set((await results(client, MAX_STREAMS)).values()) == {OK}
        assert shed(running, "late") == 0


@on_loop
async def test_at_three_times_the_capacity_as_much_is_answered_in_time_and_the_rest_refused_at_once() -> None:
    """A call takes 4 ms, so 250 a second are what can be answered; 750 come, with 400 ms each."""
    method, seconds, rate, deadline = Dated(0.004), 4.0, 750, 0.4
    async with served("asyncio", "tcp", unary(method)) as running:
        refused = await asyncio.to_thread(lambda: asyncio.run(flood(running, rate, seconds, deadline)))
        in_time = sum(took < deadline for took in method.took)
        # Without refusals none would be after the first 0.4 s. Benchmarks are strict, on a quiet machine.
        assert in_time >= 0.25 * seconds / method.mean
        assert in_time >= 0.5 * len(method.took)
        assert len(refused) >= in_time
        assert shed(running, "late") >= len(refused)
        assert sorted(refused)[len(refused) // 2] < deadline / 2


class Dated(Busy):
    """Messages say when they were sent."""

    def __init__(self, cost: float) -> None:
        super().__init__(cost)
        self.took: list[float] = []  # until the end of the call

    def __call__(self, request: StringValue, timeout: float | None) -> bytes:
        answer = super().__call__(request, timeout)
        self.took.append(time.monotonic() - float(request.value))
        return answer


async def flood(running: Served, rate: float, seconds: float, deadline: float) -> list[float]:
    """Calls at a rate, each given up at its deadline; how long it took until they were refused. In a loop of its own,
    since the front's is busy."""
    sent: dict[int, float] = {}
    refused: list[float] = []

    async def listen(client: Peer) -> None:
        while True:
            kind, flags, number, payload = await client.frame()
            if kind == HEADERS and (fields := dict(client._decoder.decode(payload))) and flags & END_STREAM:
                since = sent.pop(number, None)
                if fields["grpc-status"] != OK and since is not None:
                    refused.append(time.monotonic() - since)

    async with peer(running) as client:
        listening = asyncio.ensure_future(listen(client))
        count, start = 0, time.monotonic()
        while (now := time.monotonic()) - start < seconds + deadline:
            while count < min(seconds, now - start) * rate:
                number = 2 * count + 1
                sent[number] = now
                headers = client.headers(number, grpc_timeout=f"{round(deadline * 1000)}m")
                client.send(headers, frame(DATA, END_STREAM, number, prefixed(text(str(now)))))
                count += 1
            for number in [number for number, since in sent.items() if since < now - deadline]:
                del sent[number]
                client.send(frames.rst_stream(number, frames.CANCEL))
            await asyncio.sleep(0.005)
        listening.cancel()
        return refused


# Peers that mean harm


@on_loop
async def test_messages_that_wait_are_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    bound = 1024 * 1024
    monkeypatch.setattr(backlog, "MAX_BYTES", bound)
    method = Busy(0.01)
    async with served("asyncio", "tcp", unary(method)) as running, peer(running) as client:
        message = text("m" * 15_000)
        client.send(frames.window_update(0, 2**30))
        small, large = range(1, 81, 2), range(81, 481, 2)
        client.send(
            *(client.call(n, text("first")) for n in small), *(client.call(n, message) for n in large)
        )
        found = await results(client, len(small) + len(large))
        refused = {number for number, status in found.items() if status != OK}
        assert len(refused) == shed(running, "full") > 0
        assert (len(large) - len(refused)) * len(message) >= bound / 2
        assert refused <= set(large)


@on_loop
async def test_peer_whose_calls_wait_may_go() -> None:
    method = Busy()
    async with served("asyncio", "tcp", unary(method)) as running:
        async with peer(running) as client:
            client.send(*(client.call(n, b"") for n in range(1, 401, 2)))
            await eventually(lambda: running.value("mixer_calls_waiting", listener="check") > 0)
        await eventually(lambda: running.value("mixer_calls_waiting", listener="check") == 0)
        assert len(method.begun) < 200
        async with peer(running) as other:
            other.send(other.call(1, text("x")))
            assert (await other.answer(1))[2]["grpc-status"] == OK


def test_calls_that_are_alike_are_found_up_to_the_first_that_is_not() -> None:
    block = b"\x83\x86headers"

    def call(
        number: int, size: int = 10, first: bytes = block, last: int = END_STREAM, same: int = 0
    ) -> bytes:
        data = frame(DATA, last, same or number, b"m" * size)
        return frame(HEADERS, frames.END_HEADERS, number, first) + data

    whole = call(5) + call(7, 0) + call(9, MAX_FRAME - 1)
    others = {
        "another block": call(11, first=b"\x83\x86hEaders"),
        "not all": call(11, last=0),
        "another stream's": call(11, same=13),
        "an even number": call(12),
        "no new number": call(9),
        "a reserved bit": call(11 | 1 << 31),
        "cut off": call(11)[:-1],
        "too large": call(11, MAX_FRAME + 1),
        "no data": frame(HEADERS, frames.END_HEADERS, 11, block) + frame(RST_STREAM, 0, 11, b"\0\0\0\x08"),
        "none": b"",
    }
    for name, other in others.items():
        streams, end = alike(b"before" + whole + other, 6, block, 3)
        assert [int.from_bytes(stream, "big") for stream in streams] == [5, 7, 9], name
        assert end == 6 + len(whole), name


@on_loop
async def test_turn_begins_no_more_calls_than_stay_in_the_caches(monkeypatch: pytest.MonkeyPatch) -> None:
    """However little time they take to begin."""
    waiting, caller = (
        backlog.Backlog(asyncio.get_running_loop(), 10_000, lambda: 0),
        Cheap(2 * backlog.MOST + 5),
    )
    waiting.begin(caller)
    assert waiting.is_behind
    monkeypatch.setattr(backlog, "SLICE", 60.0)
    waiting.begin(caller)
    for begun in (backlog.MOST, 2 * backlog.MOST, 2 * backlog.MOST + 5):
        await asyncio.sleep(0)
        assert caller.begun == begun
    assert not waiting.waiting

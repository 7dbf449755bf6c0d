"""HTTP/2 that no client speaks, on both fronts: nothing crashes, memory stays bounded, and others are answered."""

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hpack import Encoder
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    HeadersFrame,
    PingFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from tests.loop import on_loop
from tests.server.served import FRONTS, SERVICE, Served, echo, served, text, unary

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + SettingsFrame(0).serialize()
MOST = 160 * 1024 * 1024  # bytes that one of these may cost, on both sides together; see MAX_STREAMS
CANCEL = 8
CALL = [
    (":method", "POST"),
    (":scheme", "http"),
    (":path", f"/{SERVICE}/Unary"),
    (":authority", "mixer"),
    ("content-type", "application/grpc"),
    ("te", "trailers"),
]


def frame(made: Frame, data: bytes = b"", *flags: str) -> bytes:
    if data:
        made.data = data
    for flag in flags:
        made.flags.add(flag)
    return bytes(made.serialize())


def call(stream: int, encoder: Encoder) -> bytes:
    return frame(HeadersFrame(stream), encoder.encode(CALL), "END_HEADERS")


def message(stream: int, value: str) -> bytes:
    data = text(value)
    framed = b"\0" + len(data).to_bytes(4, "big") + data
    parts = [framed[at : at + 16_000] for at in range(0, len(framed), 16_000)]
    last = parts.pop()
    return b"".join(frame(DataFrame(stream), part) for part in parts) + frame(
        DataFrame(stream), last, "END_STREAM"
    )


def streams(count: int) -> Iterator[int]:
    return iter(range(1, 2 * count, 2))


# Each gives what is sent, in pieces; the server may end the connection at any of them.


def another_protocol() -> Iterator[bytes]:
    yield b"GET / HTTP/1.1\r\nhost: mixer\r\n\r\n" + b"\xff" * 10_000


def frame_larger_than_allowed() -> Iterator[bytes]:
    yield PREFACE + b"\xff\xff\xff\x00\x00\x00\x00\x00\x01"
    for _ in range(1000):
        yield b"x" * 16_384


def headers_larger_than_allowed() -> Iterator[bytes]:
    block = Encoder().encode([*CALL, *((f"x-{number}", "a" * 4000) for number in range(200))])
    yield PREFACE + frame(HeadersFrame(1), block[:16_000])
    for at in range(16_000, len(block), 16_000):
        last = ("END_HEADERS",) if at + 16_000 >= len(block) else ()
        yield frame(ContinuationFrame(1), block[at : at + 16_000], *last)


def headers_that_never_end() -> Iterator[bytes]:
    yield PREFACE + frame(HeadersFrame(1), Encoder().encode(CALL))
    for _ in range(200):
        yield frame(ContinuationFrame(1)) * 1000


def headers_that_unpack_to_megabytes() -> Iterator[bytes]:
    encoder = Encoder()
    yield PREFACE + frame(HeadersFrame(1), encoder.encode([*CALL, ("x", "a" * 3000)]), "END_HEADERS")
    again = encoder.encode([("x", "a" * 3000)])
    assert len(again) == 1  # it is in the table now
    for stream in streams(1000):
        yield frame(HeadersFrame(stream + 2), encoder.encode(CALL) + again * 10_000, "END_HEADERS")


def calls_without_a_message() -> Iterator[bytes]:
    encoder = Encoder()
    yield PREFACE
    yield from (call(stream, encoder) for stream in streams(5000))


def calls_that_are_cancelled_at_once() -> Iterator[bytes]:
    encoder = Encoder()
    yield PREFACE
    for stream in streams(5000):
        yield call(stream, encoder) + frame(RstStreamFrame(stream, error_code=CANCEL))


def calls_whose_answers_nobody_reads() -> Iterator[bytes]:
    encoder = Encoder()
    yield PREFACE + frame(SettingsFrame(0, settings={SettingsFrame.INITIAL_WINDOW_SIZE: 0}))
    for stream in streams(200):
        yield call(stream, encoder) + message(stream, "x" * 50_000)
        yield frame(WindowUpdateFrame(0, window_increment=1))


def data_without_bytes() -> Iterator[bytes]:
    yield PREFACE + call(1, Encoder())
    for _ in range(50):
        yield frame(DataFrame(1)) * 1000


def pings() -> Iterator[bytes]:
    yield PREFACE
    for _ in range(100):
        yield frame(PingFrame(0), b"12345678") * 100


def settings() -> Iterator[bytes]:
    yield PREFACE
    for _ in range(100):
        yield frame(SettingsFrame(0)) * 100


def preface_byte_by_byte() -> Iterator[bytes]:
    for at in range(len(PREFACE) - 10):
        yield PREFACE[at : at + 1]


ATTACKS: list[Callable[[], Iterator[bytes]]] = [
    another_protocol,
    frame_larger_than_allowed,
    headers_larger_than_allowed,
    headers_that_never_end,
    headers_that_unpack_to_megabytes,
    calls_without_a_message,
    calls_that_are_cancelled_at_once,
    calls_whose_answers_nobody_reads,
    data_without_bytes,
    pings,
    settings,
    preface_byte_by_byte,
]


def resident() -> int:
    """Bytes of this process, which has both sides in it."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def connected(running: Served) -> socket.socket:
    host, _, port = running.front.address.rpartition(":")
    return socket.create_connection((host, int(port)), 5)


def send(connection: socket.socket, attack: Callable[[], Iterator[bytes]]) -> None:
    """All of it, or until the server ends the connection, or takes no more. Nothing is read."""
    connection.settimeout(1)
    with contextlib.suppress(OSError):
        for piece in attack():
            connection.sendall(piece)


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("kind", FRONTS)
@on_loop
async def test_others_are_answered_during_and_after(kind: str, attack: Callable[[], Iterator[bytes]]) -> None:
    async with served(kind, "tcp", unary(echo)) as running:
        channel = running.channel()
        assert await running.call(text("before"), 10, channel) == text("before")
        before = resident()
        with connected(running) as connection:
            sending = asyncio.get_running_loop().run_in_executor(None, send, connection, attack)
            while not sending.done():
                assert await running.call(text("during"), 20, channel) == text("during")
                await asyncio.sleep(0.01)
            await sending
            assert await running.call(text("new"), 5) == text("new")  # on a connection of its own
            assert resident() - before < MOST
        assert await running.call(text("after"), 5, channel) == text("after")


@pytest.mark.parametrize("kind", FRONTS)
@on_loop
async def test_connections_that_say_nothing_hold_up_nobody(kind: str) -> None:
    async with served(kind, "tcp", unary(echo)) as running:
        with contextlib.ExitStack() as stack:
            for _ in range(100):
                stack.enter_context(connected(running))
            assert await running.call(text("hello"), 5) == text("hello")

"""The asyncio front against clients that are not gRPC's libraries: what HTTP/2 allows, and what it does not."""

import asyncio
import contextlib
import gzip
import random
import subprocess
from collections.abc import AsyncIterator, Awaitable, Iterator, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import hpack
import pytest
from google.protobuf.wrappers_pb2 import StringValue
from hypothesis import given, settings
from hypothesis import strategies as st

from mixer.server.front import Messages
from mixer.server.http2 import frames
from mixer.server.http2.calls import MAX_PARTIAL, MAX_STREAMS
from mixer.server.http2.frames import (
    ACK,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PING,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    ConnectionFault,
    frame,
)
from mixer.server.http2.header_blocks import MAX_LIST, Decoder
from mixer.server.http2.turns import MESSAGE, TURN
from tests.components import binaries
from tests.loop import on_loop
from tests.server.served import PATIENCE, SERVICE, Served, echo, eventually, served, stream, text, unary

FIELDS = [
    (":method", "POST"),
    (":scheme", "http"),
    (":path", f"/{SERVICE}/Unary"),
    (":authority", "mixer"),
    ("te", "trailers"),
    ("content-type", "application/grpc"),
]

# Priorities are no part of HTTP/2 any more (RFC 9113, 5.3.2), and calls of gRPC have no content-length.
KNOWN_TO_DIFFER = {
    "Sends HEADERS frame that depend on itself",
    "Sends PRIORITY frame that depend on itself",
    'Sends a HEADERS frame with the "content-length" header field which does not equal the DATA frame payload length',
    'Sends a HEADERS frame with the "content-length" header field which does not equal the sum of the multiple DATA '
    "frames payload length",
}


def prefixed(message: bytes, compressed: bool = False) -> bytes:
    return bytes((compressed,)) + len(message).to_bytes(4, "big") + message


class Peer:
    """A client that says what it is told to."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer
        self.encoder = hpack.Encoder()
        self._decoder = hpack.Decoder()

    def send(self, *parts: bytes) -> None:
        self.writer.write(b"".join(parts))

    def headers(self, number: int, flags: int = END_HEADERS, **more: str) -> bytes:
        fields = FIELDS + [(name.replace("_", "-"), value) for name, value in more.items()]
        return frame(HEADERS, flags, number, self.encoder.encode(fields))

    def call(self, number: int, message: bytes) -> bytes:
        return self.headers(number) + frame(DATA, END_STREAM, number, prefixed(message))

    async def frame(self) -> tuple[int, int, int, bytes]:
        """Type, flags, stream and payload of the next frame that is not about settings or windows."""
        async with asyncio.timeout(PATIENCE):
            while True:
                head = await self._reader.readexactly(9)
                payload = await self._reader.readexactly(int.from_bytes(head[:3], "big"))
                if head[3] not in (SETTINGS, frames.WINDOW_UPDATE):
                    return head[3], head[4], int.from_bytes(head[5:], "big"), payload

    async def answer(self, number: int) -> tuple[dict[str, str], bytes, dict[str, str]]:
        """Headers, data and trailers of a stream, which the next frames must belong to."""
        blocks: list[dict[str, str]] = []
        data = b""
        while True:
            kind, flags, stream_number, payload = await self.frame()
            assert stream_number == number
            if kind == HEADERS:
                blocks.append(dict(self._decoder.decode(payload)))
            else:
                assert kind == DATA
                data += payload
            if flags & END_STREAM:
                return blocks[0], data, blocks[-1]

    async def ping(self) -> bytes:
        """What the next frame, a PING, asks to be sent back."""
        kind, flags, _, payload = await self.frame()
        assert (kind, flags) == (PING, 0)
        return payload

    async def goaway(self) -> int:
        """The code by which the server ends the connection; and it does."""
        while True:
            kind, _, _, payload = await self.frame()
            if kind == GOAWAY:
                async with asyncio.timeout(PATIENCE):
                    assert await self._reader.read() == b""
                return int.from_bytes(payload[4:8], "big")


@contextlib.asynccontextmanager
async def peer(
    running: Served, hello: bytes = PREFACE + frames.settings({}) + frame(SETTINGS, ACK, 0)
) -> AsyncIterator[Peer]:
    host, _, port = running.front.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(hello)
    try:
        yield Peer(reader, writer)
    finally:
        writer.transport.abort()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


class Reader:
    def __init__(self) -> None:
        self.seen: list[str] = []

    async def __call__(self, messages: Messages) -> None:
        async for message in messages:
            self.seen.append(message.value)


# The protocol


@on_loop
async def test_front_conforms_to_http2(tmp_path: Path) -> None:
    report = tmp_path / "report.xml"
    async with served("asyncio", "tcp", unary(echo)) as running:
        host, _, port = running.front.address.rpartition(":")
        command = (str(binaries.h2spec()), "-h", host, "-p", port, "-o", "2", "-j", str(report))
        run = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=False)
        cases = list(ElementTree.parse(report).iter("testcase"))
    failed = {
        case.get("classname")
        for case in cases
        if case.find("failure") is not None or case.find("error") is not None
    }
    assert len(cases) >= 145, run.stdout
    assert failed == KNOWN_TO_DIFFER


@on_loop
async def test_message_may_come_in_any_pieces() -> None:
    async with served("asyncio", "tcp", unary(echo)) as running, peer(running) as client:
        data = prefixed(text("a" * 50_000))
        pieces = [data[at : at + 16_000] for at in range(0, len(data), 16_000)]
        client.send(
            client.headers(1), *(frame(DATA, 0, 1, piece) for piece in pieces), frame(DATA, END_STREAM, 1)
        )
        _, answer, trailers = await client.answer(1)
        assert answer == data
        assert trailers["grpc-status"] == "0"


@on_loop
async def test_bytes_may_come_one_by_one() -> None:
    async with served("asyncio", "tcp", unary(echo)) as running, peer(running, b"") as client:
        for byte in PREFACE + frames.settings({}) + client.call(1, text("slow")):
            client.send(bytes((byte,)))
            await client.writer.drain()
            await asyncio.sleep(0)
        assert (await client.answer(1))[1] == prefixed(text("slow"))


@on_loop
async def test_headers_may_be_continued_and_padded() -> None:
    async with served("asyncio", "tcp", unary(echo)) as running, peer(running) as client:
        block = client.encoder.encode(FIELDS)
        client.send(
            frame(
                HEADERS, frames.PADDED | frames.HAS_PRIORITY, 1, b"\x03" + b"\0" * 5 + block[:10] + b"\0" * 3
            ),
            frame(frames.CONTINUATION, 0, 1, block[10:20]),
            frame(frames.CONTINUATION, END_HEADERS, 1, block[20:]),
            frame(DATA, END_STREAM | frames.PADDED, 1, b"\x04" + prefixed(text("x")) + b"\0" * 4),
        )
        assert (await client.answer(1))[1] == prefixed(text("x"))


@on_loop
@pytest.mark.parametrize(("encoding", "pack"), [("gzip", gzip.compress), ("identity", None)])
async def test_message_may_be_compressed(encoding: str, pack: Any) -> None:
    async with served("asyncio", "tcp", unary(echo)) as running, peer(running) as client:
        message = text("a" * 1000)
        sent = prefixed(pack(message), compressed=True) if pack else prefixed(message)
        client.send(client.headers(1, grpc_encoding=encoding), frame(DATA, END_STREAM, 1, sent))
        assert (await client.answer(1))[1] == prefixed(message)


@on_loop
async def test_message_that_grows_beyond_the_limit_when_it_is_unpacked_is_refused() -> None:
    async with served("asyncio", "tcp", unary(echo)) as running, peer(running) as client:
        bomb = gzip.compress(b"\0" * (64 * 1024 * 1024))
        data = prefixed(bomb, compressed=True)
        pieces = [frame(DATA, 0, 1, data[at : at + 16_384]) for at in range(0, len(data), 16_384)]
        client.send(client.headers(1, grpc_encoding="gzip"), *pieces, frame(DATA, END_STREAM, 1))
        assert (await client.answer(1))[2]["grpc-status"] == "8"


@on_loop
async def test_answer_waits_for_the_clients_window() -> None:
    hello = PREFACE + frames.settings({frames.INITIAL_WINDOW_SIZE: 10})
    async with served("asyncio", "tcp", unary(echo)) as running, peer(running, hello) as client:
        message = prefixed(text("a" * 50))
        client.send(client.call(1, text("a" * 50)), client.call(3, text("")))
        found = [await client.frame() for _ in range(5)]
        assert [(kind, number, len(payload)) for kind, _, number, payload in found if kind == DATA] == [
            (DATA, 1, 10),
            (DATA, 3, 5),
        ]
        client.send(frames.window_update(1, 1000))
        rest = await client.frame()
        assert (rest[0], rest[2], rest[3]) == (DATA, 1, message[10:])
        assert (await client.frame())[1] & END_STREAM


@on_loop
async def test_each_answer_can_be_read_when_headers_are_compressed_with_a_table() -> None:
    async with served("asyncio", "tcp", unary(echo)) as running, peer(running) as client:
        for number in range(1, 21, 2):
            client.send(client.call(number, text(str(number))))
            headers, answer, trailers = await client.answer(number)
            assert headers[":status"] == "200"
            assert headers["content-type"] == "application/grpc"
            assert answer == prefixed(text(str(number)))
            assert trailers["grpc-status"] == "0"


@on_loop
async def test_client_without_a_header_table_can_read_the_answers() -> None:
    hello = PREFACE + frames.settings({frames.HEADER_TABLE_SIZE: 0})
    async with served("asyncio", "tcp", unary(echo)) as running, peer(running, hello) as client:
        client._decoder.max_allowed_table_size = 0
        for number in (1, 3, 5):
            client.send(client.call(number, text("x")))
            assert (await client.answer(number))[2]["grpc-status"] == "0"


@on_loop
async def test_who_speaks_http_and_no_grpc_is_told_so() -> None:
    async with served("asyncio", "tcp", unary(echo)) as running, peer(running) as client:
        fields = [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "mixer")]
        client.send(frame(HEADERS, END_HEADERS | END_STREAM, 1, client.encoder.encode(fields)))
        headers, body, _ = await client.answer(1)
        assert headers[":status"] == "405"
        assert body == b"This is a gRPC server: calls are sent with POST.\n"


@on_loop
async def test_status_message_of_any_text_comes_through() -> None:
    def fail(_: StringValue, __: float | None) -> bytes:
        from mixer.errors import RequestError

        raise RequestError("größer\n100 %")

    async with served("asyncio", "tcp", unary(fail)) as running, peer(running) as client:
        client.send(client.call(1, text("x")))
        assert (await client.answer(1))[2]["grpc-message"] == "gr%C3%B6%C3%9Fer%0A100 %25"


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.lists(
            st.tuples(
                st.sampled_from([b"x-a", b"x-bb", b":path", b"traceparent", b"te"]),
                st.sampled_from([b"", b"trailers", b"/a/B"]) | st.binary(max_size=40),
            ),
            max_size=6,
        ),
        max_size=12,
    ),
    st.lists(st.sampled_from([0, 50, 4096]), max_size=12),
    st.booleans(),
)
def test_header_blocks_are_read_as_the_library_writes_them(
    lists: list[list[tuple[bytes, bytes]]], sizes: list[int], huffman: bool
) -> None:
    encoder = hpack.Encoder()
    decoder = Decoder(list)
    for number, fields in enumerate(lists):
        if number < len(sizes):
            encoder.header_table_size = sizes[number]
        block = encoder.encode(fields, huffman=huffman)
        known = decoder.known(block)
        assert (decoder.read(block) if known is None else known) == fields


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60))
def test_header_blocks_of_any_bytes_are_read_or_refused(block: bytes) -> None:
    with contextlib.suppress(ConnectionFault):
        Decoder(lambda fields: fields).read(block)


@on_loop
@pytest.mark.parametrize("path", ["/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"])
async def test_health_asked_with_no_message_of_its_kind_is_the_callers_mistake(path: str) -> None:
    async with served("asyncio", "tcp", unary(echo)) as running, peer(running) as client:
        fields = [(name, path if name == ":path" else value) for name, value in FIELDS]
        client.send(frame(HEADERS, END_HEADERS, 1, client.encoder.encode(fields)))
        client.send(frame(DATA, END_STREAM, 1, prefixed(b"\xff\xff")))
        assert (await client.answer(1))[2]["grpc-status"] == "3"


@on_loop
async def test_health_that_fails_ends_the_call_and_tells_nothing_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def fail(*_: object) -> None:
        raise ValueError("inner")

    monkeypatch.setattr("mixer.server.health.Health.Check", fail)
    async with served("asyncio", "tcp", unary(echo)) as running, peer(running) as client:
        fields = [
            (name, "/grpc.health.v1.Health/Check" if name == ":path" else value) for name, value in FIELDS
        ]
        client.send(frame(HEADERS, END_HEADERS, 1, client.encoder.encode(fields)))
        client.send(frame(DATA, END_STREAM, 1, prefixed(b"")))
        trailers = (await client.answer(1))[2]
        assert (trailers["grpc-status"], trailers["grpc-message"]) == ("13", "internal error; the log has it")


# Hostile clients


async def answers_others(running: Served) -> None:
    assert await running.call(text("hello")) == text("hello")


@on_loop
@pytest.mark.parametrize(
    ("hello", "code"),
    [
        (b"GET / HTTP/1.1\r\nHost: mixer\r\n\r\n", frames.PROTOCOL_ERROR),
        (random.Random(0).randbytes(64), frames.PROTOCOL_ERROR),
        (PREFACE + frame(PING, 0, 0, b"12345678"), frames.PROTOCOL_ERROR),
    ],
)
async def test_who_does_not_greet_as_http2_does_is_sent_away(hello: bytes, code: int) -> None:
    async with served("asyncio", "tcp", unary(echo)) as running, peer(running, hello) as client:
        assert await client.goaway() == code
        await answers_others(running)


@on_loop
async def test_silent_connection_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mixer.server.http2.connection.GREETING", 0.05)
    async with served("asyncio", "tcp", unary(echo)) as running, peer(running, PREFACE[:5]) as client:
        with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
            await client.frame()


@on_loop
async def test_headers_without_end_are_cut_off() -> None:
    async with served("asyncio", "tcp", unary(echo)) as running, peer(running) as client:
        client.send(frame(HEADERS, 0, 1, b"\0" * 100))
        for _ in range(MAX_LIST // 16_000 + 1):
            client.send(frame(frames.CONTINUATION, 0, 1, b"\0" * 16_000))
        assert await client.goaway() == frames.ENHANCE_YOUR_CALM
        await answers_others(running)


@on_loop
async def test_headers_that_unpack_to_more_than_the_limit_are_refused() -> None:
    async with served("asyncio", "tcp", unary(echo)) as running, peer(running) as client:
        first = client.encoder.encode([("x-large", "a" * 3000)])
        client.send(frame(HEADERS, END_HEADERS, 1, first + b"\xbe" * 10_000))
        assert await client.goaway() == frames.ENHANCE_YOUR_CALM


@on_loop
async def test_streams_beyond_the_limit_are_refused_and_the_others_answered() -> None:
    gate = asyncio.Event()

    async def wait(request: StringValue) -> bytes:
        await gate.wait()
        return request.SerializeToString()

    def call(request: StringValue, _: float | None) -> Awaitable[bytes]:
        return wait(request)

    async with served("asyncio", "tcp", unary(call)) as running, peer(running) as client:
        for number in range(MAX_STREAMS + 1):
            client.send(client.call(2 * number + 1, b""))
        kind, _, number, payload = await client.frame()
        assert (kind, number) == (RST_STREAM, 2 * MAX_STREAMS + 1)
        assert int.from_bytes(payload, "big") == frames.REFUSED_STREAM
        await eventually(lambda: running.value("mixer_calls_in_flight", method="Unary") == MAX_STREAMS)
        gate.set()
        assert (await client.answer(1))[2]["grpc-status"] == "0"


@on_loop
async def test_calls_that_are_reset_at_once_are_cancelled() -> None:
    cancelled = 0

    async def wait() -> bytes:
        nonlocal cancelled
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled += 1
            raise
        return b""

    def call(_: StringValue, __: float | None) -> Awaitable[bytes]:
        return wait()

    async with served("asyncio", "tcp", unary(call)) as running, peer(running) as client:
        for number in range(1, 10_001, 2):
            client.send(client.call(number, b""), frames.rst_stream(number, frames.CANCEL))
            if number % 200 == 1:
                await client.writer.drain()
        client.send(frame(PING, 0, 0, b"afterall"))
        assert (await client.frame())[3] == b"afterall"
        await eventually(lambda: running.value("mixer_calls_in_flight", method="Unary") == 0)
        assert running.calls("Unary", "CANCELLED") == 5000


@on_loop
async def test_messages_that_are_never_complete_are_bounded() -> None:
    async with served("asyncio", "tcp", unary(echo)) as running, peer(running) as client:
        piece = (4 * 1024 * 1024).to_bytes(4, "big").rjust(5, b"\0") + b"\0" * 16_000
        number = 1
        for _ in range(MAX_PARTIAL // len(piece) + 1):
            client.send(client.headers(number), frame(DATA, 0, number, piece))
            number += 2
            if number > 2 * MAX_STREAMS:
                break
        # A thousand streams of 16 kB: what is beyond the bound is refused, by its stream.
        client.send(client.headers(number), frame(DATA, END_STREAM, number, prefixed(text("x"))))
        codes = set()
        while True:
            kind, flags, at, payload = await client.frame()
            if at == number:
                break
            if kind == HEADERS and flags & END_STREAM:
                codes.add(dict(client._decoder.decode(payload))["grpc-status"])
        assert codes <= {"8"}
        await answers_others(running)


@on_loop
async def test_peer_that_does_not_read_is_read_no_more() -> None:
    async with served("asyncio", "tcp", unary(echo)) as running, peer(running) as client:
        client.send(frames.window_update(0, 2**30))
        message = text("a" * 16_000)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(2):
                for number in range(1, 20_001, 2):
                    client.send(client.call(number, message))
                    await client.writer.drain()
        assert running.calls("Unary", "OK") < 5000  # 80 MB of answers would lie in memory
        await answers_others(running)


@on_loop
async def test_stream_whose_handler_does_not_read_is_held_by_its_window() -> None:
    gate = asyncio.Event()

    async def read(messages: Messages) -> None:
        await gate.wait()
        async for _ in messages:
            pass

    async with served("asyncio", "tcp", unary(echo), stream(read)) as running, peer(running) as client:
        fields = [(n, "/test.Streams/Stream" if n == ":path" else v) for n, v in FIELDS]
        client.send(frame(HEADERS, END_HEADERS, 1, client.encoder.encode(fields)))
        piece = frame(DATA, 0, 1, prefixed(text("a" * 16_000)))
        with contextlib.suppress(OSError):
            for _ in range(1000):
                client.send(piece)
                await client.writer.drain()
            assert await client.goaway() == frames.FLOW_CONTROL_ERROR
        await answers_others(running)


@on_loop
async def test_what_a_client_begins_before_it_hears_of_the_end_is_answered() -> None:
    async with served("asyncio", "tcp", unary(echo)) as running, peer(running) as client:
        client.send(client.call(1, text("before")))
        assert (await client.answer(1))[1] == prefixed(text("before"))
        drain = asyncio.create_task(running.drain())
        client.send(frame(PING, ACK, 0, await client.ping()))
        kind, _, _, payload = await client.frame()
        assert (kind, payload) == (GOAWAY, frames.MAX_WINDOW.to_bytes(4, "big") + bytes(4))
        payload = await client.ping()
        client.send(client.call(3, text("on its way")))
        assert (await client.answer(3))[1] == prefixed(text("on its way"))
        assert not drain.done()
        client.send(frame(PING, ACK, 0, payload))
        last = await client.ping()
        client.send(client.call(5, text("begun before")))  # Envoy writes it after the answer to a PING
        assert (await client.answer(5))[1] == prefixed(text("begun before"))
        assert not drain.done()
        client.send(client.call(7, text("and the last")), frame(PING, ACK, 0, last))
        assert (await client.answer(7))[1] == prefixed(text("and the last"))
        assert await client.goaway() == frames.NO_ERROR
        await drain


@on_loop
@pytest.mark.parametrize("says_so", [True, False])
async def test_no_answer_comes_between_what_a_client_has_read_and_that_it_is_to_leave(says_so: bool) -> None:
    """Envoy loses what it begins between an answer and a GOAWAY that come together. Nor does an answer wait long for a
    client that does not say what it has read."""
    called = []

    def answer(request: StringValue, _: float | None) -> bytes:
        called.append(request.value)
        return request.SerializeToString()

    async with served("asyncio", "tcp", unary(answer)) as running, peer(running) as client:
        client.send(client.call(1, text("before")))
        await client.answer(1)
        drain = asyncio.create_task(running.drain())
        clear = await client.ping()
        client.send(client.call(3, text("meanwhile")))
        await eventually(lambda: "meanwhile" in called)
        if says_so:
            client.send(frame(PING, ACK, 0, clear))
        assert (await client.frame())[0] == GOAWAY
        await client.ping()
        assert (await client.answer(3))[1] == prefixed(text("meanwhile"))
        await drain


@on_loop
async def test_client_that_does_not_hear_of_the_end_is_not_waited_for() -> None:
    async with served("asyncio", "tcp", unary(echo)) as running, peer(running) as client:
        client.send(client.call(1, text("before")))
        await client.answer(1)
        await asyncio.wait_for(running.drain(2 * PATIENCE), PATIENCE)


def streamed(client: Peer, number: int, messages: Sequence[str]) -> bytes:
    """A call of the streaming method, whole."""
    fields = [(name, "/test.Streams/Stream" if name == ":path" else value) for name, value in FIELDS]
    data = b"".join(prefixed(text(message)) for message in messages)
    return b"".join(
        [
            frame(HEADERS, END_HEADERS, number, client.encoder.encode(fields)),
            *(
                frame(DATA, 0, number, data[at : at + frames.MAX_FRAME])
                for at in range(0, len(data), frames.MAX_FRAME)
            ),
            frame(DATA, END_STREAM, number, b""),
        ]
    )


@on_loop
async def test_streams_take_turns_also_where_all_that_they_sent_is_here() -> None:
    reader = Reader()
    async with served("asyncio", "tcp", stream(reader)) as running, peer(running) as client:
        for number, name in ((1, "a"), (3, "b")):
            client.send(streamed(client, number, 100 * [1000 * name]))
        await eventually(lambda: len(reader.seen) == 200)
        assert {*reader.seen[:100]} == {1000 * "a", 1000 * "b"}


@on_loop
@pytest.mark.parametrize("size", [0, 1000, TURN])
async def test_handler_is_told_which_messages_are_here_in_its_turn(size: int) -> None:
    """`TURN` bytes of them, where small ones count more than they are."""
    turns = [0]

    async def read(messages: Messages) -> None:
        async for _ in messages:
            turns[-1] += 1
            if not messages.is_ready:
                turns.append(0)

    async with served("asyncio", "tcp", stream(read)) as running, peer(running) as client:
        client.send(streamed(client, 1, 100 * [size * "a"]))
        await client.answer(1)
    most = -(-TURN // (len(text(size * "a")) + MESSAGE))
    assert sum(turns) == 100
    assert max(turns) == min(most, 100)


@on_loop
async def test_ping_is_answered() -> None:
    async with served("asyncio", "tcp", unary(echo)) as running, peer(running) as client:
        client.send(frame(PING, 0, 0, b"12345678"))
        assert await client.frame() == (PING, ACK, 0, b"12345678")


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_any_frames_end_in_an_answer_or_a_goaway(data: st.DataObject) -> None:
    kinds = st.integers(0, 12)
    made = data.draw(
        st.lists(
            st.tuples(kinds, st.integers(0, 255), st.integers(0, 9), st.binary(max_size=30)), max_size=12
        )
    )

    async def scenario() -> None:
        async with served("asyncio", "tcp", unary(echo), stream(Reader())) as running:
            async with peer(running) as client:
                client.send(*(frame(*each) for each in made), frame(PING, 0, 0, b"the end!"))
                with contextlib.suppress(asyncio.IncompleteReadError, ConnectionResetError):
                    while (await client.frame())[3] != b"the end!":
                        pass
            await answers_others(running)

    on_loop(scenario)()


@pytest.fixture(autouse=True)
def no_error_is_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    yield
    assert not [record for record in caplog.records if record.levelname == "ERROR"]

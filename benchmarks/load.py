"""Unary gRPC load whose every call is another message: h2load sends one body, so it cannot.

`python -m benchmarks.load rate|pace ADDRESS METHOD FILE CALLS IN_FLIGHT|RATE` runs as a process of its own, pinned by
the caller.
It speaks just enough HTTP/2 (RFC 9113) to keep up with a fast server: requests are frames made beforehand, and
of an answer it reads the frame headers, and that a message came.
"""

import select
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.harness import LOAD_CPU, BenchmarkError, call

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 4, 6, 7, 8
END_STREAM, END_HEADERS, ACK = 1, 4, 1
WINDOW = 2**31 - 1
STREAMS = 64  # of one connection, as of one Envoy under load
_HEAD = struct.Struct(">HBBBI").unpack_from  # of a frame: its length in 24 bits, type, flags and stream


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def header_block(method: str, authority: str, timeout: str = "") -> bytes:
    """HPACK (RFC 7541) without dynamic table: indexed :method POST and :scheme http, the rest literal. `timeout`: as
    grpc-timeout has it, "200m"."""

    def literal(name: str, value: str) -> bytes:
        return b"\x00" + b"".join(bytes((len(text),)) + text for text in (name.encode(), value.encode()))

    return b"\x83\x86" + b"".join(
        literal(name, value)
        for name, value in (
            (":path", method),
            (":authority", authority),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
            ("grpc-timeout", timeout),
        )
        if value
    )


class Connection:
    """One HTTP/2 connection that calls one method."""

    def __init__(self, address: str, method: str) -> None:
        host, port = address.rsplit(":", 1)
        self._address = address
        self._block = header_block(method, address)
        self._buffer = bytearray()
        self.sent = self.answered = self.with_message = 0
        self.socket = socket.create_connection((host, int(port)))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        settings = frame(SETTINGS, 0, 0, b"\x00\x04" + WINDOW.to_bytes(4, "big"))
        self.socket.sendall(
            PREFACE + settings + frame(WINDOW_UPDATE, 0, 0, (WINDOW - 65535).to_bytes(4, "big"))
        )

    def made(self, messages: Sequence[bytes], calls: int) -> list[bytes]:
        """What `begin` sends for each of the first `calls` calls, the messages in turn: made beforehand, since the load
        shares its core with what the server asks."""
        return [self._frames(number, messages[number % len(messages)]) for number in range(calls)]

    def _frames(self, number: int, message: bytes) -> bytes:
        """The n-th call of a connection is stream 2n + 1."""
        stream = 2 * number + 1
        body = b"\0" + len(message).to_bytes(4, "big") + message
        return frame(HEADERS, END_HEADERS, stream, self._block) + frame(DATA, END_STREAM, stream, body)

    def send(self, messages: Iterable[bytes]) -> None:
        """Begin a call for each message."""
        self.begin([self._frames(number, message) for number, message in enumerate(messages, self.sent)])

    def begin(self, calls: Sequence[bytes]) -> None:
        """Begin the next calls, as they were made."""
        self.sent += len(calls)
        if calls:
            self.socket.sendall(b"".join(calls))

    def receive(self) -> list[int]:
        """Read once; the numbers of the calls that ended. Raises BenchmarkError when the server hangs up."""
        if not (data := self.socket.recv(1 << 18)):
            raise BenchmarkError(f"{self._address} closed the connection after {self.answered} answers")
        buffer = self._buffer
        buffer += data
        ended, at = [], 0
        size = len(buffer)
        while size - at >= 9:
            high, low, kind, flags, stream = _HEAD(buffer, at)
            end = at + 9 + (high << 8 | low)
            if end > size:
                break
            if kind == HEADERS and flags & END_STREAM:
                ended.append(stream // 2)
            elif kind == DATA:
                self.with_message += end - at > 14
            elif kind == SETTINGS and not flags & ACK:
                self.socket.sendall(frame(SETTINGS, ACK, 0, b""))
            elif kind == PING and not flags & ACK:
                self.socket.sendall(frame(PING, ACK, 0, bytes(buffer[at + 9 : end])))
            elif kind == GOAWAY:
                raise BenchmarkError(f"{self._address} refused the connection after {self.answered} answers")
            at = end
        del buffer[:at]
        self.answered += len(ended)
        return ended

    def close(self) -> None:
        """Raises BenchmarkError if an answer was an error."""
        self.socket.close()
        if self.with_message < self.answered:
            raise BenchmarkError(
                f"{self.answered - self.with_message} of {self.answered} answers were errors"
            )


def drive(address: str, method: str, messages: Sequence[bytes], calls: int, in_flight: int) -> float:
    """Calls per second, with `STREAMS` in flight on a connection at most. Raises BenchmarkError for an answer without a
    message."""
    count = -(-in_flight // STREAMS)
    connections = [Connection(address, method) for _ in range(count)]
    share, streams = -(-calls // count), in_flight // count
    made = {
        connection: connection.made([*messages[place:], *messages[:place]], share)
        for connection, place in zip(
            connections, range(0, len(messages), -(-len(messages) // count)), strict=True
        )
    }
    by_socket = {connection.socket: connection for connection in connections}
    ready = connections
    start = time.perf_counter()
    while by_socket:
        for connection in ready:
            connection.begin(made[connection][connection.sent : connection.answered + streams])
        ready = [by_socket[sock] for sock in select.select(list(by_socket), [], [])[0]]
        for connection in ready:
            connection.receive()
            if connection.answered == share:
                del by_socket[connection.socket]
    seconds = time.perf_counter() - start
    for connection in connections:
        connection.close()
    return share * count / seconds


def pace(address: str, method: str, messages: Sequence[bytes], calls: int, rate: int) -> tuple[float, float]:
    """Median and 99th percentile, in µs, of the time from when a call was due to its answer, at `rate` calls/s."""
    connection = Connection(address, method)
    made = connection.made(messages, calls)
    took = [0.0] * calls
    start = time.perf_counter()
    while connection.answered < calls:
        now = time.perf_counter() - start
        due = min(calls, int(now * rate) + 1)
        connection.begin(made[connection.sent : due])
        until_next = (connection.sent / rate - now) if connection.sent < calls else 1.0
        if select.select([connection.socket], [], [], max(0.0, until_next))[0]:
            ended = connection.receive()
            now = time.perf_counter() - start
            for number in ended:
                took[number] = now - number / rate
    connection.close()
    took.sort()
    return took[calls // 2] * 1e6, took[calls * 99 // 100] * 1e6


def distinct(
    address: str, method: str, messages: Sequence[bytes], *, calls: int, in_flight: int = 64
) -> float:
    """Calls per second of a unary method, the messages sent in turn, after a look at one answer and a warm-up."""
    runs = [("rate", count, in_flight) for count in (calls // 10, calls)]
    return _in_processes(address, method, messages, runs)[-1][0]


def latencies(
    address: str, method: str, messages: Sequence[bytes], *, calls: int, rate: int
) -> tuple[float, float]:
    """Median and 99th percentile in µs at `rate` calls per second, after a look at one answer and a warm-up."""
    runs = [("pace", count, rate) for count in (calls // 10, calls)]
    median, late = _in_processes(address, method, messages, runs)[-1]
    return median, late


def _in_processes(
    address: str, method: str, messages: Sequence[bytes], runs: Iterable[tuple[str, int, int]]
) -> list[list[float]]:
    call(address, method, messages[0])
    with kept(messages) as file:
        return [_run(address, method, file, *run) for run in runs]


@contextmanager
def kept(messages: Iterable[bytes]) -> Iterator[str]:
    """The path of a file from which a process of its own reads them: `read`."""
    with tempfile.NamedTemporaryFile() as file:
        for message in messages:
            file.write(len(message).to_bytes(4, "big") + message)
        file.flush()
        yield file.name


def _run(address: str, method: str, file: str, how: str, calls: int, number: int) -> list[float]:
    arguments = (how, address, method, file, str(calls), str(number))
    command = (sys.executable, "-m", "benchmarks.load", *arguments)
    done = subprocess.run(
        ("taskset", "-c", str(LOAD_CPU), *command), capture_output=True, text=True, timeout=300, check=False
    )
    if done.returncode:
        raise BenchmarkError(done.stderr.strip().splitlines()[-1])
    return [float(figure) for figure in done.stdout.split()]


def read(file: str) -> list[bytes]:
    content = Path(file).read_bytes()
    messages, at = [], 0
    while at < len(content):
        size = int.from_bytes(content[at : at + 4], "big")
        messages.append(content[at + 4 : at + 4 + size])
        at += 4 + size
    return messages


def main() -> None:
    how, address, method, file, calls, number = sys.argv[1:]
    messages = read(file)
    if how == "pace":
        print(*pace(address, method, messages, int(calls), int(number)))
    else:
        print(drive(address, method, messages, int(calls), int(number)))


if __name__ == "__main__":
    main()

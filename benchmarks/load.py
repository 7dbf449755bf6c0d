"""Unary gRPC load whose every call is another message: h2load sends one body, so it cannot.

`python -m benchmarks.load ADDRESS METHOD FILE CALLS IN_FLIGHT` runs as a process of its own, pinned by the caller.
It speaks just enough HTTP/2 (RFC 9113) to keep up with a fast server: requests are frames made beforehand, and
of an answer it reads the frame headers, and that a message came.
"""

import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.harness import LOAD_CPU, BenchmarkError, call

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 4, 6, 7, 8
END_STREAM, END_HEADERS, ACK = 1, 4, 1
WINDOW = 2**31 - 1


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def header_block(method: str, authority: str) -> bytes:
    """HPACK (RFC 7541) without dynamic table: indexed :method POST and :scheme http, the rest literal."""

    def literal(name: str, value: str) -> bytes:
        return b"\x00" + b"".join(bytes((len(text),)) + text for text in (name.encode(), value.encode()))

    return b"\x83\x86" + b"".join(
        literal(name, value)
        for name, value in (
            (":path", method),
            (":authority", authority),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
        )
    )


def drive(address: str, method: str, messages: Sequence[bytes], calls: int, in_flight: int) -> float:
    """Calls per second over one connection. Raises BenchmarkError for an answer without a message."""
    host, port = address.rsplit(":", 1)
    block = header_block(method, address)
    bodies = [b"\0" + len(message).to_bytes(4, "big") + message for message in messages]
    with socket.create_connection((host, int(port))) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        settings = frame(SETTINGS, 0, 0, b"\x00\x04" + WINDOW.to_bytes(4, "big"))
        connection.sendall(
            PREFACE + settings + frame(WINDOW_UPDATE, 0, 0, (WINDOW - 65535).to_bytes(4, "big"))
        )
        sent = answered = with_message = 0
        buffer = bytearray()
        start = time.perf_counter()
        while answered < calls:
            batch = []
            while sent < calls and sent - answered < in_flight:
                stream = 2 * sent + 1
                batch.append(frame(HEADERS, END_HEADERS, stream, block))
                batch.append(frame(DATA, END_STREAM, stream, bodies[sent % len(bodies)]))
                sent += 1
            if batch:
                connection.sendall(b"".join(batch))
            if not (data := connection.recv(1 << 18)):
                raise BenchmarkError(f"{address} closed the connection after {answered} answers")
            buffer += data
            at = 0
            while len(buffer) - at >= 9:
                end = at + 9 + int.from_bytes(buffer[at : at + 3], "big")
                if end > len(buffer):
                    break
                kind, flags = buffer[at + 3], buffer[at + 4]
                if kind == HEADERS and flags & END_STREAM:
                    answered += 1
                elif kind == DATA:
                    with_message += end - at > 14
                elif kind == SETTINGS and not flags & ACK:
                    connection.sendall(frame(SETTINGS, ACK, 0, b""))
                elif kind == PING and not flags & ACK:
                    connection.sendall(frame(PING, ACK, 0, bytes(buffer[at + 9 : end])))
                elif kind == GOAWAY:
                    raise BenchmarkError(f"{address} refused the connection after {answered} answers")
                at = end
            del buffer[:at]
        seconds = time.perf_counter() - start
    if with_message < calls:
        raise BenchmarkError(f"{calls - with_message} of {calls} answers were errors")
    return calls / seconds


def distinct(
    address: str, method: str, messages: Sequence[bytes], *, calls: int, in_flight: int = 64
) -> float:
    """Calls per second of a unary method, the messages sent in turn, after a look at one answer and a warm-up."""
    call(address, method, messages[0])
    with tempfile.NamedTemporaryFile() as file:
        for message in messages:
            file.write(len(message).to_bytes(4, "big") + message)
        file.flush()
        rates = [_run(address, method, file.name, count, in_flight) for count in (calls // 10, calls)]
    return rates[-1]


def _run(address: str, method: str, file: str, calls: int, in_flight: int) -> float:
    command = (sys.executable, "-m", "benchmarks.load", address, method, file, str(calls), str(in_flight))
    done = subprocess.run(
        ("taskset", "-c", str(LOAD_CPU), *command), capture_output=True, text=True, timeout=300, check=False
    )
    if done.returncode:
        raise BenchmarkError(done.stderr.strip().splitlines()[-1])
    return float(done.stdout)


def main() -> None:
    address, method, file, calls, in_flight = sys.argv[1:]
    content = Path(file).read_bytes()
    messages, at = [], 0
    while at < len(content):
        size = int.from_bytes(content[at : at + 4], "big")
        messages.append(content[at + 4 : at + 4 + size])
        at += 4 + size
    print(drive(address, method, messages, int(calls), int(in_flight)))


if __name__ == "__main__":
    main()

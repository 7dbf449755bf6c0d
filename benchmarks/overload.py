"""Three times the load that Mixer can take, from callers that give up after 200 ms, as Envoy does.

First the capacity: a closed loop, 64 calls in flight. Then calls come at three times that rate whatever is answered,
over `CONNECTIONS` connections; whoever has no answer in time resets its stream. Goodput is what was answered in time, a
second; refusals are no answers. The load has a core of its own, which Redis shares.

`python -m benchmarks.overload ADDRESS METHOD FILE RATE SECONDS DEADLINE_MS` is the load, as a process of its own.
"""

import select
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks import check, quota
from benchmarks.harness import LOAD_CPU, SERVER_CPU, BenchmarkError, Row
from benchmarks.load import (
    ACK,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PING,
    PREFACE,
    SETTINGS,
    WINDOW,
    WINDOW_UPDATE,
    distinct,
    frame,
    header_block,
    kept,
    read,
)
from tests.components import processes

CONNECTIONS = 16
TIMES = 3
DEADLINE = 200  # ms; Envoy's own of ext_authz
SECONDS, WARM = 6.0, 1.5  # of a run; of which the first are not counted
MOST_STREAMS = 1000  # of a connection; the server says 1,024
RST_STREAM, CANCEL = 3, (8).to_bytes(4, "big")


class Seen(NamedTuple):
    """What became of calls, each a second."""

    offered: float
    in_time: float
    late: float  # answered after the caller had given up
    refused: float
    given_up: float  # without an answer
    slowest: float  # ms, the longest turn of the load's own loop: much of its deadlines, and it is no measure


class Caller:
    """One connection that calls, and gives up."""

    def __init__(self, address: str, method: str, deadline: float) -> None:
        host, port = address.rsplit(":", 1)
        block = header_block(method, address, f"{round(deadline * 1000)}m")
        self._before = len(block).to_bytes(3, "big") + bytes((HEADERS, END_HEADERS))
        self._block = block
        self._deadline = deadline
        self._begun: list[float] = []  # when, by number
        self._done = bytearray()
        self._has_message = bytearray()
        self._oldest = 0  # that may still be waited for
        self._buffer = b""
        self._unsent = b""
        self.open = 0
        self.took: list[
            tuple[float, float]
        ] = []  # of answers with a message: when their call was begun, and how long
        self.refused: list[float] = []  # when their call was begun
        self.given_up: list[float] = []
        self.socket = socket.create_connection((host, int(port)))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        settings = frame(SETTINGS, 0, 0, b"\x00\x04" + WINDOW.to_bytes(4, "big"))
        window = frame(WINDOW_UPDATE, 0, 0, (WINDOW - 65535).to_bytes(4, "big"))
        self.socket.sendall(PREFACE + settings + window)
        self.socket.setblocking(False)

    @property
    def begun(self) -> Sequence[float]:
        return self._begun

    def call(self, bodies: Sequence[bytes], now: float) -> None:
        """Begin calls, and give up those that have waited too long."""
        parts: list[bytes] = []
        number = len(self._begun)
        for body in bodies:
            stream = (2 * number + 1).to_bytes(4, "big")
            parts += (self._before, stream, self._block, body[:5], stream, body[5:])
            number += 1
        self.open += len(bodies)
        self._begun += [now] * len(bodies)
        self._done += bytes(len(bodies))
        self._has_message += bytes(len(bodies))
        due = now - self._deadline
        while self._oldest < len(self._begun) and self._begun[self._oldest] < due:
            if not self._done[self._oldest]:
                self._done[self._oldest] = 2
                self.open -= 1
                self.given_up.append(self._begun[self._oldest])
                parts.append(frame(RST_STREAM, 0, 2 * self._oldest + 1, CANCEL))
            self._oldest += 1
        self._send(b"".join(parts))

    def _send(self, data: bytes) -> None:
        """What the server does not read waits here, as in Envoy."""
        data = self._unsent + data
        try:
            sent = self.socket.send(data) if data else 0
        except BlockingIOError:
            sent = 0
        self._unsent = data[sent:]

    def receive(self) -> None:
        """Raises BenchmarkError when the server hangs up."""
        if not (data := self.socket.recv(1 << 18)):
            raise BenchmarkError("the server closed the connection")
        now = time.perf_counter()
        data = self._buffer + data
        at, size = 0, len(data)
        begun, done = self._begun, self._done
        while size - at >= 9:
            length = data[at] << 16 | data[at + 1] << 8 | data[at + 2]
            if (end := at + 9 + length) > size:
                break
            kind, flags = data[at + 3], data[at + 4]
            number = int.from_bytes(data[at + 5 : at + 9], "big") // 2
            if kind == DATA:
                self._has_message[number] = 1
            elif kind == HEADERS:
                if flags & END_STREAM:
                    if self._has_message[number]:
                        self.took.append((begun[number], now - begun[number]))
                    elif not done[number]:
                        self.refused.append(begun[number])
                    if not done[number]:
                        done[number] = 1
                        self.open -= 1
            elif kind == SETTINGS and not flags & ACK:
                self._send(frame(SETTINGS, ACK, 0, b""))
            elif kind == PING and not flags & ACK:
                self._send(frame(PING, ACK, 0, data[at + 9 : end]))
            elif kind == GOAWAY:
                raise BenchmarkError(f"the server refused the connection: {data[at + 17 : end]!r}")
            at = end
        self._buffer = data[at:]


def flood(
    address: str, method: str, messages: Sequence[bytes], rate: float, seconds: float, deadline: float
) -> Seen:
    """Calls at a rate, whatever becomes of them."""
    callers = [Caller(address, method, deadline) for _ in range(CONNECTIONS)]
    by_socket = {caller.socket: caller for caller in callers}
    bodies = [
        (len(message) + 5).to_bytes(3, "big") + bytes((DATA, END_STREAM))
        + b"\0" + len(message).to_bytes(4, "big") + message
        for message in messages
    ]  # fmt: skip
    sent, slowest = 0, 0.0
    start = now = time.perf_counter()
    while (elapsed := now - start) < seconds + 2 * deadline:
        due = int(min(elapsed, seconds) * rate)
        share = -(-(due - sent) // CONNECTIONS)
        for caller in callers:
            count = max(0, min(share, MOST_STREAMS - caller.open))
            at = sent % len(bodies)
            caller.call(bodies[at : at + count], now)
            sent += min(count, len(bodies) - at)
        for ready in select.select(list(by_socket), [], [], 0.001)[0]:
            by_socket[ready].receive()
        slowest = max(slowest, time.perf_counter() - now)
        now = time.perf_counter()
    first, last = start + WARM, start + seconds

    def rated(times: Iterator[float]) -> float:
        return sum(first <= begun < last for begun in times) / (last - first)

    return Seen(
        rated(begun for caller in callers for begun in caller.begun),
        rated(begun for caller in callers for begun, took in caller.took if took <= deadline),
        rated(begun for caller in callers for begun, took in caller.took if took > deadline),
        rated(begun for caller in callers for begun in caller.refused),
        rated(begun for caller in callers for begun in caller.given_up),
        slowest * 1000,
    )


def flooded(address: str, method: str, messages: Sequence[bytes], rate: float) -> Seen:
    """`flood`, in a process on the load's core."""
    with kept(messages) as file:
        arguments = (address, method, file, str(rate), str(SECONDS), str(DEADLINE))
        command = ("taskset", "-c", str(LOAD_CPU), sys.executable, "-m", "benchmarks.overload", *arguments)
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode:
        raise BenchmarkError(done.stderr.strip().splitlines()[-1])
    return Seen(*map(float, done.stdout.split()))


def run(runs: int) -> list[Row]:
    rows: list[Row] = []
    traffic = check.Traffic()
    messages = traffic.distinct()
    with check.serving(check.JWT_POLICY, traffic.data) as mixer:
        work = "Check, embedded, JWT policy, distinct inputs"
        rows.append(_compared(runs, work, lambda: _pair(mixer.check, check.METHOD, messages)))
    with tempfile.TemporaryDirectory() as folder, processes.redis(cpu=LOAD_CPU) as redis:
        limits = Path(folder) / "limits.yaml"
        limits.write_text(quota.FAR)
        with processes.mixer(quota.settings(limits, redis), cpu=SERVER_CPU) as mixer:
            work = "Quota, Redis, two descriptors, 1,000 users"
            rows.append(_compared(runs, work, lambda: _pair(mixer.check, quota.METHOD, quota.requests())))
    return rows


def _pair(address: str, method: str, messages: Sequence[bytes]) -> tuple[float, Seen]:
    capacity = distinct(address, method, messages, calls=40_000)
    return capacity, flooded(address, method, messages, TIMES * capacity)


def _compared(runs: int, work: str, pair: Callable[[], tuple[float, Seen]]) -> Row:
    pairs = [pair() for _ in range(runs)]
    for capacity, seen in pairs:
        told = ", ".join(f"{name.replace('_', ' ')} {value:,.0f}" for name, value in seen._asdict().items())
        print(f"  {work}: capacity {capacity:,.0f}/s; {told}", flush=True)
    offered = statistics.median(seen.offered / capacity for capacity, seen in pairs)
    return Row(
        f"{work}, offered {offered:.1f} times the capacity, given up after {DEADLINE} ms: answered in time",
        "calls/s",
        tuple(seen.in_time for _, seen in pairs),
        "its capacity, in a closed loop",
        tuple(capacity for capacity, _ in pairs),
        at_least=0.8,
    )


def main() -> None:
    address, method, file, rate, seconds, deadline = sys.argv[1:]
    print(*flood(address, method, read(file), float(rate), float(seconds), float(deadline) / 1000))


if __name__ == "__main__":
    main()

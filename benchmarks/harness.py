"""What all benchmarks share: a row of the result, pinning, load, and a look at one answer before any load.

The server that is measured has one core for itself (`SERVER_CPU`); the load, Redis and Kafka have the other.
Ours and the peer run in turns, so that a machine that slows down slows both.
"""

import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc

SERVER_CPU = 0
LOAD_CPU = 1


class BenchmarkError(Exception):
    """A benchmark cannot run, or what it measured is not what it is meant to measure."""


@dataclass(frozen=True, slots=True)
class Row:
    """One result. Figures are one a run; rates are better when higher, `at_most` is for sizes.

    A target is either a ratio to the peer (`at_least`, or for times `at_most_ratio`) or a bound in `unit` (`at_most`).
    """

    work: str  # "Check, embedded, JWT policy over 1,000 users"
    unit: str  # "calls/s"
    ours: tuple[float, ...]
    peer: str | None = None  # what ran beside it: "grpc.server, 4 threads, a constant answer"
    peers: tuple[float, ...] = ()
    at_least: float | None = None
    at_most_ratio: float | None = None
    at_most: float | None = None

    @property
    def ratio(self) -> float | None:
        """The median of ours to the median of the peer's."""
        return statistics.median(self.ours) / statistics.median(self.peers) if self.peers else None

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None without one."""
        if self.at_least is not None:
            return self.ratio is not None and self.ratio >= self.at_least
        if self.at_most_ratio is not None:
            return self.ratio is not None and self.ratio <= self.at_most_ratio
        if self.at_most is not None:
            return statistics.median(self.ours) <= self.at_most
        return None


def in_turns(
    runs: int, ours: Callable[[], float], peer: Callable[[], float]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Run ours and the peer `runs` times, in turns; every other turn the peer goes first."""
    figures: dict[Callable[[], float], list[float]] = {ours: [], peer: []}
    for turn in range(runs):
        for work in (ours, peer) if turn % 2 == 0 else (peer, ours):
            figures[work].append(work())
    return tuple(figures[ours]), tuple(figures[peer])


@contextmanager
def baseline(module: str) -> Iterator[str]:
    """The address of a server to compare with, `python -m module`, on the server's core."""
    command = ("taskset", "-c", str(SERVER_CPU), sys.executable, "-m", module)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


def call(address: str, method: str, message: bytes, timeout: float = 5) -> bytes:
    """One unary call by a real gRPC client: `method` is "/package.Service/Method", messages are serialised.

    Raises BenchmarkError unless the status is OK: h2load sees HTTP statuses only, and an error is 200 to it.
    """
    with grpc.insecure_channel(address) as channel:
        try:
            ask = channel.unary_unary(method, bytes, bytes)
            answer: bytes = ask(message, timeout=timeout, wait_for_ready=True)
        except grpc.RpcError as error:
            raise BenchmarkError(
                f"{method} at {address} answers {error.code()}: {error.details()}"
            ) from error
    return answer


def h2load(
    address: str, method: str, message: bytes, *, calls: int = 30_000, clients: int = 8, streams: int = 8
) -> float:
    """Calls per second of one unary method under load, after a look at one answer and a short warm-up.

    `clients` connections have `streams` calls in flight each. Raises BenchmarkError when a call fails.
    """
    answer = call(address, method, message)
    _h2load(address, method, message, len(answer), calls // 10, clients, streams)
    return _h2load(address, method, message, len(answer), calls, clients, streams)


def _h2load(
    address: str, method: str, message: bytes, answer_size: int, calls: int, clients: int, streams: int
) -> float:
    if not (binary := shutil.which("h2load")):
        raise BenchmarkError("h2load is not on PATH; on Debian: apt install nghttp2-client")
    with tempfile.NamedTemporaryFile(suffix=".bin") as body:
        body.write(b"\0" + len(message).to_bytes(4, "big") + message)
        body.flush()
        done = subprocess.run(
            [
                *("taskset", "-c", str(LOAD_CPU), binary),
                *("-n", str(calls), "-c", str(clients), "-m", str(streams)),
                *("-d", body.name, "-H", "content-type: application/grpc", "-H", "te: trailers"),
                f"http://{address}{method}",
            ],
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
    return parse_h2load(done.stdout + done.stderr, calls, answer_size)


def parse_h2load(output: str, calls: int, answer_size: int) -> float:
    """Calls per second from h2load's report. Raises BenchmarkError if any call did not get its answer."""
    rate = re.search(r"finished in .*?, ([\d.]+) req/s", output)
    answered = re.search(r"status codes: (\d+) 2xx", output)
    data = re.search(r"\((\d+)\) data", output)
    if not (rate and answered and data):
        raise BenchmarkError(f"h2load ended without a report:\n{output[-2000:]}")
    if int(answered[1]) != calls:
        raise BenchmarkError(f"{answered[1]} of {calls} calls were answered:\n{output[-2000:]}")
    # A gRPC error has no body. Answers of one method differ by a few bytes (a varint, a header's figure).
    if int(data[1]) < 0.9 * calls * (5 + answer_size):
        raise BenchmarkError(
            f"{calls} answers of about {answer_size} bytes came as {data[1]} bytes: some are errors"
        )
    return float(rate[1])


def resident_mib(pid: int) -> float:
    """Resident memory of a process, in MiB."""
    match = re.search(r"^VmRSS:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert match is not None, f"process {pid} has no VmRSS"
    return int(match[1]) / 1024


def require_two_cores() -> None:
    """Raise BenchmarkError on a machine where server and load would share a core."""
    if not {SERVER_CPU, LOAD_CPU} <= os.sched_getaffinity(0):
        raise BenchmarkError(f"benchmarks pin to cores {SERVER_CPU} and {LOAD_CPU}, which are not both here")

"""Report under strain: memory while the broker is away, and what entries that come in cost the checks beside them.

The first is paced, 20,000 entries a second for a minute; what waits, waits on disk. The others send a third of what the
same process sustained just before, to Prometheus alone, while checks come at 1,000 a second.
"""

import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.check import JWT_POLICY, METHOD, RATE, Traffic, write_policy
from benchmarks.harness import LOAD_CPU, SERVER_CPU, BenchmarkError, Row, in_turns, resident_mib
from benchmarks.load import latencies
from benchmarks.report import ENTRIES, on_the_load_cpu, sample, send, serving, stream_messages
from tests.components import processes
from tests.components.processes import Mixer

AWAY = 60  # seconds
PACE = 20_000  # entries a second
SETTLED = 20  # seconds after which memory is to stay as it is
SUSTAINED = 2_000  # messages, to find out how many entries a second are too many
SPOOL = {"type": "disk", "path": "kafka.spool", "max_bytes": 8 * 1024**3}


def run(runs: int) -> list[Row]:
    first, others = stream_messages()
    with on_the_load_cpu():
        return [*_memory(first, others), *_beside(runs, first, others)]


class Stream:
    """Entries at a steady rate, from a thread of its own, until it is stopped."""

    def __init__(self, address: str, first: bytes, others: list[bytes], rate: float) -> None:
        """`rate`: entries a second."""
        self.sent = 0  # messages
        self._rate = rate / ENTRIES
        self._stopped = threading.Event()
        self._failed: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(address, first, others))
        self._thread.start()

    def _run(self, address: str, first: bytes, others: list[bytes]) -> None:
        try:
            send(address, first, others, None, self._due)
        except BaseException as error:
            self._failed = error

    def _due(self, number: int, start: float) -> bool:
        """Wait until a message is due; False: no more."""
        self._stopped.wait(max(0.0, start + number / self._rate - time.perf_counter()))
        if self._stopped.is_set():
            return False
        self.sent += 1
        return True

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()
        if self._failed is not None:
            raise BenchmarkError(f"the stream ended with {self._failed}")


@contextmanager
def streaming(mixer: Mixer, first: bytes, others: list[bytes], rate: float) -> Iterator[Stream]:
    stream = Stream(mixer.report, first, others, rate)
    try:
        yield stream
    finally:
        stream.stop()


def _memory(first: bytes, others: list[bytes]) -> Iterator[Row]:
    topic = "mixer.access"
    with processes.kafka(cpu=LOAD_CPU) as kafka:
        kafka.create_topic(topic)
        with serving(SPOOL, kafka, topic) as mixer:
            send(mixer.report, first, others, 40)
            kafka.stop()
            taken = []
            with streaming(mixer, first, others, PACE) as stream:
                for _ in range(AWAY):
                    time.sleep(1)
                    taken.append(resident_mib(mixer.pid))
            waiting = sample(mixer, 'mixer_sink_buffered{sink="kafka"}')
            if waiting < stream.sent * ENTRIES:
                raise BenchmarkError(f"of {stream.sent * ENTRIES} entries, {waiting:.0f} wait")
    rate = stream.sent * ENTRIES / AWAY  # a machine may be slower than what is due
    work = f"Report, broker away for {AWAY} s at {rate:,.0f} entries/s, spool on disk: resident memory"
    yield Row(f"{work}, the most", "MiB", (max(taken),), at_most=250)
    growth = statistics.median(taken[-10:]) - statistics.median(taken[SETTLED : SETTLED + 10])
    yield Row(f"{work}, growth from {SETTLED + 5} s on", "MiB", (growth,), at_most=10)


def _beside(runs: int, first: bytes, others: list[bytes]) -> Iterator[Row]:
    traffic = Traffic()
    messages = traffic.distinct()
    with tempfile.TemporaryDirectory() as folder:
        write_policy(Path(folder), JWT_POLICY, traffic.data)
        settings = {
            "listeners": {name: {"address": "127.0.0.1:0"} for name in ("check", "report", "admin")},
            "policy": {"paths": [folder], "cache": "off"},
        }
        with processes.mixer(settings, "--role", "all", cpu=SERVER_CPU) as both:
            yield _p99(runs, "one process", both, both, (first, others, messages), 2.0)
        with (
            processes.mixer(settings, "--role", "check", cpu=SERVER_CPU) as check,
            processes.mixer(settings, "--role", "report", cpu=SERVER_CPU) as report,
        ):
            yield _p99(runs, "a process for each role", check, report, (first, others, messages), 1.2)


def _p99(
    runs: int,
    how: str,
    check: Mixer,
    report: Mixer,
    load: tuple[bytes, list[bytes], list[bytes]],
    at_most_ratio: float,
) -> Row:
    first, others, messages = load
    send(report.report, first, others, SUSTAINED // 10)
    start = time.perf_counter()
    send(report.report, first, others, SUSTAINED)
    rate = SUSTAINED * ENTRIES / (time.perf_counter() - start) / 3

    def alone() -> float:
        return latencies(check.check, METHOD, messages, calls=5 * RATE, rate=RATE)[1]

    def beside() -> float:
        with streaming(report, first, others, rate) as stream:
            begun = time.perf_counter()
            late = alone()
            seconds = time.perf_counter() - begun
        if stream.sent * ENTRIES < 0.8 * rate * seconds:
            raise BenchmarkError(
                f"{stream.sent * ENTRIES / seconds:,.0f} entries/s were sent instead of {rate:,.0f}"
            )
        return late

    run_beside: Callable[[], float] = beside
    ours, peers = in_turns(runs, run_beside, alone)
    return Row(
        f"p99 of a check at 1,000 a second while {rate:,.0f} entries/s come in, a third of what it sustains, {how}",
        "µs", ours, "the same without entries", peers, at_most_ratio=at_most_ratio,
    )  # fmt: skip

"""Report under strain: memory while the broker is away, and what entries that come in cost the checks beside them.

The first is paced, 20,000 entries a second for a minute; what waits, waits on disk. The others send a third of what the
same process sustained just before, to Prometheus alone, while checks come at 1,000 a second.
"""

import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
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
    """Entries at a steady rate, from a process of its own, until it is stopped.

    It has the load's core when nobody else wants it: a client that shared it as an equal would tell of its own waiting.
    """

    def __init__(self, address: str, rate: float) -> None:
        """`rate`: entries a second."""
        command = [sys.executable, "-m", "benchmarks.flood", address, f"{rate / ENTRIES}"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._read_line()  # its messages are made

    def stop(self) -> int:
        """How many messages were sent."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        sent = int(self._read_line())
        self._process.wait()
        return sent

    def _read_line(self) -> str:
        assert self._process.stdout is not None
        if line := self._process.stdout.readline():
            return line
        raise BenchmarkError(f"the stream ended with exit code {self._process.wait()}")


def _memory(first: bytes, others: list[bytes]) -> Iterator[Row]:
    topic = "mixer.access"
    with processes.kafka(cpu=LOAD_CPU) as kafka:
        kafka.create_topic(topic)
        with serving(SPOOL, kafka, topic) as mixer:
            send(mixer.report, first, others, 40)
            kafka.stop()
            taken = []
            stream = Stream(mixer.report, PACE)
            for _ in range(AWAY):
                time.sleep(1)
                taken.append(resident_mib(mixer.pid))
            sent = stream.stop() * ENTRIES
            waiting = sample(mixer, 'mixer_sink_buffered{sink="kafka"}')
            if waiting < sent:
                raise BenchmarkError(f"of {sent} entries, {waiting:.0f} wait")
    rate = sent / AWAY  # a machine may be slower than what is due
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
        second = {**settings, "workers": {"report_scheduling": "idle"}}  # as for a core that both share
        with (
            processes.mixer(settings, "--role", "check", cpu=SERVER_CPU) as check,
            processes.mixer(second, "--role", "report", cpu=SERVER_CPU) as report,
        ):
            how = "a process for each role, Report's idle for the kernel"
            yield _p99(runs, how, check, report, (first, others, messages), 1.2)


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
        stream = Stream(report.report, rate)
        begun = time.perf_counter()
        late = alone()
        seconds = time.perf_counter() - begun
        came = stream.stop() * ENTRIES / seconds
        if came < 0.8 * rate:
            raise BenchmarkError(f"{came:,.0f} entries/s were sent instead of {rate:,.0f}")
        return late

    run_beside: Callable[[], float] = beside
    ours, peers = in_turns(runs, run_beside, alone)
    return Row(
        f"p99 of a check at 1,000 a second while {rate:,.0f} entries/s come in, a third of what it sustains, {how}",
        "µs", ours, "the same without entries", peers, at_most_ratio=at_most_ratio,
    )  # fmt: skip


def main() -> None:
    """`python -m benchmarks.flood ADDRESS RATE`: messages until standard input ends, then says how many."""
    address, rate = sys.argv[1], float(sys.argv[2])
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))  # its threads, too
    first, others = stream_messages()
    stopped = threading.Event()
    sent = itertools.count()

    def due(number: int, start: float) -> bool:
        stopped.wait(max(0.0, start + number / rate - time.perf_counter()))
        if stopped.is_set():
            return False
        next(sent)
        return True

    with ThreadPoolExecutor(1) as pool:
        print("begun", flush=True)
        sending = pool.submit(send, address, first, others, None, due)
        sys.stdin.read()
        stopped.set()
        sending.result()
    print(next(sent), flush=True)


if __name__ == "__main__":
    main()

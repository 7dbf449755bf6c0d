"""Mixed load through a real Envoy for as long as is asked for, with reloads and faults, and an account of all of it.

`python -m benchmarks.soak --minutes 60`: a reload each minute, a fault every five; below half an hour every ten and
thirty seconds. A supervised Mixer with a worker of each role, its counters in Redis, its records in Kafka through a
spool on disk. The exit code is 0 if everything came out even.

The load stops for a moment before and after each fault, so that what client, Envoy and Mixer have counted can be
compared: to one, wherever nothing was cut off. A fault that cuts calls or streams off is told from what it may lose.
"""

import argparse
import asyncio
import itertools
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.soak_account import Finding, Phase, Sampler, Snapshot, consume, findings, series_total
from tests.components import processes
from tests.components.processes import Kafka, Redis, wait_until
from tests.e2e.fleet import USERS, Fleet, fleet

CLIENTS = 4
TOKEN_AGE = 300.0  # seconds after which a client takes a new one
RECOVERY = 60.0  # seconds in which all is ready again after a fault
TOPIC = "mixer.access"


@dataclass(frozen=True, slots=True)
class Plan:
    seconds: float
    reload_every: float
    fault_every: float
    outage: float  # seconds that a backend is away
    rate: float  # requests a second

    @classmethod
    def of(cls, minutes: float, rate: float) -> "Plan":
        if minutes < 30:
            return cls(60 * minutes, 10, 30, 3, rate)
        return cls(60 * minutes, 60, 300, 30, rate)


@dataclass(frozen=True, slots=True)
class Setup:
    fleet: Fleet
    redis: Redis
    kafka: Kafka
    policies: Path

    def workers(self) -> dict[str, int]:
        """The workers' process ids by role."""
        return worker_pids(self.fleet.mixer.pid, self.fleet.mixer.check)

    def ready(self) -> bool:
        return self.fleet.mixer.call("/readyz") == (200, "ready\n")


@dataclass(frozen=True, slots=True)
class Fault:
    """`cuts`: calls of Check may end without an answer; `loses`: entries that Envoy has sent may not be received."""

    name: str
    run: Callable[[Setup, float], None]
    cuts: bool = False
    loses: bool = False


def _paused(which: str) -> Callable[[Setup, float], None]:
    def run(setup: Setup, seconds: float) -> None:
        server = getattr(setup, which)
        server.pause()
        time.sleep(seconds)
        server.resume()

    return run


def _killed(which: str) -> Callable[[Setup, float], None]:
    def run(setup: Setup, seconds: float) -> None:
        server = getattr(setup, which)
        server.kill()
        time.sleep(seconds)
        server.start()

    return run


def _worker_killed(role: str) -> Callable[[Setup, float], None]:
    def run(setup: Setup, seconds: float) -> None:
        before = setup.workers()[role]
        os.kill(before, signal.SIGKILL)
        wait_until(lambda: setup.workers().get(role, before) != before, RECOVERY, f"a new {role} worker")

    return run


def _rolling(setup: Setup, seconds: float) -> None:
    log = setup.fleet.mixer.log
    done = log.read_text().count("rolling_restart_done")
    os.kill(setup.fleet.mixer.pid, signal.SIGUSR2)
    wait_until(lambda: log.read_text().count("rolling_restart_done") > done, RECOVERY, "the rolling restart")


FAULTS = (
    Fault("Redis paused", _paused("redis")),
    Fault("report worker killed", _worker_killed("report"), loses=True),
    Fault("Kafka paused", _paused("kafka")),
    Fault("check worker killed", _worker_killed("check"), cuts=True),
    Fault("Redis killed and restarted", _killed("redis")),
    # The file of a buffer on disk has one owner: the report worker goes before its successor comes.
    Fault("rolling restart", _rolling, loses=True),
    Fault("Kafka killed and restarted", _killed("kafka")),
)


class Load:
    """Clients that share a rate. `sent` has what came of each request, in order of its end."""

    def __init__(self, setup: Setup, rate: float) -> None:
        self.sent: list[tuple[str, int]] = []  # the request's id, and its status
        self.connections = 0  # TCP
        self.failed: list[str] = []  # requests without an answer
        self._setup, self._pause = setup, CLIENTS / rate
        self._go, self._end = threading.Event(), threading.Event()
        self._idle = [threading.Event() for _ in range(CLIENTS)]
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(CLIENTS)]
        for thread in self._threads:
            thread.start()

    def resume(self) -> None:
        for idle in self._idle:
            idle.clear()
        self._go.set()

    def pause(self) -> None:
        """Returns when nothing is on its way."""
        self._go.clear()
        for idle in self._idle:
            idle.wait()

    def stop(self) -> None:
        self._end.set()
        self._go.set()
        for thread in self._threads:
            thread.join()

    def _run(self, number: int) -> None:
        connection = HTTPConnection(self._setup.fleet.http, timeout=60)
        tokens: dict[str, tuple[float, str]] = {}

        def token(user: str) -> str:
            made, value = tokens.get(user, (-TOKEN_AGE, ""))
            if time.monotonic() - made >= TOKEN_AGE:
                made, value = time.monotonic(), self._setup.fleet.issuer.token(user)
                tokens[user] = made, value
            return value

        due = time.monotonic()
        for turn in itertools.count():
            if not self._go.is_set():
                self._idle[number].set()
                self._go.wait()
                due = time.monotonic()
            if self._end.is_set():
                break
            due += self._pause
            self._end.wait(max(0.0, due - time.monotonic()))
            if turn % 25 == 24:
                self._setup.fleet.connect()
                self.connections += 1
                continue
            kind = turn % 5
            user = f"{'admin' if kind == 0 else 'user'}-{(CLIENTS * turn + number) % USERS}"
            method, path = (("GET", "/admin/users"), ("GET", f"/api/orders/{turn}?q=1"), ("POST", "/api/orders"),
                            ("GET", "/admin"), ("GET", "/api/orders"))[kind]  # fmt: skip
            headers = {} if kind == 4 else {"authorization": f"Bearer {token(user)}"}
            try:
                connection.request(method, path, b"x" * 100 if method == "POST" else None, headers)
                answer = connection.getresponse()
                answer.read()
                self.sent.append((answer.getheader("x-request-id", ""), answer.status))
            except (OSError, HTTPException) as error:
                self.failed.append(repr(error))
                connection.close()
        connection.close()


def worker_pids(supervisor: int, check: str) -> dict[str, int]:
    """By role: the child that listens on the address of Check, and the other one."""
    port = int(check.rpartition(":")[2])
    listening = {
        line.split()[9] for line in Path("/proc/net/tcp").read_text().splitlines()[1:]
        if line.split()[3] == "0A" and int(line.split()[1].rpartition(":")[2], 16) == port
    }  # fmt: skip
    found = {}
    for pid in map(int, Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()):
        try:
            links = [os.readlink(fd) for fd in Path(f"/proc/{pid}/fd").iterdir()]
        except OSError:
            continue
        if b"mixer.supervision.child" in Path(f"/proc/{pid}/cmdline").read_bytes():
            is_check = any(link.removeprefix("socket:[").rstrip("]") in listening for link in links)
            found["check" if is_check else "report"] = pid
    return found


@contextmanager
def setup() -> Iterator[Setup]:
    with processes.redis() as redis, processes.kafka() as kafka:
        kafka.create_topic(TOPIC)
        policies: list[Path] = []
        sink = {
            "type": "kafka",
            "bootstrap_servers": [kafka.bootstrap],
            "topic": TOPIC,
            "buffer": {"type": "disk", "when_full": "block"},
        }

        def prepare(folder: Path) -> None:
            policies.append(folder)
            sink["buffer"] = {**sink["buffer"], "path": str(folder.parent / "kafka.spool")}  # type: ignore[dict-item]

        with fleet(
            prepare=prepare,
            workers={"check": 1, "report": 1, "supervised": True},
            rate_limits={"counters": "redis", "redis": {"url": redis.url}},
            telemetry={"sinks": [sink]},
        ) as running:
            yield Setup(running, redis, kafka, policies[0])


class Soak:
    def __init__(self, setup: Setup, plan: Plan, console: Console) -> None:
        self._setup, self._plan, self._console = setup, plan, console
        self.phases: list[Phase] = []
        self.reloads = 0
        self.load = Load(setup, plan.rate)
        self.sampler = Sampler(lambda: {"supervisor": setup.fleet.mixer.pid, **setup.workers()})

    def run(self) -> None:
        """Calm and faults in turns. Ends calm, with the load stopped."""
        plan, faults = self._plan, itertools.cycle(FAULTS)
        end = time.monotonic() + plan.seconds
        try:
            self._phase("calm", self._calm)
            while time.monotonic() + plan.fault_every / 2 < end:
                fault = next(faults)
                self._phase(fault.name, lambda fault=fault: self._fault(fault), fault.cuts, fault.loses)
                self._phase("calm", self._calm)
        finally:
            self.load.resume()
            self.load.stop()
            self.sampler.stop()

    def _phase(self, name: str, work: Callable[[], None], cuts: bool = False, loses: bool = False) -> None:
        before = self.phases[-1].after if self.phases else self._snapshot()
        self.load.resume()
        begun = time.monotonic()
        work()
        self.load.pause()
        phase = Phase(name, begun, time.monotonic(), cuts, loses, before, before, self.sampler.now())
        settled = time.monotonic() + (20 if not loses else 3)
        while True:  # Envoy's access loggers write after 0.1 s
            phase.after = self._snapshot()
            if phase.entries_missing == 0 or time.monotonic() > settled:
                break
            time.sleep(0.1)
        self.phases.append(phase)
        self._console.print(phase.line(), highlight=False, soft_wrap=True)

    def _calm(self) -> None:
        """Until it is time for the next fault."""
        fault = self.phases[-1].ended - self.phases[-1].begun if self.phases else 0.0
        end = time.monotonic() + max(self._plan.fault_every - fault, self._plan.fault_every / 3)
        while (left := end - time.monotonic()) > 0:
            time.sleep(min(left, self._plan.reload_every))
            if left > self._plan.reload_every:
                self._reload()

    def _reload(self) -> None:
        self.reloads += 1
        data = self._setup.policies / "plans" / "data.json"
        text = json.loads(data.read_text())
        new = data.with_suffix(".new")
        new.write_text(json.dumps({**text, "soak": self.reloads}))
        new.replace(data)
        os.kill(self._setup.fleet.mixer.pid, signal.SIGHUP)

    def _fault(self, fault: Fault) -> None:
        time.sleep(1)
        fault.run(self._setup, self._plan.outage)
        wait_until(self._setup.ready, RECOVERY, f"readiness after: {fault.name}")
        time.sleep(2)  # Envoy's health checks, every 2 s

    def _snapshot(self) -> Snapshot:
        return Snapshot.take(self._setup.fleet, self.load.sent, self.load.connections)


def soak(minutes: float, rate: float, console: Console) -> list[Finding]:
    with setup() as made:
        run = Soak(made, Plan.of(minutes, rate), console)
        run.run()
        mixer = made.fleet.mixer
        wait_until(
            lambda: series_total(mixer, "mixer_sink_buffered", sink="kafka") == 0, 60, "the last records"
        )
        found = asyncio.run(consume(made.kafka.bootstrap, TOPIC))
        applied = series_total(mixer, "mixer_reloads_total", result="applied")
        made.fleet.mixer.stop()
        results = findings(run.phases, run.load.sent, run.load.failed, found, run.sampler)
        results.append(Finding("reloads applied", run.reloads, f"{applied:.0f}", applied == run.reloads))
    return results


def table(results: list[Finding]) -> Table:
    made = Table(title="Soak", title_justify="left")
    for heading in ("what", "expected", "found", "even"):
        made.add_column(heading, overflow="fold")
    for each in results:
        made.add_row(
            each.what, str(each.expected), str(each.found), "[green]yes[/]" if each.even else "[red]no[/]"
        )
    return made


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--rate", type=float, default=40, help="requests a second (default 40)")
    options = parser.parse_args(argv)
    console = Console(width=140)
    results = soak(options.minutes, options.rate, console)
    console.print(table(results))
    return 0 if all(each.even for each in results) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

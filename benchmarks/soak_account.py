"""What client, Envoy, Mixer and Kafka have counted in a soak, held against each other; and what processes took."""

import re
import statistics
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from aiokafka import AIOKafkaConsumer, TopicPartition

from benchmarks.harness import resident_mib
from mixer.demo.findings import Series
from mixer.telemetry.v1.access_record_pb2 import AccessRecord
from tests.components.processes import Mixer
from tests.e2e.fleet import Fleet

WARM_UP = 20.0  # seconds of a process's life, or a third of it, that do not count
GROWTH = 8.0  # MiB by which resident memory may grow afterwards
_ENVOY = {
    "requests": r"http\.http\.downstream_rq_completed",
    "authz ok": r"http\.http\.ext_authz\.mixer\.ok",
    "authz denied": r"http\.http\.ext_authz\.mixer\.denied",
    "authz error": r"http\.http\.ext_authz\.mixer\.error",
    "authz disabled": r"http\.http\.ext_authz\.mixer\.disabled",
    "quota": r"cluster\.upstream-http\.ratelimit\.mixer\.(ok|over_limit|error)",
    "quota error": r"cluster\.upstream-http\.ratelimit\.mixer\.error",
    "tcp ok": r"ext_authz\.mixer\.ok",
    "tcp denied": r"ext_authz\.mixer\.denied",
    "tcp error": r"ext_authz\.mixer\.error",
    "logs written": r"access_logs\.grpc_access_log\.logs_written",
    "logs dropped": r"access_logs\.grpc_access_log\.logs_dropped",
}
_PATTERNS = {name: re.compile(pattern) for name, pattern in _ENVOY.items()}


@dataclass(frozen=True, slots=True)
class Finding:
    what: str
    expected: object
    found: object
    even: bool


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All counts while nothing is on its way."""

    requests: int
    connections: int
    envoy: Mapping[str, int]
    mixer: Mapping[str, float]

    @classmethod
    def take(cls, fleet: Fleet, sent: Sequence[object], connections: int) -> "Snapshot":
        stats = fleet.envoy.call("/stats?format=json")[1]["stats"]
        envoy: Counter[str] = Counter()
        for stat in stats:
            for name, pattern in _PATTERNS.items():
                if "value" in stat and pattern.fullmatch(stat["name"]):
                    envoy[name] += stat["value"]
        series = Series(fleet.mixer.call("/metrics")[1])
        mixer = {f"{method} {code}": value
                 for (method, code), value in series.by("mixer_calls_total", ("method", "code")).items()}  # fmt: skip
        mixer["entries"] = series.total("mixer_report_entries_total")
        for name in ("received", "recovered", "records", "dropped", "dead_letters"):
            mixer[name] = series.total(f"mixer_sink_{name}_total", sink="kafka")
        mixer["buffered"] = series.total("mixer_sink_buffered", sink="kafka")
        return cls(len(sent), connections, envoy, mixer)


@dataclass(slots=True)
class Phase:
    """A time of calm, or with a fault in it. `usage`: of each process at its end."""

    name: str
    begun: float
    ended: float
    cuts: bool
    loses: bool
    before: Snapshot
    after: Snapshot
    usage: "dict[str, Usage]"

    def envoy(self, *names: str) -> int:
        return sum(self.after.envoy.get(name, 0) - self.before.envoy.get(name, 0) for name in names)

    def mixer(self, *names: str) -> float:
        return sum(self.after.mixer.get(name, 0) - self.before.mixer.get(name, 0) for name in names)

    def calls(self, method: str, *, good: bool | None = None) -> float:
        names = [
            name for name in self.after.mixer
            if name.startswith(f"{method} ") and (good is None or name.endswith(" OK") is good)
        ]  # fmt: skip
        return self.mixer(*names)

    @property
    def requests(self) -> int:
        return self.after.requests - self.before.requests

    @property
    def connections(self) -> int:
        return self.after.connections - self.before.connections

    @property
    def entries_missing(self) -> float:
        """Entries that Mixer has not counted."""
        return self.requests + self.connections - self.mixer("entries")

    def line(self) -> str:
        errors = self.envoy("authz error", "quota error", "tcp error")
        told = f"{self.name}: {self.ended - self.begun:.0f} s, {self.requests} requests, {errors} errors"
        return (
            f"{told}, {self.entries_missing:.0f} entries not counted, {self.mixer('buffered'):+.0f} buffered"
        )


@dataclass(frozen=True, slots=True)
class Usage:
    pid: int
    mib: float
    fds: int
    threads: int

    @classmethod
    def of(cls, pid: int) -> "Usage":
        return cls(
            pid,
            resident_mib(pid),
            len(list(Path(f"/proc/{pid}/fd").iterdir())),
            len(list(Path(f"/proc/{pid}/task").iterdir())),
        )


class Sampler:
    """Looks at processes once a second. `pids`: by role."""

    def __init__(self, pids: Callable[[], Mapping[str, int]]) -> None:
        self._pids = pids
        self.taken: dict[tuple[str, int], list[tuple[float, float]]] = defaultdict(list)  # seconds, MiB
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def now(self) -> dict[str, Usage]:
        return {role: Usage.of(pid) for role, pid in self._pids().items()}

    def stop(self) -> None:
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._end.wait(1):
            try:
                for role, usage in self.now().items():
                    self.taken[role, usage.pid].append((time.monotonic(), usage.mib))
            except (OSError, AssertionError):  # a process has just ended
                continue

    def growth(self) -> "list[tuple[str, float, float, float]]":
        """Of each process that lived for three times the warm-up: role, seconds, the most MiB, growth of the median of
        the last quarter over the first after the warm-up."""
        found = []
        for (role, _), samples in self.taken.items():
            life = samples[-1][0] - samples[0][0]
            if life < 3 * WARM_UP:
                continue
            warm = [mib for at, mib in samples if at - samples[0][0] > max(WARM_UP, life / 3)]
            quarter = max(1, len(warm) // 4)
            grown = statistics.median(warm[-quarter:]) - statistics.median(warm[:quarter])
            found.append((role, life, max(mib for _, mib in samples), grown))
        return found


@dataclass(slots=True)
class Found:
    """What is in the topic."""

    messages: int = 0
    requests: dict[str, set[str]] = field(
        default_factory=lambda: defaultdict(set)
    )  # event ids by the request's
    connections: set[str] = field(default_factory=set)  # event ids


async def consume(bootstrap: str, topic: str) -> Found:
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, auto_offset_reset="earliest")
    await consumer.start()
    try:
        partition = TopicPartition(topic, 0)
        consumer.assign([partition])
        end = (await consumer.end_offsets([partition]))[partition]
        found = Found()
        while await consumer.position(partition) < end:
            for batch in (await consumer.getmany(timeout_ms=500)).values():
                for message in batch:
                    found.messages += 1
                    record = AccessRecord.FromString(message.value)
                    if record.network_protocol_name == "tcp":
                        found.connections.add(record.event_id)
                    else:
                        found.requests[record.envoy_request_id].add(record.event_id)
        return found
    finally:
        await consumer.stop()


def findings(
    phases: Sequence[Phase],
    sent: Sequence[tuple[str, int]],
    failed: Sequence[str],
    found: Found,
    sampler: Sampler,
) -> list[Finding]:
    """What there is to be said, in order."""
    statuses = Counter(status for _, status in sent)
    told = ", ".join(f"{status}: {count}" for status, count in sorted(statuses.items()))
    results = [
        _same(f"requests answered ({told}); without an answer", 0, len(failed)),
        _same("requests, by Envoy", len(sent), sum(each.envoy("requests") for each in phases)),
        _same("of them met ext_authz: ok, denied, error, disabled", len(sent),
              sum(each.envoy("authz ok", "authz denied", "authz error", "authz disabled") for each in phases)),
        _same("of the allowed, met ratelimit", sum(each.envoy("authz ok") for each in phases),
              sum(each.envoy("quota") for each in phases)),
        _same("errors in calm, by Envoy", 0, sum(
            each.envoy("authz error", "quota error", "tcp error") for each in phases if each.name == "calm")),
    ]  # fmt: skip
    whole = [each for each in phases if not each.cuts]
    answered = sum(each.envoy("authz ok", "authz denied", "tcp ok", "tcp denied") for each in whole)
    results += [
        _same("calls of Check with OK, where none was cut off", answered,
              sum(each.calls("Check", good=True) for each in whole)),
        _same("calls of Check in all, in calm", sum(each.requests + each.connections for each in _calm(phases)),
              sum(each.calls("Check") for each in _calm(phases))),
        _same("calls of Quota in all, in calm", sum(each.envoy("quota") for each in _calm(phases)),
              sum(each.calls("ShouldRateLimit") for each in _calm(phases))),
    ]  # fmt: skip
    wanted = sum(each.requests + each.connections for each in phases)
    results += [
        _same("entries dropped by Envoy", 0, sum(each.envoy("logs dropped") for each in phases)),
        _same("entries that Mixer has not counted, where a report worker served", 0,
              sum(each.entries_missing for each in phases if not each.loses)),
        _same("in calm, received = delivered + buffered + dropped + dead letters",
              sum(each.mixer("received", "recovered") for each in _calm(phases)),
              sum(each.mixer("records", "buffered", "dropped", "dead_letters") for each in _calm(phases))),
        _same("records dropped, or dead letters", 0, sum(each.mixer("dropped", "dead_letters") for each in phases)),
    ]  # fmt: skip
    results += _in_kafka(phases, sent, found, wanted)
    results += _usage(phases, sampler)
    return results


def _calm(phases: Iterable[Phase]) -> list[Phase]:
    return [each for each in phases if each.name == "calm"]


def _same(what: str, expected: float, found: float) -> Finding:
    return Finding(what, f"{expected:.0f}", f"{found:.0f}", expected == found)


def _in_kafka(
    phases: Sequence[Phase], sent: Sequence[tuple[str, int]], found: Found, wanted: int
) -> list[Finding]:
    ids = [name for name, _ in sent]
    lost, excused, excused_connections = 0, 0, 0
    for phase in phases:
        missing = sum(
            name not in found.requests for name in ids[phase.before.requests : phase.after.requests]
        )
        if phase.loses:
            excused += missing
            excused_connections += phase.connections
        else:
            lost += missing
    connections = phases[-1].after.connections
    twice = sum(len(events) > 1 for events in found.requests.values())
    distinct = sum(map(len, found.requests.values())) + len(found.connections)
    return [
        _same("different ids of requests", len(ids), len(set(ids))),
        _same("requests without a record in Kafka, where a report worker served", 0, lost),
        Finding("requests without a record, where none served", "what Envoy had sent", excused, True),
        _same("requests with records of several event ids", 0, twice),
        _same("records of requests that nobody sent", 0, len(found.requests.keys() - set(ids))),
        Finding("records of connections", f"{connections - excused_connections} to {connections}",
                len(found.connections), connections - excused_connections <= len(found.connections) <= connections),
        Finding("messages that Kafka has twice, by event id", "few", found.messages - distinct, True),
    ]  # fmt: skip


def _usage(phases: Sequence[Phase], sampler: Sampler) -> list[Finding]:
    results = [
        Finding(f"memory of {role}, {life:.0f} s, {most:.0f} MiB at most: growth", f"at most {GROWTH:g} MiB",
                f"{grown:.1f} MiB", grown <= GROWTH)
        for role, life, most, grown in sampler.growth()
    ]  # fmt: skip
    first, last = phases[0].usage, phases[-1].usage
    for role in first:
        for what in ("fds", "threads"):
            before, after = getattr(first[role], what), getattr(last[role], what)
            results.append(Finding(f"{what} of {role}", f"at most {before}", after, after <= before))
    return results


def series_total(mixer: Mixer, name: str, **labels: str) -> float:
    return Series(mixer.call("/metrics")[1]).total(name, **labels)

"""What Mixer answers while something that it stands on fails, as data: a row is a test, and a line of docs/faults.md.

Seconds are those of the default settings, but where `how` names others.
"""

import sys
from dataclasses import dataclass
from typing import Final

DEPENDENCIES: Final = ("OPA", "Redis", "Kafka", "disk", "clock", "DNS", "bundle server")
FAULTS: Final = ("absent at start", "dies", "hangs", "slow", "garbage", "returns")


@dataclass(frozen=True, slots=True)
class Row:
    """One fault of one dependency. `check`, `quota`, `report` (Envoy's access log service; `waits`: a stream is not
    ended) and `export` (OTLP): the answers meanwhile. `ready`: what `/readyz` says. `within`: seconds until each
    answer. `back`: seconds from the fault's end until all is as before. `watch`: the series that moves."""

    dependency: str
    fault: str
    how: str
    check: str = "OK"
    quota: str = "OK"
    report: str = "OK"
    export: str = "OK"
    ready: str = "ready"
    within: float = 2.0
    back: float = 2.0
    watch: str = ""
    more: str = ""

    @property
    def name(self) -> str:
        return f"{self.dependency}: {self.fault}: {self.how}"


@dataclass(frozen=True, slots=True)
class Senseless:
    """A combination that there is not, and why."""

    dependency: str
    fault: str
    why: str


AWAY: Final = "UNAVAILABLE"
WAITS: Final = "waits"
_OPA: Final = 'mixer_engine_errors_total{reason="unavailable"}'
_OPA_LATE: Final = 'mixer_engine_errors_total{reason="timeout"}'
_REDIS: Final = 'mixer_counter_errors_total{reason="unavailable"}'
_WAITING: Final = "mixer_sink_buffered"
_POLLS: Final = 'mixer_bundle_polls_total{outcome="download"}'
_REFUSED: Final = 'mixer_bundle_polls_total{outcome="archive"}'

ROWS: Final = (
    Row("OPA", "absent at start", "nothing listens", AWAY, ready="not ready: OPA at", watch=_OPA),
    Row("OPA", "dies", "SIGKILL", AWAY, ready="not ready: OPA at", watch=_OPA),
    Row("OPA", "hangs", "SIGSTOP", AWAY, ready="not ready: OPA at", within=4, watch=_OPA_LATE),
    Row(
        "OPA", "slow", "0.3 s for each answer, less than `policy.opa.timeout`", within=4,
        more="Check takes as long as OPA does. From `timeout` (1 s) on it is as where OPA hangs",
    ),
    Row("OPA", "garbage", "no HTTP", AWAY, ready="not ready: OPA at", watch=_OPA),
    Row(
        "OPA", "returns", "without the policies that it had", back=3,
        more="with `policy.opa.push`: they are put back before it decides anything",
    ),
    Row("Redis", "absent at start", "nothing listens", quota=AWAY, ready="not ready: redis at", watch=_REDIS, back=3),
    Row("Redis", "dies", "SIGKILL", quota=AWAY, ready="not ready: redis at", watch=_REDIS, back=3),
    Row("Redis", "hangs", "SIGSTOP", quota=AWAY, ready="not ready: redis at", watch=_REDIS, back=3),
    Row(
        "Redis", "slow", "0.2 s for each reply, less than `rate_limits.redis.timeout`",
        more="Quota takes as long as Redis does. From `timeout` (0.5 s) on it is as where Redis hangs",
    ),
    Row("Redis", "garbage", "no reply of Redis'", quota=AWAY, ready="not ready: redis at", watch=_REDIS, back=4),
    Row(
        "Redis", "returns", "empty", back=3,
        more="scripts are loaded again by themselves; what was counted before is forgotten, so each limit may be "
        "used up once more",
    ),
    Row(
        "Kafka", "absent at start", "nothing listens", export=AWAY, ready="degraded: kafka:", watch=_WAITING,
        within=3, back=12, more="records wait in the buffer",
    ),
    Row(
        "Kafka", "dies", "SIGKILL", export=AWAY, ready="degraded: kafka:", watch=_WAITING, within=3, back=12,
        more="`/readyz` says it after 5 s; records wait in the buffer",
    ),
    Row(
        "Kafka", "hangs", "SIGSTOP", export=AWAY, ready="degraded: kafka:", watch=_WAITING, within=3, back=12,
        more="as where it dies",
    ),
    Row("Kafka", "slow", "0.2 s for each answer", within=3, more="an OTLP Export waits for the acknowledgement"),
    Row(
        "Kafka", "garbage", "no answer of Kafka's", export=AWAY, ready="degraded: kafka:", watch=_WAITING,
        within=3, back=12, more="as where it dies",
    ),
    Row(
        "Kafka", "returns", "with all that was accepted to be delivered", within=3, back=12,
        more="records may come twice, under one `event_id`",
    ),
    Row(
        "disk", "absent at start", "the folder of `buffer.path` is missing", "-", "-", "-", "-", ready="-",
        more="Mixer does not start (exit code 1) and names file and key; it starts once the folder is there",
    ),
    Row(
        "disk", "dies", "no space is left", report=WAITS, export=AWAY, ready="degraded: kafka: cannot write",
        within=4, back=5,
        more="records wait in memory, up to 16 MiB; then they are dropped and counted, or with `when_full: block` "
        "streams are not read on",
    ),
    Row(
        "disk", "dies", "its folder is removed", report=WAITS, export=AWAY, ready="degraded: kafka: cannot write",
        within=4, back=5, more="as where no space is left; what it held is delivered from "
        "the open file, and is lost if Mixer ends before that",
    ),
    Row(
        "disk", "hangs", "a file sink's write does not return", export=AWAY, ready="degraded: file:", back=5,
        within=3, watch=_WAITING, more="said after 5 s; lines wait in that sink's buffer, and other sinks go on",
    ),
    Row(
        "disk", "garbage", "the spool's file is garbage, at start", watch="mixer_sink_spools_set_aside_total",
        more="it is renamed to `.corrupt-…`, and a new one begun; `sqlite3 FILE .recover` may read what was in it",
    ),
    Row("disk", "returns", "with room again", back=5, more="what waited is written and delivered; nothing is lost"),
    Row(
        "clock", "hangs", "stands still",
        more="windows do not end and buckets do not fill until it goes on; what is used up stays so",
    ),
    Row(
        "clock", "garbage", "an hour ahead",
        more="tokens that end within the hour count as ended, also in decisions that are cached; windows begin anew",
    ),
    Row(
        "clock", "garbage", "an hour behind",
        more="tokens count an hour longer; buckets and sliding windows go on as they were, in Redis by its clock; "
        "fixed windows that come again count again",
    ),
    Row(
        "clock", "returns", "set right after an hour ahead",
        more="a decision that was made meanwhile is not kept; buckets fill from then on",
    ),
    Row(
        "DNS", "absent at start", "no resolver listens", AWAY, AWAY, ready="not ready: OPA at", within=12, back=15,
        watch=_REDIS, more="as where each server whose name it is were away",
    ),
    Row(
        "DNS", "dies", "no resolver listens", more="connections that stand are used on; nobody notices",
    ),
    Row(
        "DNS", "dies", "no resolver listens, and a connection to Redis is lost", quota=AWAY,
        ready="not ready: redis at", back=5, watch=_REDIS,
        more="who has to connect anew finds nobody: as where that server is away",
    ),
    Row(
        "DNS", "hangs", "the resolver is silent, and a connection to Redis is lost", quota=AWAY,
        ready="not ready: redis at", back=15, watch=_REDIS,
        more="an attempt that is under way ends when the system's resolver gives up (10 s by resolv.conf's defaults)",
    ),
    Row("DNS", "slow", "0.3 s for each answer, and a connection to Redis is lost", back=5),
    Row(
        "DNS", "garbage", "no DNS, and a connection to Redis is lost", quota=AWAY, ready="not ready: redis at",
        back=15, watch=_REDIS, more="the system's resolver drops it, and it is as where it hangs",
    ),
    Row(
        "DNS", "returns", "with another address of Redis, whose old one is gone", back=5,
        more="the name is resolved anew for each connection",
    ),
    Row(
        "bundle server", "absent at start", "nothing listens", AWAY, ready="not ready: no policy yet", watch=_POLLS,
        back=2, more="it is asked again after 0.5 s, 1 s and so on, up to `poll`",
    ),
    Row("bundle server", "dies", "SIGKILL", ready="degraded: bundle authz", watch=_POLLS),
    Row(
        "bundle server", "hangs", "SIGSTOP", ready="degraded: bundle authz", watch=_POLLS,
        more="said after the bundle's `timeout`",
    ),
    Row(
        "bundle server", "hangs", "SIGSTOP before Mixer starts", AWAY, ready="not ready: no policy yet",
        watch=_POLLS, more="the start waits 5 s for it, then Quota and Report are served",
    ),
    Row(
        "bundle server", "slow", "longer than the bundle's `timeout`", ready="degraded: bundle authz", watch=_POLLS,
        more="raise `timeout` for a large bundle on a slow way",
    ),
    Row("bundle server", "garbage", "no HTTP", ready="degraded: bundle authz", watch=_POLLS),
    Row("bundle server", "garbage", "HTTP 500", ready="degraded: bundle authz", watch=_POLLS),
    Row("bundle server", "garbage", "a page of HTML", ready="degraded: bundle authz", watch=_REFUSED),
    Row("bundle server", "garbage", "half of the bundle", ready="degraded: bundle authz", watch=_POLLS),
    Row(
        "bundle server", "garbage", "a body without an end", ready="degraded: bundle authz", watch=_POLLS,
        more="given up at `policy.bundle_size_limit`",
    ),
    Row("bundle server", "returns", "with another revision", more="taken with the next poll"),
)  # fmt: skip

_ALWAYS_THERE: Final = "a machine has a clock, or does not run"

SENSELESS: Final = (
    Senseless("clock", "absent at start", _ALWAYS_THERE),
    Senseless("clock", "dies", _ALWAYS_THERE),
    Senseless("disk", "slow", "a commit that takes longer has more records in it: see where it hangs"),
    Senseless("clock", "slow", "a clock that drifts is wrong by a little: see garbage"),
)

HEAD: Final = ("fault", "Check", "Quota", "Report", "OTLP", "`/readyz`", "moves", "back within")


def rows(dependency: str) -> list[Row]:
    return [row for row in ROWS if row.dependency == dependency]


def markdown(dependency: str) -> list[str]:
    """The lines of its table on the page, and of the notes below it."""

    def line(*cells: str) -> str:
        return f"| {' | '.join(cells)} |"

    lines = [line(*HEAD), "|---" * len(HEAD) + "|"]
    for fault in FAULTS:
        for row in rows(dependency):
            if row.fault == fault:
                watch = f"`{row.watch}`" if row.watch else ""
                answers = (row.check, row.quota, row.report, row.export)
                lines.append(
                    line(f"**{fault}**: {row.how}", *answers, f"`{row.ready}`", watch, f"{row.back:g} s")
                )
        if any((none.dependency, none.fault) == (dependency, fault) for none in SENSELESS):
            lines.append(line(f"**{fault}**", *["-"] * 7))
    notes = [
        *(f"- {row.fault}, {row.how}: {row.more}." for row in rows(dependency) if row.more),
        *(f"- {none.fault}: {none.why}." for none in SENSELESS if none.dependency == dependency),
    ]
    return [*lines, "", *notes] if notes else lines


if __name__ == "__main__":
    for each in DEPENDENCIES:
        sys.stdout.write("\n".join((f"## {each}", "", *markdown(each), "", "")))

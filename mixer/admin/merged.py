"""One page of metrics of several processes."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from prometheus_client.registry import Collector

from mixer.exposition import Buckets, Count, Exemplar, Family, Value, Values

# Gauges that say the same in each process, or whose sum says nothing: the largest is shown.
LARGEST = frozenset({"mixer_certificate_not_after_timestamp_seconds", "process_start_time_seconds"})
_COUNTED = ("counter", "histogram")
OVERFLOW = "overflow"  # the value of all labels of the series that the rest goes to


@dataclass(slots=True)
class _Kept:
    """What a series had in processes that are gone, and when it was last in one that is not."""

    value: Value
    seen: float


@dataclass(slots=True)
class _Metric:
    """A family's form, as it came last, and what is kept of it."""

    family: Family
    kept: dict[Values, _Kept] = field(default_factory=dict)


class Merged(Collector):
    """The sum over workers, and over what workers that are gone had counted: a counter never goes back.

    Counters and histograms are added up. So are gauges, of the living workers alone; those of `LARGEST`, and what is
    always 1, are not. `ttl`: as in the workers, seconds after which a series that nothing is counted in may go; None:
    never. `limit`: series kept of a metric for workers that are gone; what is beyond goes into one overflow series.

    `put` and `retire` are called from one thread; `collect` may run in another.
    """

    def __init__(
        self, limit: int, ttl: float | None = None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._limit = limit
        self._ttl = ttl
        self._clock = clock
        self._workers: dict[str, Mapping[str, Family]] = {}
        self._metrics: dict[str, _Metric] = {}

    def put(self, worker: str, families: Iterable[Family]) -> None:
        """What a worker shows now, instead of what it showed before. One that was restarted is another worker."""
        now = self._clock()
        told = {family.name: family for family in families}
        before = self._workers.get(worker, {})
        self._workers = {**self._workers, worker: told}
        for name, family in told.items():
            metric = self._metrics.get(name)
            if metric is None or not _alike(metric.family, family):  # other settings: nothing to add it to
                self._metrics = {**self._metrics, name: _Metric(family)}
            elif not metric.family.series:
                metric.family = family  # without series a family need not tell its labels
        for name, metric in self._metrics.items():
            if metric.family.type in _COUNTED:
                old = before[name].series if name in before else ()
                self._let_go(worker, name, old, now)

    def retire(self, worker: str) -> None:
        """A worker is gone. What it showed last stays in the sum."""
        now = self._clock()
        last = self._workers.get(worker, {})
        self._workers = {name: told for name, told in self._workers.items() if name != worker}
        for name, family in last.items():
            if family.type in _COUNTED:
                self._keep(name, family.series, now)

    def collect(self) -> Iterable[Family]:
        workers = self._workers
        for name, metric in self._metrics.items():
            family = metric.family
            add = _largest if family.type == "info" or name in LARGEST else _sum
            sums: dict[Values, Value] = {}
            for told in workers.values():
                if (own := told.get(name)) is not None and _alike(own, family):
                    for values, value in own.series:
                        sums[values] = add(sums[values], value) if values in sums else value
            for values, was in list(metric.kept.items()):
                sums[values] = _sum(sums[values], was.value) if values in sums else was.value
            yield Family(
                name, family.documentation, family.type, family.labels, list(sums.items()), family.bounds
            )

    def describe(self) -> Iterable[Family]:
        """None: which there are is for the workers to say."""
        return ()

    def _let_go(self, worker: str, name: str, before: Sequence[tuple[Values, Value]], now: float) -> None:
        """Forget what is idle. A worker lets go of a series that is idle there: where it is not so in others, its part
        must stay, or the sum would fall; where it is so in all of them, nothing may stay."""
        kept = self._metrics[name].kept
        series = {key: dict(told[name].series) for key, told in self._workers.items() if name in told}
        own, living = series.get(worker, {}), set().union(*series.values())
        self._keep(name, [(v, value) for v, value in before if v not in own and v in living], now)
        for values, _ in before:
            if values not in living:
                kept.pop(values, None)
        overflow = self._overflow(self._metrics[name].family)
        for values, was in list(kept.items()):
            if values in living:
                was.seen = now
            elif self._ttl is not None and now - was.seen >= self._ttl and values != overflow:
                del kept[values]

    def _keep(self, name: str, series: Sequence[tuple[Values, Value]], now: float) -> None:
        metric = self._metrics[name]
        kept = metric.kept
        for values, value in series:
            at = values
            if at not in kept and len(kept) >= self._limit:
                at = self._overflow(metric.family)
            if (was := kept.get(at)) is not None:
                kept[at] = _Kept(_sum(was.value, value), now)
            else:
                kept[at] = _Kept(value, now)

    def _overflow(self, family: Family) -> Values:
        return (OVERFLOW,) * len(family.labels)


def _alike(one: Family, other: Family) -> bool:
    if not one.series or not other.series:
        return one.type == other.type
    return (one.type, one.labels, one.bounds) == (other.type, other.labels, other.bounds)


def _sum(one: Value, other: Value) -> Value:
    if isinstance(one, Buckets) and isinstance(other, Buckets):
        exemplars: dict[int, Exemplar] = dict(one.exemplars)
        for place, exemplar in other.exemplars.items():
            if place not in exemplars or exemplar.timestamp > exemplars[place].timestamp:
                exemplars[place] = exemplar
        counts = [a + b for a, b in zip(one.counts, other.counts, strict=True)]
        return Buckets(counts, one.sum + other.sum, exemplars)
    return _with(_number(one) + _number(other), one, other)


def _largest(one: Value, other: Value) -> Value:
    return max(_number(one), _number(other))


def _number(value: Value) -> float:
    if isinstance(value, Buckets):
        raise TypeError("buckets are no number")
    return value.value if isinstance(value, Count) else value


def _with(number: float, *values: Value) -> Value:
    """A number with the latest of the exemplars."""
    exemplars = [value.exemplar for value in values if isinstance(value, Count)]
    return Count(number, max(exemplars, key=lambda each: each.timestamp)) if exemplars else number

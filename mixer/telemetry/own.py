"""Metrics that operators define over records."""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence

from mixer.config import OwnMetric
from mixer.exposition import Buckets, Exemplar, Family, Value
from mixer.telemetry import labels
from mixer.telemetry.labelset import LabelError, LabelSet, label_set, pattern, text
from mixer.telemetry.record import AccessRecord, number
from mixer.telemetry.series import Table

# Prometheus' own, for times in seconds.
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)

Condition = Callable[[AccessRecord], bool]


class _State:
    __slots__ = ("counts", "exemplars", "sum", "touched")

    def __init__(self, buckets: int) -> None:
        self.counts = [0] * buckets
        self.sum: float = 0
        self.exemplars: dict[int, Exemplar] = {}
        self.touched = 0.0


class Own:
    """One metric, as the settings define it. Raises `LabelError` where they cannot be followed."""

    def __init__(self, settings: OwnMetric, limit: int, overflowed: Callable[[], None]) -> None:
        self._name = settings.name
        self._help = settings.help or settings.name
        self._kind = settings.type
        histogram = settings.type == "histogram"
        if histogram and settings.value is None:
            raise LabelError("value", "a field to observe, which a histogram needs", "nothing")
        if settings.buckets is not None and not histogram:
            raise LabelError("buckets", "a histogram has buckets, a counter has none")
        if not histogram and not settings.name.endswith("_total"):
            raise LabelError("name", 'a counter\'s name, which ends in "_total"', f'"{settings.name}"')
        self._bounds = (settings.buckets or SECONDS) if histogram else ()
        self._value = _number(settings.value) if settings.value is not None else None
        self._labels: LabelSet = _labels(settings)
        self._conditions = (
            *(_condition(field, regex, f"when.{field}") for field, regex in settings.when.items()),
            *map(
                _not,
                (_condition(field, regex, f"unless.{field}") for field, regex in settings.unless.items()),
            ),
        )
        size = len(self._bounds) + 1 if histogram else 0
        self._table: Table[_State] = Table(self._labels.names, limit, lambda: _State(size), overflowed)
        self.expire = self._table.expire

    def count(self, records: Iterable[AccessRecord], now: float, moment: float) -> None:
        """Requests and connections that are over. `now`, `moment`: as `Requests.count` has them."""
        read, conditions, value_of = self._labels.read, self._conditions, self._value
        known, bounds = self._table.known, self._bounds
        for record in records:
            if conditions and not all(holds(record) for holds in conditions):
                continue
            value = 1 if value_of is None else value_of(record)
            if value is None or value < 0:
                continue
            found = tuple([each(record) for each in read])
            key = labels.key(record) + found if self._labels.istio else found
            series = known.get(key)
            if series is None:
                istio = labels.either(record) if self._labels.istio else ()
                series = self._table.get(key, self._labels.pick(istio, found))
            series.touched = now
            series.sum += value
            if bounds:
                place = bisect_left(bounds, value)
                series.counts[place] += 1
                if trace := record.fields.get("trace_id"):
                    series.exemplars[place] = Exemplar(trace, value, moment)

    def families(self, before: float) -> Iterable[Family]:
        made: list[tuple[tuple[str, ...], Value]] = [
            (
                values,
                Buckets(list(state.counts), state.sum, dict(state.exemplars)) if self._bounds else state.sum,
            )
            for values, state in self._table.items(before)
        ]
        name = self._name if self._bounds else self._name.removesuffix("_total")
        yield Family(name, self._help, self._kind, self._table.labels, made, self._bounds)


def _labels(settings: OwnMetric) -> LabelSet:
    try:
        return label_set((), settings.labels)
    except LabelError as error:
        raise LabelError(f"labels.{error.key}", error.expected, error.got) from None


def _number(field: str) -> Callable[[AccessRecord], float | None]:
    try:
        return number(field)
    except KeyError:
        what = 'a field that is a number, such as "duration" or "http.response.body.size"'
        raise LabelError("value", what, f'"{field}"') from None


def _condition(field: str, regex: str, key: str) -> Condition:
    """Whether what is said of a field, or of one of Istio's labels, matches."""
    match = pattern(regex, key)
    if field in labels.HTTP:
        place = labels.HTTP.index(field)
        return lambda record: match.fullmatch(labels.either(record)[place]) is not None
    read = text(field, key)
    return lambda record: match.fullmatch(read(record)) is not None


def _not(condition: Condition) -> Condition:
    return lambda record: not condition(record)


def names(metrics: Sequence[OwnMetric]) -> Iterable[tuple[int, str]]:
    """Of each metric, by its place, the names that its samples have."""
    for place, metric in enumerate(metrics):
        if metric.type == "counter":
            yield place, metric.name
        else:
            yield from ((place, metric.name + suffix) for suffix in ("", "_bucket", "_count", "_sum"))

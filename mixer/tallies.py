"""Counters for the hot path, exposed through a prometheus_client registry: one update is an addition to a list.

One thread updates them; any may read them.
"""

from collections.abc import Iterable

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

OVERFLOW = "(other)"


class Count:
    """One number that goes up."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0

    def inc(self, number: int = 1) -> None:
        self.value += number


class Counts(Collector):
    """One metric: a number for each set of label values. As prometheus_client's `Counter`, without its locks."""

    def __init__(
        self, name: str, documentation: str, labelnames: tuple[str, ...], *, registry: CollectorRegistry
    ) -> None:
        self._family = name, documentation, labelnames
        self._children: dict[tuple[str, ...], Count] = {}
        registry.register(self)

    def labels(self, *values: str) -> Count:
        return self._children.setdefault(values, Count())

    def describe(self) -> Iterable[Metric]:
        name, documentation, labels = self._family
        yield CounterMetricFamily(name, documentation, labels=labels)

    def collect(self) -> Iterable[Metric]:
        name, documentation, labels = self._family
        family = CounterMetricFamily(name, documentation, labels=labels)
        for values, count in list(self._children.items()):
            family.add_metric(values, count.value)
        yield family


class Tally(Collector):
    """One metric with one label of fixed values. `row` has its numbers, to be added to in place."""

    def __init__(
        self,
        name: str,
        documentation: str,
        label: str,
        *,
        kinds: tuple[str, ...],
        registry: CollectorRegistry,
    ) -> None:
        self._family = name, documentation, label
        self._kinds = kinds
        self.row = [0] * len(kinds)
        registry.register(self)

    def describe(self) -> Iterable[Metric]:
        name, documentation, label = self._family
        yield CounterMetricFamily(name, documentation, labels=(label,))

    def collect(self) -> Iterable[Metric]:
        name, documentation, label = self._family
        family = CounterMetricFamily(name, documentation, labels=(label,))
        for kind, number in zip(self._kinds, self.row, strict=True):
            family.add_metric((kind,), number)
        yield family


class Tallies(Collector):
    """One metric with two labels: a free one, whose first `bound` values have series of their own, the others those of
    `(other)`; and one with fixed values. Series that never moved are not shown."""

    def __init__(
        self,
        name: str,
        documentation: str,
        labels: tuple[str, str],
        *,
        kinds: tuple[str, ...],
        bound: int,
        registry: CollectorRegistry,
    ) -> None:
        self._family = name, documentation, labels
        self._kinds = kinds
        self._bound = bound
        self._rows: dict[str, list[int]] = {}
        self._overflow = [0] * len(kinds)
        registry.register(self)

    def row(self, value: str) -> list[int]:
        """The numbers of this label value by kind, to be added to in place."""
        if (row := self._rows.get(value)) is not None:
            return row
        if len(self._rows) >= self._bound or value == OVERFLOW:
            return self._overflow
        row = self._rows[value] = [0] * len(self._kinds)
        return row

    def describe(self) -> Iterable[Metric]:
        name, documentation, labels = self._family
        yield CounterMetricFamily(name, documentation, labels=labels)

    def collect(self) -> Iterable[Metric]:
        name, documentation, labels = self._family
        family = CounterMetricFamily(name, documentation, labels=labels)
        for value, row in (*list(self._rows.items()), (OVERFLOW, self._overflow)):
            for kind, number in zip(self._kinds, row, strict=True):
                if number:
                    family.add_metric((value, kind), number)
        yield family

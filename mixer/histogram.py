"""Histograms for the hot path, exposed through a prometheus_client registry.

One update is a bisection and two additions, 0.3 µs; prometheus_client's own take 3 µs, with a lock for each number.
So one thread updates a histogram; any may read it.
"""

from bisect import bisect_left
from collections.abc import Iterable, Sequence

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString


class Histogram:
    """Counts by bucket, and the sum.

    `bounds` ascend; the last bucket, for what is above them, is added. They are shown as they are: 1 is not 1.0.
    """

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1  # a value on a bound belongs below it
        self._sum += value

    def add_to(self, family: HistogramMetricFamily, labels: Sequence[str]) -> None:
        """Put the cumulative counts into a family."""
        total, buckets = 0, []
        for bound, count in zip((*self._bounds, float("inf")), list(self._counts), strict=True):
            total += count
            shown = str(bound) if isinstance(bound, int) else floatToGoString(bound)  # type: ignore[no-untyped-call]
            buckets.append((shown, total))
        family.add_metric(labels, buckets, self._sum)


class Histograms(Collector):
    """One metric: a histogram for each set of label values."""

    def __init__(
        self,
        name: str,
        documentation: str,
        labelnames: Sequence[str],
        *,
        buckets: tuple[float, ...],
        registry: CollectorRegistry,
    ) -> None:
        self._family = name, documentation, tuple(labelnames)
        self._bounds = buckets
        self._children: dict[tuple[str, ...], Histogram] = {}
        registry.register(self)

    def labels(self, *values: str) -> Histogram:
        return self._children.setdefault(values, Histogram(self._bounds))

    def describe(self) -> Iterable[Metric]:
        name, documentation, labels = self._family
        yield HistogramMetricFamily(name, documentation, labels=labels)

    def collect(self) -> Iterable[Metric]:
        name, documentation, labels = self._family
        family = HistogramMetricFamily(name, documentation, labels=labels)
        for values, histogram in list(self._children.items()):
            histogram.add_to(family, values)
        yield family

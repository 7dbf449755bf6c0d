"""Bounded series in plain dicts.

prometheus_client's own children cost 2 µs and more an update, and have no bound. Here an update is a few
additions, and one series holds all metrics that have the same label set.
"""

from collections.abc import Callable, Sequence
from typing import Generic, Protocol, TypeVar

OVERFLOW = "overflow"
MAX_VALUE = 256  # characters of a label's value; what clients send has no bound of its own

# Envoy's default buckets, which Istio's histograms have: milliseconds and bytes alike.
BUCKETS = (
    0.5, 1, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000,
    10000, 30000, 60000, 300000, 600000, 1800000, 3600000,
)  # fmt: skip


class Series(Protocol):
    touched: float
    """When it was last counted in, by the clock of who counts."""


SeriesT = TypeVar("SeriesT", bound=Series)
Items = list[tuple[tuple[str, ...], SeriesT]]


class Table(Generic[SeriesT]):
    """Series by label set, at most `limit` of them; what comes after shares one overflow series.

    `overflowed` is called for each sample that goes there. `known` remembers the series of what a record's labels come
    from, so that they are worked out once for each; it is bounded too.
    """

    def __init__(
        self, labels: Sequence[str], limit: int, make: Callable[[], SeriesT], overflowed: Callable[[], None]
    ) -> None:
        self.labels = tuple(labels)
        self.known: dict[tuple[object, ...], SeriesT] = {}
        self._limit = limit
        self._max_known = 4 * limit
        self._make = make
        self._overflowed = overflowed
        self._series: dict[tuple[str, ...], SeriesT] = {}
        self._overflow: SeriesT | None = None

    def get(self, key: tuple[object, ...], values: tuple[str, ...]) -> SeriesT:
        """The series of a label set, which `key` stands for from now on if the series is its own."""
        remembered = True
        if values and max(map(len, values)) > MAX_VALUE:
            values, remembered = tuple(each[:MAX_VALUE] for each in values), False
        series = self._series.get(values)
        if series is None:
            if len(self._series) >= self._limit:
                if self._overflow is None:
                    self._overflow = self._make()
                self._overflowed()
                return self._overflow
            series = self._series[values] = self._make()
        if remembered:
            if len(self.known) >= self._max_known:
                self.known.clear()
            self.known[key] = series
        return series

    def expire(self, before: float) -> None:
        """Forget the series that were not counted in since then."""
        idle = [values for values, series in self._series.items() if series.touched < before]
        for values in idle:
            del self._series[values]
        if idle:
            self.known.clear()

    def items(self, before: float) -> Items[SeriesT]:
        """The series that were counted in since then, and the overflow: in one step, since the metrics page is made in
        another thread than the one that counts."""
        items = [item for item in list(self._series.items()) if item[1].touched >= before]
        if self._overflow is not None:
            items.append(((OVERFLOW,) * len(self.labels), self._overflow))
        return items

"""Bounded series in plain dicts, exposed through a prometheus_client registry.

prometheus_client's own children cost 2 µs and more an update, and have no bound. Here an update is a few
additions, and one series holds all metrics that have the same label set.
"""

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

OVERFLOW = "overflow"

# Envoy's default buckets, which Istio's histograms have: milliseconds and bytes alike.
BUCKETS = (
    0.5, 1, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000,
    10000, 30000, 60000, 300000, 600000, 1800000, 3600000,
)  # fmt: skip

SeriesT = TypeVar("SeriesT")


class Table(Generic[SeriesT]):
    """Series by label set, at most `limit` of them; what comes after shares one overflow series.

    `overflowed` is called for each sample that goes there.
    """

    def __init__(
        self, labels: Sequence[str], limit: int, make: Callable[[], SeriesT], overflowed: Callable[[], None]
    ) -> None:
        self.labels = tuple(labels)
        self._limit = limit
        self._make = make
        self._overflowed = overflowed
        self._series: dict[tuple[str, ...], SeriesT] = {}
        self._overflow: SeriesT | None = None

    def get(self, values: tuple[str, ...]) -> tuple[SeriesT, bool]:
        """The series of a label set, and whether it is one of its own."""
        series = self._series.get(values)
        if series is not None:
            return series, True
        if len(self._series) < self._limit:
            series = self._series[values] = self._make()
            return series, True
        if self._overflow is None:
            self._overflow = self._make()
        self._overflowed()
        return self._overflow, False

    def items(self) -> list[tuple[tuple[str, ...], SeriesT]]:
        """All series, in one step: the metrics page is made in another thread than the one that counts."""
        items = list(self._series.items())
        if self._overflow is not None:
            items.append(((OVERFLOW,) * len(self.labels), self._overflow))
        return items

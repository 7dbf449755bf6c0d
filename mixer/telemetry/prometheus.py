"""Counts records in the series of `/metrics`: Istio's standard metrics of the traffic, and operators' own."""

import time
from collections.abc import Callable, Iterable, Sequence

from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from mixer.config import Config
from mixer.metrics import Metrics
from mixer.telemetry.connections import Connections
from mixer.telemetry.record import TCP, AccessRecord
from mixer.telemetry.sink import OK, Receipt
from mixer.telemetry.v1.access_record_pb2 import AccessRecord as Schema
from mixer.telemetry.views import views

# A request is counted at its end. An Envoy that does not tell the type logs nothing else.
_HTTP_END = (Schema.NotSet, Schema.DownstreamEnd)
_TCP_END = (Schema.NotSet, Schema.TcpConnectionEnd)
_ALL = float("-inf")


class PrometheusSink(Collector):
    """See `Sink`. `clock`: in seconds, for series that are idle.

    Raises `SettingsError` for labels and metrics that cannot be had.
    """

    name = "prometheus"

    def __init__(
        self, settings: Config, metrics: Metrics, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        # Metrics that have the same labels overflow together: the first of them is told.
        self._views = views(settings, lambda name: metrics.series_overflow.labels(name).inc)
        self._groups = self._views.groups
        self._connections = Connections()
        self._clock = clock
        self._ttl = settings.telemetry.series_ttl
        self._next_sweep = 0.0
        self._received = metrics.sink_received.labels(self.name)
        self._delivered = metrics.sink_records.labels(self.name)
        self._registry = metrics.registry

    async def start(self) -> None:
        self._registry.register(self)

    def write(self, records: Sequence[AccessRecord], receipt: Receipt | None = None) -> None:
        now, moment, counted = self._clock(), time.time(), self._views
        if self._ttl is not None and now >= self._next_sweep:
            self._next_sweep = now + self._ttl / 10
            for group in self._groups:
                group.expire(now - self._ttl)
        requests = [each for each in records if each.type in _HTTP_END and each.shape is not TCP]
        for group in counted.requests:
            group.count(requests, now, moment)
        if counted.messages:
            for record in requests:
                get = record.fields.get
                if (sent := get("rpc_request_message_count")) is not None:
                    amounts = sent, get("rpc_response_message_count", 0)
                    for sums in counted.messages:
                        sums.add(record, amounts, now)
        over = requests
        if len(requests) < len(records):
            over = requests + self._connections_over(records, now)
        for metric in counted.own:
            metric.count(over, now, moment)
        self._received.inc(len(records))
        self._delivered.inc(len(records))
        if receipt is not None:
            receipt.durable(len(records))

    async def room(self) -> None:
        """It never blocks."""

    async def accepted(self) -> None:
        """Memory is all there is."""

    def status(self) -> str:
        return OK

    async def close(self, timeout: float) -> None:
        """Nothing waits here; the series stay to be read."""

    def _connections_over(self, records: Iterable[AccessRecord], now: float) -> list[AccessRecord]:
        """Count what is new of connections; answers those that are over."""
        over = []
        for record in records:
            if record.shape is not TCP:
                continue
            received = record.received or record.fields.get("envoy_bytes_received", 0)
            sent = record.sent or record.fields.get("envoy_bytes_sent", 0)
            if (change := self._connections.advance(record, received, sent)) is None:
                continue
            opened, closed, received, sent = change
            for sums in self._views.connections:
                sums.add(record, (sent, received, opened, closed), now)
            if record.type in _TCP_END:
                over.append(record)
        return over

    def describe(self) -> Iterable[Metric]:
        """The families without samples: what the registry checks for names given twice."""
        for group in self._groups:
            yield from group.families(float("inf"))

    def collect(self) -> Iterable[Metric]:
        """The families with all series that are not idle. May run in another thread."""
        before = _ALL if self._ttl is None else self._clock() - self._ttl
        for group in self._groups:
            yield from group.families(before)

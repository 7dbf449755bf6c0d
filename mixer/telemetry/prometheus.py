"""Istio's standard metrics of the proxied traffic, on Mixer's own `/metrics`.

Names, labels and buckets are Istio's (https://istio.io/latest/docs/reference/config/metrics/), so that its
dashboards work unchanged.
"""

from collections.abc import Iterable, Sequence

from prometheus_client.metrics_core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from mixer.histogram import Histogram
from mixer.metrics import Metrics
from mixer.telemetry import labels
from mixer.telemetry.connections import Connections
from mixer.telemetry.record import TCP, AccessRecord
from mixer.telemetry.series import BUCKETS, Table
from mixer.telemetry.sink import OK, Receipt
from mixer.telemetry.v1.access_record_pb2 import AccessRecord as Schema

# A request is counted at its end. An Envoy that does not tell the type logs nothing else.
_HTTP_END = (Schema.NotSet, Schema.DownstreamEnd)


class _Http:
    """The metrics of HTTP requests with one label set."""

    __slots__ = ("duration", "request_bytes", "requests", "response_bytes")

    def __init__(self) -> None:
        self.requests = 0
        self.duration, self.request_bytes, self.response_bytes = (Histogram(BUCKETS) for _ in range(3))


class _Grpc:
    __slots__ = ("request_messages", "response_messages")

    def __init__(self) -> None:
        self.request_messages = self.response_messages = 0


class _Tcp:
    __slots__ = ("closed", "opened", "received", "sent")

    def __init__(self) -> None:
        self.closed = self.opened = self.received = self.sent = 0


_HISTOGRAMS = {
    "istio_request_duration_milliseconds": ("duration", "Duration of requests, in milliseconds."),
    "istio_request_bytes": ("request_bytes", "Bytes of requests, headers included."),
    "istio_response_bytes": ("response_bytes", "Bytes of responses, headers included."),
}
_GRPC_COUNTERS = {
    "istio_request_messages_total": ("request_messages", "gRPC messages sent by clients."),
    "istio_response_messages_total": ("response_messages", "gRPC messages sent by servers."),
}
_TCP_COUNTERS = {
    "istio_tcp_sent_bytes_total": ("sent", "Bytes sent on TCP connections, as responses."),
    "istio_tcp_received_bytes_total": ("received", "Bytes received on TCP connections, as requests."),
    "istio_tcp_connections_opened_total": ("opened", "TCP connections opened."),
    "istio_tcp_connections_closed_total": ("closed", "TCP connections closed."),
}


class PrometheusSink(Collector):
    """Counts records in series; see `Sink`. `max_series` bounds the label sets of each metric."""

    name = "prometheus"

    def __init__(self, max_series: int, metrics: Metrics) -> None:
        overflow = metrics.series_overflow
        # A request's histograms have the label set of its counter, and overflow with it; connections likewise.
        self._http: Table[_Http] = Table(
            labels.HTTP, max_series, _Http, overflow.labels("istio_requests_total").inc
        )
        self._grpc: Table[_Grpc] = Table(
            labels.PEERS, max_series, _Grpc, overflow.labels("istio_request_messages_total").inc
        )
        self._tcp: Table[_Tcp] = Table(
            labels.TCP, max_series, _Tcp, overflow.labels("istio_tcp_connections_opened_total").inc
        )
        self._connections = Connections()
        # What of a record its labels come from -> its series: labels are worked out once for each.
        self._known: dict[tuple[object, ...], _Http] = {}
        self._max_known = 4 * max_series
        self._received = metrics.sink_received.labels(self.name)
        self._delivered = metrics.sink_records.labels(self.name)
        self._registry = metrics.registry

    async def start(self) -> None:
        self._registry.register(self)

    def write(self, records: Sequence[AccessRecord], receipt: Receipt | None = None) -> None:
        for record in records:
            if record.shape is TCP:
                self._count_connection(record)
            elif record.type in _HTTP_END:
                self._count_request(record)
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

    def _count_request(self, record: AccessRecord) -> None:
        fields, shape = record.fields, record.shape
        get = fields.get
        key = (
            record.origin,
            record.cluster,
            shape.host,
            shape.status,
            get("envoy_response_flags"),
            get("rpc_system"),
            get("rpc_grpc_status_code"),
            record.peers,
        )
        series = self._known.get(key)
        if series is None:
            series, own = self._http.get(labels.http(record))
            if own:
                if len(self._known) >= self._max_known:
                    self._known.clear()
                self._known[key] = series
        series.requests += 1
        if record.duration is not None:
            series.duration.observe(record.duration * 1000)
        # An Envoy before 1.22 does not tell the bytes on the wire.
        series.request_bytes.observe(
            record.received or get("http_request_header_size", 0) + get("http_request_body_size", 0)
        )
        series.response_bytes.observe(
            record.sent or get("http_response_header_size", 0) + get("http_response_body_size", 0)
        )
        if "rpc_request_message_count" in fields:
            messages, _ = self._grpc.get(labels.peers(record))
            messages.request_messages += fields["rpc_request_message_count"]
            messages.response_messages += fields["rpc_response_message_count"]

    def _count_connection(self, record: AccessRecord) -> None:
        received = record.received or record.fields.get("envoy_bytes_received", 0)
        sent = record.sent or record.fields.get("envoy_bytes_sent", 0)
        if (change := self._connections.advance(record, received, sent)) is None:
            return
        opened, closed, received, sent = change
        series, _ = self._tcp.get(labels.tcp(record))
        series.opened += opened
        series.closed += closed
        series.received += received
        series.sent += sent

    def describe(self) -> Iterable[Metric]:
        """The families without samples: what the registry checks for names given twice."""
        yield CounterMetricFamily("istio_requests_total", "Requests.", labels=self._http.labels)
        for name, (_, text) in _HISTOGRAMS.items():
            yield HistogramMetricFamily(name, text, labels=self._http.labels)
        for name, (_, text) in _GRPC_COUNTERS.items():
            yield CounterMetricFamily(name, text, labels=self._grpc.labels)
        for name, (_, text) in _TCP_COUNTERS.items():
            yield CounterMetricFamily(name, text, labels=self._tcp.labels)

    def collect(self) -> Iterable[Metric]:
        """The families with all series. May run in another thread."""
        http, grpc, tcp = self._http.items(), self._grpc.items(), self._tcp.items()
        for family in self.describe():
            name = f"{family.name}_total" if family.type == "counter" else family.name
            if isinstance(family, HistogramMetricFamily):
                attribute = _HISTOGRAMS[name][0]
                for values, series in http:
                    getattr(series, attribute).add_to(family, values)
            elif isinstance(family, CounterMetricFamily):
                if name == "istio_requests_total":
                    samples = [(values, series.requests) for values, series in http]
                elif name in _GRPC_COUNTERS:
                    samples = [(values, getattr(series, _GRPC_COUNTERS[name][0])) for values, series in grpc]
                else:
                    samples = [(values, getattr(series, _TCP_COUNTERS[name][0])) for values, series in tcp]
                for values, value in samples:
                    family.add_metric(values, value)
            yield family

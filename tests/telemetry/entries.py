"""Access-log entries and records to test with."""

from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

from envoy.data.accesslog.v3.accesslog_pb2 import AccessLogType, HTTPAccessLogEntry, TCPAccessLogEntry
from envoy.service.accesslog.v3 import als_pb2
from google.protobuf.json_format import ParseDict
from prometheus_client import CollectorRegistry

from mixer.metrics import Metrics
from mixer.telemetry.decode import Decoder
from mixer.telemetry.entry import EntryReader
from mixer.telemetry.intake_pb2 import StreamAccessLogsMessage
from mixer.telemetry.record import AccessRecord

Identifier = als_pb2.StreamAccessLogsMessage.Identifier

# Node metadata as Istio's agent gives it to Envoy.
RATINGS = {
    "NAMESPACE": "shop",
    "WORKLOAD_NAME": "ratings-v1",
    "CLUSTER_ID": "Kubernetes",
    "LABELS": {
        "app": "ratings",
        "version": "v1",
        "service.istio.io/canonical-name": "ratings",
        "service.istio.io/canonical-revision": "v1",
    },
}


def identifier(node_id: str = "edge-1", metadata: dict[str, Any] | None = None) -> Identifier:
    made = Identifier(log_name="edge")
    made.node.id = node_id
    made.node.cluster = "edge"
    made.node.metadata.update(metadata or {})
    return made


def http_entry(
    status: int = 200,
    path: str = "/orders/1",
    *,
    method: str = "GET",
    host: str = "shop.example",
    cluster: str = "orders",
    kind: str = "DownstreamEnd",
    milliseconds: float | None = 12,
    **more: Any,
) -> HTTPAccessLogEntry:
    """A usual request. `more` is merged into the common properties, in proto3's JSON form."""
    common = {
        "downstreamRemoteAddress": {"socketAddress": {"address": "10.0.0.9", "portValue": 41000}},
        "downstreamDirectRemoteAddress": {"socketAddress": {"address": "10.0.0.9", "portValue": 41000}},
        "downstreamLocalAddress": {"socketAddress": {"address": "10.0.0.1", "portValue": 8080}},
        "startTime": "2026-03-01T12:00:00.000000001Z",
        "upstreamCluster": cluster,
        "accessLogType": kind,
        "downstreamWireBytesReceived": 321,
        "downstreamWireBytesSent": 4321,
        **({} if milliseconds is None else {"duration": f"{milliseconds / 1000:.9f}s"}),
        **more,
    }
    request = {
        "requestMethod": method,
        "path": path,
        "authority": host,
        "scheme": "https",
        "requestId": "r-1",
    }
    response = {"responseCode": status} if status else {}
    entry = {"protocolVersion": "HTTP2", "commonProperties": common, "request": request, "response": response}
    return ParseDict(entry, HTTPAccessLogEntry())


def tcp_entry(
    received: int = 10, sent: int = 20, *, kind: str = "TcpConnectionEnd", port: int = 41000, **more: Any
) -> TCPAccessLogEntry:
    common = {
        "downstreamRemoteAddress": {"socketAddress": {"address": "10.0.0.9", "portValue": port}},
        "downstreamLocalAddress": {"socketAddress": {"address": "10.0.0.1", "portValue": 9000}},
        "upstreamCluster": "db",
        "accessLogType": kind,
        **more,
    }
    entry = {
        "commonProperties": common,
        "connectionProperties": {"receivedBytes": received, "sentBytes": sent},
    }
    return ParseDict(entry, TCPAccessLogEntry())


def with_metadata(entry: Any, namespace: str, values: dict[str, Any]) -> Any:
    """The entry with dynamic metadata, as a filter of Envoy leaves it."""
    entry.common_properties.metadata.filter_metadata[namespace].update(values)
    return entry


def record(entry: Any, who: Identifier | None = None) -> AccessRecord:
    """The record of one entry of Envoy's type."""
    return read(EntryReader(who or identifier(), Decoder()), entry)


def records(
    count: int, make: Callable[[int], Any] = lambda n: http_entry(path=f"/{n}"), node: str = "edge-1"
) -> list[AccessRecord]:
    """Records of one stream; `make` answers the entry of each number."""
    reader = EntryReader(identifier(node), Decoder())
    return [read(reader, make(number)) for number in range(count)]


def read(reader: EntryReader, entry: Any) -> AccessRecord:
    data = entry.SerializeToString()
    (made,) = reader.http((data,)) if isinstance(entry, HTTPAccessLogEntry) else reader.tcp((data,))
    return made


def messages(
    entries: Iterable[Any], who: Identifier | None = None, size: int = 30
) -> list[StreamAccessLogsMessage]:
    """Entries of one kind as Envoy streams them: the identifier in the first message only."""
    left, made = list(entries), []
    while left or not made:
        part, left = left[:size], left[size:]
        message = als_pb2.StreamAccessLogsMessage()
        if not made:
            message.identifier.CopyFrom(who or identifier())
        if part and isinstance(part[0], TCPAccessLogEntry):
            message.tcp_logs.log_entry.extend(part)
        elif part:
            message.http_logs.log_entry.extend(part)
        made.append(StreamAccessLogsMessage.FromString(message.SerializeToString()))
    return made


class Streamed:
    """A stream's messages, as a front gives them. `together`: all are here from the beginning."""

    def __init__(self, items: AsyncIterator[StreamAccessLogsMessage], together: bool = False) -> None:
        self.is_ready = together
        self._items = items

    def __aiter__(self) -> AsyncIterator[StreamAccessLogsMessage]:
        return self._items


def streamed(items: Iterable[StreamAccessLogsMessage], *, together: bool = False) -> Streamed:
    async def one_by_one() -> AsyncIterator[StreamAccessLogsMessage]:
        for item in items:
            yield item

    return Streamed(one_by_one(), together)


def new_metrics() -> Metrics:
    return Metrics(CollectorRegistry())


def value(metrics: Metrics, name: str, **labels: str) -> float:
    """A sample's value; 0 when there is none."""
    return metrics.registry.get_sample_value(name, labels) or 0.0


ALL_TYPES = tuple(AccessLogType.keys())

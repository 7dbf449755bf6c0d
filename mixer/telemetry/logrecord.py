"""Log records of OpenTelemetry, as Envoy's access logger sends them, to records."""

from collections.abc import Iterator, Sequence
from hashlib import sha256
from typing import Any, NamedTuple

from envoy.service.accesslog.v3 import als_pb2
from google.protobuf.message import DecodeError
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp

from mixer.telemetry import otlp_pb2 as otlp
from mixer.telemetry.attributes import (
    HEADERS,
    HOLDERS,
    HOLDS,
    MAX_ATTRIBUTES,
    Attribute,
    Attributes,
    MalformedError,
    pairs,
    told,
    value,
)
from mixer.telemetry.decode import TELLING_HEADERS, Parts
from mixer.telemetry.entry import tell
from mixer.telemetry.flags import LETTERS
from mixer.telemetry.logbatch import Log, LogBatches
from mixer.telemetry.peers import PEER_FIELDS, Identity, namespace_of
from mixer.telemetry.record import PLAIN, TCP, AccessRecord, Fields, Shape, encoded
from mixer.telemetry.redaction import Redaction

_FLAGS = {letters: name for name, letters in LETTERS.items()}
_PLAIN = frozenset(PLAIN.values()) - {"envoy_access_log_type"}
# Envoy's built-in resource labels, and what they are in the node of an access-log stream.
_NODE = {"node_name": "id", "cluster_name": "cluster"}


class _Whole(NamedTuple):
    """The source of one record. See `record.Source`."""

    event_ids: tuple[bytes]
    encoded: tuple[bytes]
    connection: tuple[bytes, bytes, bytes]
    waiting: tuple[str, ...] = ()

    def ends(self, _: int) -> tuple[bytes, bytes, bytes]:
        return self.connection

    def holders(self, _: int) -> tuple[str, ...]:
        return self.waiting


class LogReader:
    """Makes records of log records, each with its resource. Shared by all calls."""

    def __init__(self, redaction: Redaction) -> None:
        self._redaction = redaction
        self._attributes_of = Attributes()
        self._batches = LogBatches(redaction, self.record)
        self._identity: Parts[Identity] = Parts(
            _identity, Identity(als_pb2.StreamAccessLogsMessage.Identifier())
        )

    def identity(self, resource: bytes) -> Identity:
        """Who logged. Raises `MalformedError`."""
        return self._identity[resource]

    def records(self, logs: Sequence[Log]) -> list[AccessRecord | None]:
        """What `record` makes of each, many at once; None for what it is to be asked for, or refuses."""
        return self._batches.records(logs)

    def record(self, data: bytes, identity: Identity, event_id: bytes) -> AccessRecord:
        """Raises `MalformedError` where a log record is none, or an attribute not what its name says."""
        try:
            log = otlp.LogRecord.FromString(data)
        except DecodeError:
            raise MalformedError("a log record is no valid protobuf message") from None
        fields, maps, spans = self._attributes(log)
        if fields.get("user_agent_original", "").startswith("grpc-"):
            fields.setdefault(
                "rpc_system", "grpc"
            )  # as gRPC's own clients call themselves; a content type knows better
        for kind in HEADERS:
            if kind in maps:
                self._take_headers(maps, kind, fields)
        trace = log.trace_id.hex()
        if len(trace) == 32 and "trace_id" not in fields:
            fields["trace_id"] = trace
        self._redact(fields, maps)
        _prove(fields)
        _tell_peer_apart(fields)
        kind = spans.pop("envoy_access_log_type", 0)
        holders: tuple[str, ...] = spans.pop(HOLDERS, ())
        if spans.pop(HOLDS, False) and (decision_id := fields.get("mixer_decision_id")):
            holders = (*holders, decision_id)
        shape = _shape(fields)
        protocol = _TCP if shape is TCP else _HTTP
        _judge(fields, shape)
        origin = identity.origin(fields.get("envoy_upstream_cluster", ""))
        for name in origin.fields.keys() & fields.keys():
            del fields[name]  # an Envoy knows itself better
        seconds, nanos = divmod(log.time_unix_nano, 1_000_000_000)
        start = {"start_time": Timestamp(seconds=seconds, nanos=nanos)} if log.time_unix_nano else {}
        span = spans.get("duration")
        whole: Fields = {
            **maps,
            **spans,
            **start,
            "envoy_access_log_type": kind,
            "event_id": event_id.decode(),
        }
        return AccessRecord(
            origin,
            shape,
            fields,
            tuple(map(fields.get, PEER_FIELDS)),
            kind,
            fields.get("envoy_upstream_cluster", ""),
            None if span is None else span.seconds + span.nanos / 1e9,
            fields.get("envoy_downstream_wire_bytes_received", 0),
            fields.get("envoy_downstream_wire_bytes_sent", 0),
            _Whole((event_id,), (protocol + origin.protobuf + encoded(whole),), _ends(fields), holders),
            0,
        )

    def _attributes(self, log: Any) -> tuple[Fields, dict[str, dict[str, str]], Fields]:
        """Plain fields, maps, and the rest."""
        fields: Fields = {}
        maps: dict[str, dict[str, str]] = {}
        spans: Fields = {}
        for attributes in _all(log, self._attributes_of):
            for field, found, key in attributes:
                if key:
                    maps.setdefault(field, {})[key] = found
                elif field in _PLAIN:
                    fields[field] = found
                else:
                    spans[field] = found
        return fields, maps, spans

    def _take_headers(self, maps: dict[str, dict[str, str]], kind: str, fields: Fields) -> None:
        kept = {}
        for name, text in maps[kind].items():
            raw = name.encode()
            if (passed := self._redaction.header(raw, text.encode())) is not None:
                kept[name] = passed.decode()
                if raw in TELLING_HEADERS:
                    tell(raw, passed, fields)
        maps[kind] = kept

    def _redact(self, fields: Fields, maps: dict[str, dict[str, str]]) -> None:
        for name, clean in self._redaction.fields.items():
            if (text := fields.get(name)) is not None:
                fields[name] = clean(text)
                if not fields[name]:
                    del fields[name]
        if tags := maps.get("envoy_custom_tags"):
            maps["envoy_custom_tags"] = {name: self._redaction.tag(text) for name, text in tags.items()}


def _begin(resource: bytes) -> Any:
    """The hash of a record's id, as far as all records of a resource share it."""
    return sha256(b"%d:%b" % (len(resource), resource))


_begun: Parts[Any] = Parts(_begin, None)


def event_id(resource: bytes, record: bytes, seen: dict[bytes, int]) -> bytes:
    """An id that stays when the same log record is sent again: 128 bits of its hash, and which one it is among those
    in this call that are alike to the last bit (`seen`, of one call)."""
    found = _begun[resource].copy()
    found.update(record)
    name = found.digest()[:16].hex().encode()
    count = seen[name] = seen.get(name, 0) + 1
    return b"%b-%d" % (name, count)


def _all(log: Any, attributes: Attributes) -> Iterator[tuple[Attribute, ...]]:
    """What the attributes tell, and the body: more attributes, or text."""
    raw = log.attributes
    if log.body.HasField("kvlist_value"):
        try:
            raw = [*raw, *otlp.KeyValueList.FromString(log.body.kvlist_value).values]
        except DecodeError:
            raise MalformedError("the body is no valid protobuf message") from None
    elif log.HasField("body"):
        yield told("body", value(log.body))
    if len(raw) > MAX_ATTRIBUTES:
        raise MalformedError(f"expected at most {MAX_ATTRIBUTES} attributes, got {len(raw)}")
    yield from map(attributes, raw)


def _identity(resource: bytes) -> Identity:
    """The node of an access-log stream, from the resource of log records."""
    identifier = als_pb2.StreamAccessLogsMessage.Identifier()
    try:
        attributes = otlp.Resource.FromString(resource).attributes
    except DecodeError:
        raise MalformedError("a resource is no valid protobuf message") from None
    node = identifier.node
    for name, found in pairs(attributes):
        if isinstance(found, bytes):
            if name == "LABELS":
                node.metadata.update({"LABELS": _labels(found)})
        elif not isinstance(found, str):
            continue
        elif name == "log_name":
            identifier.log_name = found
        elif name == "zone_name":
            node.locality.zone = found
        elif name in _NODE:
            setattr(node, _NODE[name], found)
        elif name in ("WORKLOAD_NAME", "NAMESPACE", "CLUSTER_ID"):
            node.metadata.update({name: found})
    return Identity(identifier)


def _labels(data: bytes) -> Struct:
    try:
        values = otlp.KeyValueList.FromString(data).values
    except DecodeError:
        raise MalformedError("LABELS of a resource are no valid protobuf message") from None
    labels = Struct()
    labels.update({name: found for name, found in pairs(values) if isinstance(found, str)})
    return labels


def _prove(fields: Fields) -> None:
    """What certificates prove."""
    source, destination = (fields.get(f"istio_{side}_principal", "") for side in ("source", "destination"))
    if namespace := namespace_of(source):
        fields["istio_source_workload_namespace"] = namespace
    if namespace := namespace_of(destination):
        fields["istio_destination_workload_namespace"] = namespace
    if source and destination:
        fields["istio_connection_security_policy"] = "mutual_tls"


def _tell_peer_apart(fields: Fields) -> None:
    """The connection's other end is told where Envoy took the client from x-forwarded-for."""
    if all(
        fields.get(f"network_peer_{part}") == fields.get(f"client_{part}") for part in ("address", "port")
    ):
        fields.pop("network_peer_address", None)
        fields.pop("network_peer_port", None)


def _shape(fields: Fields) -> Shape:
    if fields.pop("network_protocol_name", "") == "tcp":
        return TCP
    return Shape(
        b"", host=fields.get("server_address", ""), status=fields.get("http_response_status_code", 0)
    )


_HTTP, _TCP = (encoded({"network_protocol_name": name}) for name in ("http", "tcp"))


def _judge(fields: Fields, shape: Shape) -> None:
    """What follows from other fields, as in a record of an access-log stream."""
    if "rpc_grpc_status_code" in fields and "rpc_system" not in fields:
        del fields["rpc_grpc_status_code"]
    if "error_type" not in fields and (shape.status >= 500 or not shape.status):
        flag = _FLAGS.get(fields.get("envoy_response_flags", "").partition(",")[0], "")
        if flag or shape.status:
            fields["error_type"] = flag or str(shape.status)


def _ends(fields: Fields) -> tuple[bytes, bytes, bytes]:
    def end(prefix: str) -> bytes:
        return f"{fields.get(f'{prefix}_address', '')} {fields.get(f'{prefix}_port', '')}".encode()

    return end("client"), end("network_peer"), end("network_local")

"""Log records that have the same attributes in the same order, as those of one access logger of Envoy have: what is to
be done with each attribute is found out once, from its name.

Most attributes tell a field of their own (`logcolumns`). Those that tell something together, such as which side Envoy
was on, what a record is counted under, or whether there was an error, have few values, and are read together as a log
record of their own: once for all records that have them alike (`Joint`).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import repeat
from typing import Any, NamedTuple

from mixer.telemetry import otlp_pb2 as otlp
from mixer.telemetry.attributes import (
    HEADERS,
    HOLDERS,
    HOLDS,
    MAX_ATTRIBUTES,
    SPECIAL,
    MalformedError,
    pair,
    placed,
)
from mixer.telemetry.keyvalues import Column, Memory
from mixer.telemetry.logcolumns import Entry, Fields, Number, Path, Pieces, Span, Text, Told, Values
from mixer.telemetry.peers import PEER_FIELDS, Identity
from mixer.telemetry.record import PLAIN, SCHEMA_FIELDS, AccessRecord, Origin, Shape
from mixer.telemetry.record import Fields as ByName
from mixer.telemetry.redaction import URL_HEADERS, Redaction
from mixer.telemetry.v1.access_record_pb2 import AccessRecord as Schema
from mixer.telemetry.wire import SHORT

MAX_NAMES = 200  # of a layout
_MAX_JOINTS = 4096
_MAX_KEY = 2048  # bytes of attributes that are remembered together
_GRPC, _DECISION = (
    otlp.KeyValue(key=name, value=otlp.AnyValue(string_value=value)).SerializeToString()
    for name, value in ((b"user_agent.original", b"grpc-"), (b"mixer.decision_id", b"-id"))
)
# What metrics look at in `AccessRecord.fields`, beside what is added there in `logbatch`.
_COUNTED = (
    *PEER_FIELDS,
    "istio_connection_security_policy",
    "envoy_response_flags",
    "rpc_system",
    "rpc_grpc_status_code",
)
# Told together: what decides on another field, or may be in the origin.
_JOINT = {
    *_COUNTED,
    "istio_reporter",
    "envoy_node_id",
    "envoy_node_cluster",
    "envoy_node_zone",
    "envoy_log_name",
    "envoy_upstream_cluster",
    "envoy_access_log_type",
    "network_protocol_name",
    "server_address",
    "server_port",
    "http_response_status_code",
    "error_type",
}
_JOINT_HEADERS = ("content-type", "grpc-status")
_TRACE = "traceparent"
_COUNTS = ("rpc_request_message_count", "rpc_response_message_count")
_IN_FIELDS = {"trace_id", "parent_span_id", *_COUNTS}
_SIZES = {
    "http_request_header_size",
    "http_request_body_size",
    "http_response_header_size",
    "http_response_body_size",
    "envoy_bytes_received",
    "envoy_bytes_sent",
}
_ENDS = tuple(
    f"{end}.{part}" for end in ("client", "network.peer", "network.local") for part in ("address", "port")
)

Heads = tuple[bytes, ...]
"""The names of attributes, each with what a KeyValue has before it."""
Place = tuple[int, Any]
"""Where an attribute is, and its column."""
Record = Callable[[bytes, Identity, bytes], AccessRecord]
"""`LogReader.record`."""


class Joint(NamedTuple):
    """What the joint attributes of a record tell: as in `AccessRecord`."""

    origin: Origin
    shape: Shape
    fields: ByName
    peers: tuple[object, ...]
    type: int
    cluster: str
    encoded: bytes
    """The origin's fields, and all of the attributes' that is not in `fields`."""
    holds: bool
    """Whether the decision's id is one of the record's holders."""


class Joints(dict[tuple[Any, ...], Joint]):
    """By layout, identity, `_GRPC` where the user agent is gRPC's, and the joint attributes' bytes."""

    def __init__(self, record: Record) -> None:
        super().__init__()
        self._record = record

    def __missing__(self, key: tuple[Any, ...]) -> Joint:
        layout, identity, agent, *attributes = key
        for name, data in zip(layout.joint_names, attributes, strict=True):
            if pair(data)[0] != name:
                raise MalformedError("another attribute is in this place")
        log = otlp.LogRecord(attributes=[*attributes, _DECISION, *filter(None, (agent,))])
        record = self._record(log.SerializeToString(), identity, b"")
        fields = {name: record.fields[name] for name in _COUNTED if name in record.fields}
        message = Schema.FromString(record.to_protobuf())
        for name in (*fields, "mixer_decision_id", "user_agent_original"):
            message.ClearField(name)
        made = Joint(
            record.origin, record.shape, fields, record.peers, record.type, record.cluster,
            message.SerializeToString(), bool(record.holders),
        )  # fmt: skip
        if sum(map(len, attributes)) <= _MAX_KEY:
            if len(self) >= _MAX_JOINTS:
                self.clear()
            self[key] = made
        return made


class Columns(dict[str, Column[Any]]):
    """By the names of their attributes, shared by all layouts."""

    def __init__(self, redaction: Redaction) -> None:
        super().__init__()
        self._redaction = redaction
        self._memory = Memory()

    def __missing__(self, name: str) -> Column[Any]:
        if len(self) >= MAX_ATTRIBUTES:
            self.clear()
        made = self[name] = self._made(name)
        return made

    def _made(self, name: str) -> Column[Any]:
        redaction, memory = self._redaction, self._memory
        field, key = placed(name)
        if name == "url.path":
            return Path(name, memory, redaction)
        if name == HOLDERS or field in _IN_FIELDS:
            return Told(name, memory)
        if name in SPECIAL or not key:
            return self._plain(name, field)
        if field in HEADERS:
            return self._header(name, field, key)
        tag = redaction.tag if field == "envoy_custom_tags" else None
        return Entry(name, memory, field, key, tag, paths=True)

    def _plain(self, name: str, field: str) -> Column[Any]:
        memory, descriptor = self._memory, SCHEMA_FIELDS[field]
        if name in SPECIAL or descriptor.cpp_type == descriptor.CPPTYPE_BOOL:
            return Fields(name, memory)
        if descriptor.message_type is not None:
            return Span(name, memory, field)
        if descriptor.cpp_type == descriptor.CPPTYPE_STRING:
            return Text(name, memory, field, self._redaction.fields.get(field))
        return Number(name, memory, field)

    def _header(self, name: str, field: str, key: str) -> Column[Any]:
        redaction, header = self._redaction, key.encode()
        if header not in URL_HEADERS and redaction.header(header, b"") is not None:
            return Entry(name, self._memory, field, key)

        def clean(text: str) -> str | None:
            passed = redaction.header(header, text.encode())
            return None if passed is None else passed.decode()

        return Entry(name, self._memory, field, key, clean)


class Layout:
    """Where each attribute is, and what it is for."""

    def __init__(self, names: Sequence[str], columns: Columns, redaction: Redaction) -> None:
        at = {name: place for place, name in enumerate(names)}
        joint = list(filter(_is_joint, names))
        self.joint_names = tuple(joint)
        self.joint = tuple(at[name] for name in joint)
        self.columns = tuple((at[name], columns[name]) for name in names if not _is_joint(name))
        found = dict(self.columns)

        def one(name: str) -> Place | None:
            return (at[name], found[at[name]]) if name in at else None

        self.holders = one(HOLDERS)
        self.decision = one("mixer.decision_id")
        self.agent = at.get("user_agent.original")
        self.ends = tuple(map(at.get, _ENDS))
        # Of a peer that is the client nothing is told.
        self.peers = tuple(map(one, _ENDS[:4])) if _ENDS[2] in at or _ENDS[3] in at else ()
        rest = [each for each in self.columns if each not in self.peers and each != self.holders]
        self.told = [each for each in rest if isinstance(each[1], Told)]
        self.pieces = [each for each in rest if isinstance(each[1], Pieces)]
        self.values: dict[str, Place] = {
            placed(each[1].name)[0]: each for each in rest if isinstance(each[1], Values)
        }
        self.sizes = sorted(_SIZES & self.values.keys())
        headers = {placed(name): name for name in names}
        traced = [headers[kind, _TRACE] for kind in HEADERS if (kind, _TRACE) in headers]
        dropped = redaction.header(_TRACE.encode(), b"") is None
        self.traced = [] if dropped else [(at[name], found[at[name]]) for name in traced]

    def keys(self, identity: Identity, columns: Sequence[Sequence[bytes]]) -> Iterator[tuple[Any, ...]]:
        """Of each record the key of its `Joint`."""
        count = len(columns[0])
        agents: Iterable[bytes] = repeat(b"", count)
        if self.agent is not None and b"grpc-" in b"".join(column := columns[self.agent]):
            agents = [_GRPC if _is_grpc(data) else b"" for data in column]
        return zip(repeat(self), repeat(identity), agents, *[columns[at] for at in self.joint], strict=False)


def _is_grpc(data: bytes) -> bool:
    found = pair(data)[1]
    return isinstance(found, str) and found.startswith("grpc-")


def _is_joint(name: str) -> bool:
    if name in SPECIAL:
        return name == HOLDS or PLAIN.get(name) in _JOINT
    field, key = placed(name)
    return field in _JOINT or (field in HEADERS and key in _JOINT_HEADERS)


def layout_of(heads: Heads, columns: Columns, redaction: Redaction) -> Layout | None:
    """Of attributes that begin with these names, as KeyValues have them; None where records are to be read one by one,
    because two attributes tell the same."""
    if not all(head[0] == 0x0A and head[1] == len(head) - 2 < SHORT for head in heads):
        return None
    try:
        names = [head[2:].decode() for head in heads]
    except UnicodeDecodeError:
        return None
    told = [field for name in names for field in _tells(name)]
    if len(names) > MAX_NAMES or "" in names or "url.full" in names or len(set(told)) < len(told):
        return None
    return Layout(names, columns, redaction)


def _tells(name: str) -> tuple[tuple[str, str], ...]:
    """The fields, and keys of maps, that an attribute may tell."""
    if name in (HOLDS, HOLDERS):
        return ((name, ""),)
    if name == "url.path":
        return ("url_path", ""), ("url_query", "")
    if name == "server.address":
        return ("server_address", ""), ("server_port", "")
    return (placed(name),)

"""The record of one access-log entry, and its two forms.

A record is what `proto/mixer/telemetry/v1/access_record.proto` describes. It is kept in three parts, because a
protobuf message may be written in parts, and each is cheapest as it comes: what all entries of a stream share
(`origin`), what labels come from (`fields`, by the schema's names; what an entry does not tell is not there), and all
that is not in `fields`, as it is encoded (`encoded`).
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, lru_cache
from typing import Any, NamedTuple, Protocol

import orjson
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from mixer.telemetry.sink import Kind
from mixer.telemetry.v1 import access_record_pb2 as schema

SCHEMA = schema.AccessRecord.DESCRIPTOR.full_name

Fields = dict[str, Any]
"""Values by field name: str, int, bool, or a dict of str for the maps."""

_FIELDS = schema.AccessRecord.DESCRIPTOR.fields
_JSON_NAMES: dict[str, str] = {field.name: field.json_name for field in _FIELDS}
SCHEMA_FIELDS: dict[str, Any] = {field.name: field for field in _FIELDS}
MAPS: dict[str, str] = {
    field.json_name: field.name
    for field in _FIELDS
    if field.message_type and field.message_type.GetOptions().map_entry
}
# What has one plain value, and so can be a key.
PLAIN: dict[str, str] = {field.json_name: field.name for field in _FIELDS if not field.message_type}
_NUMBERS = frozenset(
    field.json_name for field in _FIELDS if field.cpp_type in (field.CPPTYPE_UINT32, field.CPPTYPE_UINT64)
)
_TIMES: dict[str, str] = {
    field.json_name: field.name
    for field in _FIELDS
    if field.message_type is not None and field.message_type.full_name == Duration.DESCRIPTOR.full_name
}
_MAX_SECONDS = 253_402_300_799  # 9999-12-31T23:59:59Z, where RFC 3339 ends


class Origin:
    """The fields that all records of one stream, seen from the same side, share."""

    def __init__(self, fields: Mapping[str, str], *, outbound: bool = False) -> None:
        self.fields: Fields = dict(fields)
        self.outbound = outbound  # Envoy called for a workload beside it, rather than being called
        # Whether the destination is another than the workload beside Envoy.
        self.far_destination = outbound or fields.get("istio_reporter") == "waypoint"

    @cached_property
    def protobuf(self) -> bytes:
        return encoded(self.fields)


class Shape:
    """What of a request and its answer is alike in many records."""

    __slots__ = ("encoded", "grpc", "host", "status")

    def __init__(self, encoded: bytes, *, host: str = "", status: int = 0, grpc: bool = False) -> None:
        self.encoded = encoded
        self.host = host  # that the client asked for
        self.status = status  # of the answer; 0 where there was none
        self.grpc = grpc  # as far as the user agent tells


class Source(Protocol):
    """Where records come from: what only few ask of each, by its place there."""

    @property
    def event_ids(self) -> Sequence[bytes]: ...

    @property
    def encoded(self) -> Sequence[bytes]: ...

    def ends(self, place: int) -> tuple[bytes, bytes, bytes]: ...

    def holders(self, place: int) -> tuple[str, ...]: ...


class AccessRecord(NamedTuple):
    """One access-log entry. Sinks share it: they read, and do not change it.

    Metrics need what is an attribute here of each record. The rest of it is `encoded`, once for all who ask for it,
    and only if somebody does.
    """

    origin: Origin
    shape: Shape
    """`TCP` for a connection."""
    fields: Fields
    """What is not in `encoded`; what labels come from is here."""
    peers: tuple[object, ...]
    """Stands for all that `fields` says of source and destination."""
    type: int
    """Schema.AccessLogType"""
    cluster: str
    """Upstream."""
    duration: float | None
    """Seconds; None when Envoy did not tell."""
    received: int
    """Bytes on the wire, from the client."""
    sent: int
    """Bytes on the wire, to the client."""
    source: Source
    place: int

    @property
    def event_id(self) -> bytes:
        return self.source.event_ids[self.place]

    @property
    def encoded(self) -> bytes:
        """All of the record but `fields`, as protobuf."""
        return self.source.encoded[self.place]

    @property
    def ends(self) -> tuple[bytes, bytes, bytes]:
        """Of the client's connection: stands for it while it lasts."""
        return self.source.ends(self.place)

    @property
    def holders(self) -> tuple[str, ...]:
        """Who has slots of concurrency limits until the request ends."""
        return self.source.holders(self.place)

    def to_protobuf(self) -> bytes:
        """The record as a serialised `mixer.telemetry.v1.AccessRecord`."""
        whole = self.source.encoded[self.place]
        return whole + encoded(self.fields) if self.fields else whole

    def to_json(self) -> bytes:
        """The record as one JSON object on one line, without a line end."""
        named: Fields = {}
        for field, value in schema.AccessRecord.FromString(self.encoded).ListFields():
            name, convert = _JSON[field]
            if convert is None:
                named[name] = value
            elif (converted := convert(value)) is not None:
                named[name] = converted
        for name, value in self.fields.items():
            named[_JSON_NAMES[name]] = value
        return orjson.dumps(named)

    def get(self, name: str) -> Any:
        """The value of a plain field by its name in the schema; None when it is absent."""
        value = self.fields.get(name)
        if value is None:
            value = self.origin.fields.get(name)
        if value is None:
            value = getattr(_parsed(self.encoded), name) or None
        return value


@lru_cache(maxsize=1)  # who asks for one field often asks for more
def _parsed(encoded: bytes) -> schema.AccessRecord:
    return schema.AccessRecord.FromString(encoded)


MaskRecord = Callable[[AccessRecord], AccessRecord | None]
"""Answers a record as it may be stored; None: not at all."""


def encoded(fields: Fields) -> bytes:
    """Fields as a part of a serialised record."""
    return schema.AccessRecord(**fields).SerializeToString()


TCP = Shape(b"")


def accessor(json_name: str) -> Callable[[AccessRecord], Any]:
    """A function that answers a record's value for a name such as `url.path`, None when it is absent.

    Maps are reached into: `http.request.header.x-tenant`. Raises `KeyError` for what no plain field is named.
    """
    if name := PLAIN.get(json_name):
        return lambda record: record.get(name)
    for prefix, field in MAPS.items():
        if json_name.startswith(f"{prefix}.") and (key := json_name.removeprefix(f"{prefix}.")):
            return lambda record: (record.get(field) or {}).get(key)
    raise KeyError(json_name)


def number(json_name: str) -> Callable[[AccessRecord], float | None]:
    """A function that answers a record's number for a name such as `http.response.body.size`: of a time its seconds, of
    a map's entry the number that it is, None when it is absent or is none. Raises `KeyError` for what is no number."""
    if json_name == "duration":
        return lambda record: record.duration
    if (field := _TIMES.get(json_name)) is not None:
        return lambda record: _seconds(record, field)
    if json_name in PLAIN:
        if json_name not in _NUMBERS:
            raise KeyError(json_name)
        # Without presence, 0 is not told.
        absent = None if SCHEMA_FIELDS[PLAIN[json_name]].has_presence else 0
    else:
        absent = None
    read = accessor(json_name)

    def value(record: AccessRecord) -> float | None:
        found = read(record)
        return absent if found is None else found if isinstance(found, int) else _finite(found)

    return value


def _seconds(record: AccessRecord, field: str) -> float | None:
    parsed = _parsed(record.encoded)
    if not parsed.HasField(field):
        return None
    span: Duration = getattr(parsed, field)
    return span.seconds + span.nanos / 1e9


def _finite(text: str) -> float | None:
    try:
        found = float(text)
    except ValueError:
        return None
    return found if math.isfinite(found) else None


def _rfc3339(moment: Timestamp) -> str | None:
    """UTC with nanoseconds: `2026-01-31T12:00:00.000000001Z`. None outside the years 1970 to 9999."""
    seconds, nanos = moment.seconds, moment.nanos
    if not (0 <= seconds <= _MAX_SECONDS and 0 <= nanos < 1_000_000_000):
        return None
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{nanos:09d}Z"


def _span(span: Duration) -> str:
    """Seconds with nanoseconds: `0.003764860s`."""
    seconds, nanos = span.seconds, span.nanos
    if seconds < 0 or nanos < 0:
        return f"-{-seconds}.{-nanos:09d}s"
    return f"{seconds}.{nanos:09d}s"


def _enum_name(number: int) -> str | int:
    """A number that is newer than our schema stays one."""
    return _TYPES.get(number, number)


def _converter(field: Any) -> Callable[[Any], Any] | None:
    """How a value becomes one of proto3's JSON mapping; None where it is one already."""
    if field.enum_type:
        return _enum_name
    if field.message_type is None:
        return None
    if field.message_type.GetOptions().map_entry:
        return dict
    converters: dict[str, Callable[[Any], Any]] = {
        "google.protobuf.Timestamp": _rfc3339,
        "google.protobuf.Duration": _span,
    }
    return converters[field.message_type.full_name]


_TYPES: dict[int, str] = {number: name for name, number in schema.AccessRecord.AccessLogType.items()}
_JSON: dict[Any, tuple[str, Callable[[Any], Any] | None]] = {
    field: (field.json_name, _converter(field)) for field in _FIELDS
}


def _serialized(records: Sequence[AccessRecord]) -> list[bytes]:
    """`to_protobuf` of each."""
    whole = [record.source.encoded[record.place] for record in records]
    if any(record.fields for record in records):
        return [
            one + encoded(record.fields) if record.fields else one
            for one, record in zip(whole, records, strict=True)
        ]
    return whole


ACCESS = Kind(
    SCHEMA,
    {"protobuf": _serialized, "json": lambda records: [record.to_json() for record in records]},
    accessor,
    example='"client.address" or "http.request.header.x-tenant"',
    sender=lambda record: record.origin.fields.get("envoy_node_id"),
)

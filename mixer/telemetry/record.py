"""The record of one access-log entry, and its two forms.

A record is what `proto/mixer/telemetry/v1/access_record.proto` describes. It is kept in three parts, because a
protobuf message may be written in parts, and each is cheapest as it comes: fields that are encoded already (`encoded`:
what Envoy's message has in our form, and what repeats from entry to entry), what all entries of a stream share
(`origin`), and the rest (`fields`, by the schema's names; what an entry does not tell is not there).
"""

import time
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, NamedTuple

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

    @cached_property
    def json(self) -> Fields:
        return {_JSON_NAMES[name]: value for name, value in self.fields.items()}


class Shape:
    """What of a request and its answer is alike in many records."""

    __slots__ = ("encoded", "grpc", "host", "status")

    def __init__(self, encoded: bytes, *, host: str = "", status: int = 0, grpc: bool = False) -> None:
        self.encoded = encoded
        self.host = host  # that the client asked for
        self.status = status  # of the answer; 0 where there was none
        self.grpc = grpc  # as far as the user agent tells


class AccessRecord(NamedTuple):
    """One access-log entry. Sinks share it: they read, and do not change it.

    What is below `encoded` says again what is in `fields` or `encoded`: metrics need it of each record.
    """

    origin: Origin
    event_id: bytes
    shape: Shape
    """`TCP` for a connection."""
    fields: Fields
    encoded: bytes
    ends: tuple[bytes, bytes, bytes]
    """Of the client's connection: stands for it while it lasts."""
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
    holders: tuple[str, ...] = ()
    """Who has slots of concurrency limits until the request ends."""

    def to_protobuf(self) -> bytes:
        """The record as a serialised `mixer.telemetry.v1.AccessRecord`."""
        return self.encoded + self.origin.protobuf + schema.AccessRecord(**self.fields).SerializeToString()

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
        named.update(self.origin.json)
        return orjson.dumps(named)

    def get(self, name: str) -> Any:
        """The value of a plain field by its name in the schema; None when it is absent."""
        value = self.fields.get(name)
        if value is None:
            value = self.origin.fields.get(name)
        if value is None:
            value = getattr(schema.AccessRecord.FromString(self.encoded), name) or None
        return value


MaskRecord = Callable[[AccessRecord], AccessRecord | None]
"""Answers a record as it may be stored; None: not at all."""


def encoded(fields: Fields) -> bytes:
    """Fields as a part of a serialised record."""
    return schema.AccessRecord(**fields).SerializeToString()


TCP = Shape(encoded({"network_protocol_name": "tcp"}))


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

ACCESS = Kind(
    SCHEMA,
    {"protobuf": AccessRecord.to_protobuf, "json": AccessRecord.to_json},
    accessor,
    example='"client.address" or "http.request.header.x-tenant"',
)

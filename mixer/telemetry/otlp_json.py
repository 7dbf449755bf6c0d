"""OTLP's JSON (https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding) to and from its protobuf.

It is proto3's JSON mapping, but for ids of traces and spans, which are hexadecimal. What Mixer does not read of a
request, it does not look at here either.
"""

import base64
from collections.abc import Iterable
from typing import Any

import orjson
from google.protobuf import json_format

from mixer.errors import RequestError
from mixer.telemetry import otlp_pb2 as otlp

MAX_DEPTH = 32  # of lists of pairs within each other


def request(data: bytes) -> bytes:
    """A serialised ExportLogsServiceRequest. Raises `RequestError` for JSON that is none."""
    try:
        document = orjson.loads(data)
        made = otlp.ExportLogsServiceRequest(
            resource_logs=[_resource_logs(each) for each in _items(document, "resourceLogs", "resource_logs")]
        )
        return made.SerializeToString()
    except (ValueError, TypeError, AttributeError):
        # What is wrong with it is not told: it would show values.
        raise RequestError(
            "no valid JSON: expected opentelemetry.proto.collector.logs.v1.ExportLogsServiceRequest"
        ) from None


def response(data: bytes) -> bytes:
    """A serialised ExportLogsServiceResponse as JSON."""
    message = otlp.ExportLogsServiceResponse.FromString(data)
    return orjson.dumps(json_format.MessageToDict(message))


def _resource_logs(of: Any) -> bytes:
    made = otlp.ResourceLogs(scope_logs=[_scope_logs(each) for each in _items(of, "scopeLogs", "scope_logs")])
    if (resource := of.get("resource")) is not None:
        made.resource = otlp.Resource(attributes=_pairs(_items(resource, "attributes"))).SerializeToString()
    return made.SerializeToString()


def _scope_logs(of: Any) -> bytes:
    logs = [_log_record(each) for each in _items(of, "logRecords", "log_records")]
    return otlp.ScopeLogs(log_records=logs).SerializeToString()


def _log_record(of: Any) -> bytes:
    made = otlp.LogRecord(attributes=_pairs(_items(of, "attributes")))
    if time := _value(of, "timeUnixNano", "time_unix_nano"):
        made.time_unix_nano = int(time)
    if trace := _value(of, "traceId", "trace_id"):
        made.trace_id = bytes.fromhex(trace)
    if (body := of.get("body")) is not None:
        made.body.CopyFrom(_any(body, 0))
    return made.SerializeToString()


def _pairs(entries: Iterable[Any], depth: int = 0) -> list[bytes]:
    if depth > MAX_DEPTH:
        raise ValueError(f"nested more than {MAX_DEPTH} times")
    return [
        otlp.KeyValue(
            key=each.get("key", "").encode(), value=_any(each.get("value") or {}, depth)
        ).SerializeToString()
        for each in entries
    ]


def _any(of: Any, depth: int) -> otlp.AnyValue:
    """An AnyValue. An array or bytes make one that says no more than that: neither can be a record's value."""
    made = otlp.AnyValue()
    if (text := _value(of, "stringValue", "string_value")) is not None:
        made.string_value = text.encode()
    elif (flag := _value(of, "boolValue", "bool_value")) is not None:
        made.bool_value = flag
    elif (whole := _value(of, "intValue", "int_value")) is not None:
        made.int_value = int(whole)
    elif (number := _value(of, "doubleValue", "double_value")) is not None:
        made.double_value = float(number)
    elif (pairs := _value(of, "kvlistValue", "kvlist_value")) is not None:
        values = _pairs(_items(pairs, "values"), depth + 1)
        made.kvlist_value = otlp.KeyValueList(values=values).SerializeToString()
    elif _value(of, "arrayValue", "array_value") is not None:
        made.array_value = b""
    elif (raw := _value(of, "bytesValue", "bytes_value")) is not None:
        made.bytes_value = base64.b64decode(raw)
    return made


def _value(of: Any, name: str, other: str) -> Any:
    """By its JSON name, or the proto's own, which proto3's mapping allows too."""
    found = of.get(name)
    return of.get(other) if found is None else found


def _items(of: Any, name: str, other: str = "") -> Any:
    found = _value(of, name, other)
    if not isinstance(found, list | type(None)):
        raise TypeError(f"{name} is no list")
    return found or ()

"""OpenTelemetry's log records and Exports to test with."""

from collections.abc import Mapping, Sequence
from typing import Any

from mixer.telemetry import otlp_pb2 as otlp
from mixer.telemetry.logrecord import LogReader, event_id
from mixer.telemetry.record import AccessRecord
from mixer.telemetry.redaction import Redaction

REQUEST = {
    "http.request.method": "GET",
    "url.path": "/orders/1?page=2",
    "server.address": "shop.example:8443",
    "http.response.status_code": "200",
    "network.protocol.version": "HTTP/1.1",
    "envoy.access_log_type": "DownstreamEnd",
    "duration": "12ms",
}


# With what is to be redacted: the header x-session, and the parameter token.
SECRETS = {
    "http.request.header.authorization": "Bearer hush",
    "http.request.header.x-session": "hush",
    "http.request.header.referer": "http://root:hush@shop/?token=hush",
    "url.path": "/a?token=hush&b=1",
    "envoy.referer": "http://shop/#token=hush",
    "link": "https://root:hush@shop/a?TOKEN=hush",
}


def pair(name: str, value: Any) -> bytes:
    made = otlp.KeyValue(key=name.encode())
    if isinstance(value, bool):
        made.value.bool_value = value
    elif isinstance(value, int):
        made.value.int_value = value
    elif isinstance(value, float):
        made.value.double_value = value
    elif isinstance(value, Mapping):
        made.value.kvlist_value = pair_list(value)
    elif isinstance(value, bytes):
        made.value.string_value = value
    elif value is not None:
        made.value.string_value = value.encode()
    return made.SerializeToString()


def pair_list(values: Mapping[str, Any]) -> bytes:
    return otlp.KeyValueList(values=[pair(*item) for item in values.items()]).SerializeToString()


def log(attributes: Mapping[str, Any], body: Any = None, **more: Any) -> bytes:
    made = otlp.LogRecord(attributes=[pair(*item) for item in attributes.items()], **more)
    if isinstance(body, Mapping):
        made.body.kvlist_value = pair_list(body)
    elif body is not None:
        made.body.string_value = body.encode()
    return made.SerializeToString()


def resource(attributes: Mapping[str, Any]) -> bytes:
    return otlp.Resource(attributes=[pair(*item) for item in attributes.items()]).SerializeToString()


def export(records: Sequence[bytes], of: bytes = b"") -> bytes:
    scope = otlp.ScopeLogs(log_records=records).SerializeToString()
    logs = otlp.ResourceLogs(resource=of, scope_logs=[scope]).SerializeToString()
    return otlp.ExportLogsServiceRequest(resource_logs=[logs]).SerializeToString()


def record(
    attributes: Mapping[str, Any], of: bytes = b"", redaction: Redaction | None = None, **more: Any
) -> AccessRecord:
    reader = LogReader(redaction or Redaction())
    data = log(attributes, **more)
    return reader.record(data, reader.identity(of), event_id(of, data, {}))

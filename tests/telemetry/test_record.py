"""Both forms of a record, and its values by name."""

from typing import Any

import orjson
import pytest
from envoy.data.accesslog.v3.accesslog_pb2 import AccessLogType
from google.protobuf.json_format import ParseDict
from hypothesis import given, settings
from hypothesis import strategies as st

from mixer.telemetry.record import AccessRecord, accessor
from mixer.telemetry.v1.access_record_pb2 import AccessRecord as Schema
from tests.telemetry.entries import RATINGS, http_entry, identifier, record, tcp_entry, with_metadata

TEXT = st.text(max_size=20)
SPANS = st.integers(min_value=0, max_value=10**15).map(lambda ns: f"{ns // 10**9}.{ns % 10**9:09d}s")
COMMON = st.fixed_dictionaries(
    {},
    optional={
        "duration": SPANS,
        "timeToLastRxByte": SPANS,
        "timeToFirstUpstreamTxByte": SPANS,
        "timeToLastDownstreamTxByte": SPANS,
        "startTime": st.datetimes().filter(lambda t: t.year >= 1970).map(lambda t: f"{t.isoformat()}Z"),
        "routeName": TEXT,
        "streamId": TEXT,
        "customTags": st.dictionaries(TEXT, TEXT, max_size=3),
        "connectionTerminationDetails": TEXT,
        "upstreamRequestAttemptCount": st.integers(0, 2**32 - 1),
        "downstreamWireBytesSent": st.integers(0, 2**64 - 1),
        "intermediateLogEntry": st.booleans(),
        "responseFlags": st.just({"upstreamOverflow": True}),
        "upstreamRemoteAddress": st.just({"socketAddress": {"address": "10.2.3.4", "portValue": 80}}),
    },
)


def message(of: AccessRecord) -> Schema:
    return Schema.FromString(of.to_protobuf())


def from_json(of: AccessRecord) -> Schema:
    return ParseDict(orjson.loads(of.to_json()), Schema())


@settings(deadline=None)
@given(
    common=COMMON,
    path=TEXT,
    status=st.integers(0, 999),
    kind=st.sampled_from(AccessLogType.keys()),
    headers=st.dictionaries(TEXT, TEXT, max_size=3),
    body=st.integers(0, 2**64 - 1),
)
def test_json_and_protobuf_carry_the_same(
    common: dict[str, Any], path: str, status: int, kind: str, headers: dict[str, str], body: int
) -> None:
    entry = http_entry(status=status, path=path, kind=kind, milliseconds=None, **common)
    entry.request.request_headers.update(headers)
    entry.request.request_body_bytes = body
    with_metadata(entry, "envoy.filters.http.ext_authz", {"decision_id": path, "mixer": {"policy": "a/b"}})
    made = record(entry, identifier("sidecar~1~a~b", RATINGS))
    assert from_json(made) == message(made)


def test_json_of_a_connection_is_that_of_its_protobuf() -> None:
    made = record(tcp_entry())
    assert from_json(made) == message(made)


def test_json_names_are_attributes_and_numbers_are_numbers() -> None:
    entry = http_entry(milliseconds=75_000.000001)
    entry.request.request_headers["x-user"] = "alice"
    made = orjson.loads(record(entry).to_json())
    assert made["http.request.method"] == "GET"
    assert made["http.response.status_code"] == 200
    assert made["http.request.header"] == {"x-user": "alice"}
    assert made["envoy.downstream_wire_bytes_sent"] == 4321
    assert made["duration"] == "75.000000001s"
    assert made["start_time"] == "2026-03-01T12:00:00.000000001Z"
    assert made["envoy.access_log_type"] == "DownstreamEnd"


def test_json_is_one_line_and_leaves_out_what_is_empty() -> None:
    line = record(http_entry(path="/a\nb")).to_json()
    assert b"\n" not in line
    assert not [name for name, value in orjson.loads(line).items() if value in ("", 0, None, {})]


def test_moment_that_rfc_3339_cannot_say_is_left_out_of_json() -> None:
    entry = http_entry()
    entry.common_properties.start_time.seconds = 10**15
    made = record(entry)
    assert "start_time" not in orjson.loads(made.to_json())
    assert message(made).start_time.seconds == 10**15


def test_type_that_is_newer_than_the_schema_stays_a_number() -> None:
    entry = http_entry()
    entry.common_properties.access_log_type = 99  # type: ignore[assignment]
    made = record(entry)
    assert orjson.loads(made.to_json())["envoy.access_log_type"] == 99
    assert message(made).envoy_access_log_type == 99


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("url.path", "/orders/1"),
        ("client.port", 41000),
        ("network.local.port", 8080),
        ("envoy.upstream_cluster", "orders"),
        ("envoy.node.id", "edge-1"),
        ("istio.destination_workload", "ratings-v1"),
        ("http.request.header.x-tenant", "acme"),
        ("envoy.custom_tags.team", "blue"),
        ("http.request.header.x-other", None),
        ("http.response.header.x-tenant", None),
        ("trace_id", None),
        ("rpc.grpc.status_code", None),
    ],
)
def test_value_is_found_by_its_name(name: str, value: object) -> None:
    entry = http_entry(customTags={"team": "blue"})
    entry.request.request_headers["x-tenant"] = "acme"
    assert accessor(name)(record(entry, identifier("edge-1", RATINGS))) == value


@pytest.mark.parametrize(
    "name", ["", "url", "url.paths", "start_time", "duration", "http.request.header", "envoy."]
)
def test_name_of_no_plain_value_is_unknown(name: str) -> None:
    with pytest.raises(KeyError):
        accessor(name)


def test_every_plain_field_and_every_map_is_known_by_its_name() -> None:
    for field in Schema.DESCRIPTOR.fields:
        if field.message_type is None:
            accessor(field.json_name)
        elif field.is_repeated:
            accessor(f"{field.json_name}.x")

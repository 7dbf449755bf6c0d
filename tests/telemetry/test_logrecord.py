"""What attributes tell, and what they may not be."""

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixer.telemetry import attributes
from mixer.telemetry.attributes import MAX_ATTRIBUTES, Attributes, MalformedError
from mixer.telemetry.logrecord import LogReader, event_id
from mixer.telemetry.record import TCP
from mixer.telemetry.redaction import Redaction
from mixer.telemetry.v1.access_record_pb2 import AccessRecord as Schema
from tests.telemetry.entries import RATINGS, http_entry, identifier
from tests.telemetry.entries import record as streamed
from tests.telemetry.logs import REQUEST, SECRETS, log, pair, record, resource


def told(attributes: dict[str, Any], **more: Any) -> dict[str, Any]:
    """The record in JSON; its form in protobuf says the same."""
    made = record(attributes, **more)
    parsed = Schema.FromString(made.to_protobuf())
    found: dict[str, Any] = orjson.loads(made.to_json())
    assert {field.json_name for field, _ in parsed.ListFields()} | {"envoy.access_log_type"} >= found.keys()
    return found


def test_attributes_are_the_records_fields() -> None:
    found = told(REQUEST, time_unix_nano=1_700_000_000_000_000_001)
    del found["event_id"]
    assert found == {
        "start_time": "2023-11-14T22:13:20.000000001Z",
        "duration": "0.012000000s",
        "envoy.access_log_type": "DownstreamEnd",
        "network.protocol.name": "http",
        "network.protocol.version": "1.1",
        "http.request.method": "GET",
        "http.response.status_code": 200,
        "url.path": "/orders/1",
        "url.query": "page=2",
        "server.address": "shop.example",
        "server.port": 8443,
        "istio.reporter": "destination",
    }


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("http.response.status_code", 404, {"http.response.status_code": 404}),
        ("http.response.status_code", "-", {}),
        ("http.response.status_code", "0", {}),
        ("rpc.grpc.status_code", "0", {}),  # of what is no gRPC call
        ("url.scheme", "", {}),
        ("http.request.method", "BREW", {"http.request.method": "_OTHER"}),
        ("envoy.intermediate_log_entry", "true", {"envoy.intermediate_log_entry": True}),
        ("envoy.time_to_last_rx_byte", "3764860ns", {"envoy.time_to_last_rx_byte": "0.003764860s"}),
        ("envoy.time_to_last_rx_byte", "1.5s", {"envoy.time_to_last_rx_byte": "1.500000000s"}),
        ("envoy.time_to_last_rx_byte", "-ns", {}),
        ("tls.protocol.version", "TLSv1.3", {"tls.protocol.version": "1.3"}),
        ("http.request.header.X-Tenant", "blue", {"http.request.header": {"x-tenant": "blue"}}),
        ("region", "north", {"envoy.custom_tags": {"region": "north"}}),
        ("region", 7, {"envoy.custom_tags": {"region": "7"}}),
        ("event_id", "mine", {"envoy.custom_tags": {"event_id": "mine"}}),
        ("server.address", "[::1]:80", {"server.address": "::1", "server.port": 80}),
        ("server.address", "root:secret@shop", {"server.address": "shop"}),
        ("user_agent.original", b"\xff\xfe", {"user_agent.original": "��"}),
        (
            "url.full",
            "https://root:secret@shop:444/a?b=c",
            {
                "url.scheme": "https", "server.address": "shop", "server.port": 444,
                "url.path": "/a", "url.query": "b=c",
            },
        ),
    ],
)  # fmt: skip
def test_value_is_read_in_the_form_that_it_comes_in(name: str, value: Any, expected: dict[str, Any]) -> None:
    always = {"event_id", "network.protocol.name", "istio.reporter", "envoy.access_log_type"}
    found = told({name: value})
    assert {key: found[key] for key in found.keys() - always} == expected


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("http.response.status_code", "teapot", "a whole number of 32 bits"),
        ("http.response.status_code", "9" * 12, "a whole number of 32 bits"),
        ("http.response.status_code", -1, "a whole number of 32 bits"),
        ("http.response.status_code", True, "a whole number of 32 bits"),
        ("envoy.intermediate_log_entry", "maybe", "true or false"),
        ("envoy.access_log_type", "Lunch", "the name of an access log type"),
        ("duration", "77", "a span with its unit"),
        ("duration", "9" * 18 + "s", "a span with its unit"),
        ("url.path", {"a": {"b": "c"}}, "text, a number or a boolean"),
        ("url.full", "http://[", "a URL"),
    ],
)
def test_value_that_is_none_of_its_field_is_refused_by_name(name: str, value: Any, expected: str) -> None:
    with pytest.raises(MalformedError) as raised:
        record({**REQUEST, name: value})
    assert str(raised.value).startswith(f'attribute "{name}": expected {expected}')
    assert str(value) not in str(raised.value)


def test_attribute_without_a_name_is_refused() -> None:
    with pytest.raises(MalformedError, match="an attribute has no name"):
        record({**REQUEST, "": "north"})


def test_too_many_attributes_are_refused() -> None:
    with pytest.raises(MalformedError, match="at most 1000 attributes"):
        record({str(number): "x" for number in range(MAX_ATTRIBUTES + 1)})


def test_body_may_hold_attributes_or_text() -> None:
    assert told({}, body=REQUEST)["url.path"] == "/orders/1"
    assert told(REQUEST, body="hello")["envoy.custom_tags"] == {"body": "hello"}


def test_resource_tells_of_the_node_as_a_stream_does() -> None:
    of = resource(
        {"node_name": "edge-1", "cluster_name": "edge", "zone_name": "", "log_name": "edge", **RATINGS}
    )
    expected = streamed(http_entry(), identifier(metadata=RATINGS))
    assert record(REQUEST, of).origin.fields == expected.origin.fields


def test_connection_is_what_says_so() -> None:
    made = record({"network.protocol.name": "tcp"})
    assert made.shape is TCP
    assert made.get("network_protocol_name") == "tcp"
    assert record(REQUEST).shape is not TCP


def test_certificates_prove_both_ends() -> None:
    ends = {"source": "spiffe://a/ns/shop/sa/web", "destination": "spiffe://a/ns/bank/sa/pay"}
    found = told({f"istio.{side}_principal": name for side, name in ends.items()})
    assert found["istio.connection_security_policy"] == "mutual_tls"
    assert found["istio.source_workload_namespace"] == "shop"


def test_error_is_named_as_in_a_stream() -> None:
    assert told({"envoy.response_flags": "UF,URX"})["error.type"] == "upstream_connection_failure"
    assert told({"http.response.status_code": "503"})["error.type"] == "503"
    assert "error.type" not in told({"http.response.status_code": "404", "envoy.response_flags": "NR"})


def test_trace_is_that_of_the_log_record_or_of_the_header() -> None:
    header = f"00-{'4b' * 16}-{'a1' * 8}-01"
    assert told(REQUEST, trace_id=b"\x01" * 16)["trace_id"] == "01" * 16
    assert told({"http.request.header.traceparent": header})["trace_id"] == "4b" * 16


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"user_agent.original": "grpc-go/1.60"}, 5),
        ({"http.request.header.content-type": "application/grpc+proto"}, 5),
        ({"user_agent.original": "grpc-go/1.60", "http.request.header.content-type": "text/html"}, None),
        ({}, None),
    ],
)
def test_status_of_a_grpc_call_is_that_of_a_grpc_call_alone(
    attributes: dict[str, str], expected: int | None
) -> None:
    found = told({**attributes, "rpc.grpc.status_code": "5"})
    assert found.get("rpc.grpc.status_code") == expected
    assert found.get("rpc.system") == (None if expected is None else "grpc")


def test_secrets_enter_no_record() -> None:
    found = record(SECRETS, redaction=Redaction(["X-Session"], ["token"]))
    assert b"hush" not in found.to_json()
    assert b"hush" not in found.to_protobuf()


def test_event_id_is_that_of_the_content() -> None:
    seen: dict[bytes, int] = {}
    first, again, other = (event_id(b"r", data, seen) for data in (b"a", b"a", b"b"))
    assert len({first, again, other, event_id(b"x", b"a", {})}) == 4
    assert event_id(b"r", b"a", {}) == first


@given(st.binary(max_size=200))
def test_bytes_make_a_record_or_are_refused(data: bytes) -> None:
    reader = LogReader(Redaction())
    for record_, of in ((data, b""), (log(REQUEST), data), (log({"a": data}) + pair("b", "c"), b"")):
        try:
            made = reader.record(record_, reader.identity(of), b"id")
        except MalformedError:
            continue
        orjson.loads(made.to_json())
        Schema.FromString(made.to_protobuf())


NAMES = st.sampled_from(
    [
        "duration",
        "url.path",
        "http.request.header.X-A",
        "http.response.status_code",
        "mixer.holders",
        "body",
        "x" * 127,
    ]
) | st.text(max_size=140)
VALUES = (
    st.text(max_size=140)
    | st.integers(-5, 2**40).map(str)
    | st.sampled_from(["", "-", "12ms", "true", "1.5s"])
)


@given(NAMES, VALUES, st.lists(st.tuples(st.integers(0, 300), st.integers(0, 255)), max_size=2))
def test_attribute_by_its_bytes_tells_what_its_parsed_message_does(
    name: str, text: str, broken: list[tuple[int, int]]
) -> None:
    data = bytearray(pair(name, text))
    for at, byte in broken:
        data[at % len(data)] = byte
    found: list[object] = []
    for read in (Attributes(), lambda data: attributes.told(*attributes.pair(data))):
        try:
            found.append(read(bytes(data)))
        except MalformedError as error:
            found.append(str(error))
    assert found[0] == found[1]


def test_what_is_remembered_of_attributes_is_bounded_and_true(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attributes, "_MAX_KNOWN", 1000)
    monkeypatch.setattr(attributes, "_VALUES", 16)
    monkeypatch.setattr(attributes, "_ANEW", 100)
    read = Attributes()
    for number in range(5000):
        for name in ("url.path", f"tag{number}"):
            data = pair(name, f"/{number % 40}")
            for _ in range(2):
                assert read(data) == attributes.told(*attributes.pair(data))
        assert len(read._known) <= 1000
        assert len(read._room) <= 1000

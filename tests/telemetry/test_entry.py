"""What a record tells of an entry."""

from typing import Any

import pytest
from envoy.data.accesslog.v3.accesslog_pb2 import HTTPAccessLogEntry, TLSProperties
from envoy.extensions.filters.http.grpc_stats.v3.config_pb2 import FilterObject
from google.protobuf.message import DecodeError
from google.protobuf.struct_pb2 import Struct
from google.protobuf.wrappers_pb2 import BytesValue
from hypothesis import given, settings
from hypothesis import strategies as st

from mixer.telemetry import intake_pb2 as intake
from mixer.telemetry.decode import Decoder
from mixer.telemetry.entry import EntryReader
from mixer.telemetry.record import AccessRecord
from mixer.telemetry.redaction import DROPPED_HEADERS
from mixer.telemetry.v1.access_record_pb2 import AccessRecord as Schema
from mixer.telemetry.wire import length
from tests.telemetry.entries import (
    RATINGS,
    http_entry,
    identifier,
    read,
    record,
    records,
    tcp_entry,
    with_metadata,
)

TIMINGS = [field.name for field in intake.CommonColumns.DESCRIPTOR.fields if "time_to" in field.name]


def message(of: AccessRecord) -> Schema:
    return Schema.FromString(of.to_protobuf())


def test_record_tells_the_request_and_its_answer() -> None:
    made = message(record(http_entry(status=404, path="/orders/1?page=2&size=3", method="POST")))
    assert made.http_request_method == "POST"
    assert made.url_scheme == "https"
    assert (made.url_path, made.url_query) == ("/orders/1", "page=2&size=3")
    assert made.http_response_status_code == 404
    assert (made.network_protocol_name, made.network_protocol_version) == ("http", "2")
    assert (made.client_address, made.client_port) == ("10.0.0.9", 41000)
    assert (made.network_local_address, made.network_local_port) == ("10.0.0.1", 8080)
    assert (made.envoy_upstream_cluster, made.envoy_access_log_type) == ("orders", Schema.DownstreamEnd)
    assert (made.envoy_downstream_wire_bytes_received, made.envoy_downstream_wire_bytes_sent) == (321, 4321)
    assert (made.envoy_node_id, made.envoy_node_cluster, made.envoy_log_name) == ("edge-1", "edge", "edge")
    assert made.start_time.ToJsonString() == "2026-03-01T12:00:00.000000001Z"
    assert made.error_type == ""


def test_record_tells_the_connection() -> None:
    made = message(record(tcp_entry(received=11, sent=22)))
    assert (made.envoy_bytes_received, made.envoy_bytes_sent) == (11, 22)
    assert made.network_protocol_name == "tcp"
    assert made.envoy_access_log_type == Schema.TcpConnectionEnd


@pytest.mark.parametrize("name", [*TIMINGS, "duration"])
def test_times_have_seconds_and_nanoseconds_and_absent_ones_stay_absent(name: str) -> None:
    field = name if name == "duration" else f"envoy_{name}"
    entry = http_entry(milliseconds=None)
    assert not message(record(entry)).HasField(field)
    span = getattr(entry.common_properties, name)
    span.SetInParent()
    assert message(record(entry)).HasField(field)
    span.seconds, span.nanos = 75, 3
    made = record(entry)
    assert getattr(message(made), field).ToNanoseconds() == 75_000_000_003
    if name == "duration":
        assert made.duration == 75.000000003


def test_duration_of_zero_is_not_unknown() -> None:
    assert record(http_entry(milliseconds=0)).duration == 0.0
    assert record(http_entry(milliseconds=None)).duration is None


def test_record_is_joined_with_the_decision_and_the_limit() -> None:
    entry = http_entry()
    decision = {
        "decision_id": "0b9b6d5e-6f8e-4f1e-9b0a-0d6d0f6f6e9d",
        "reason": "role_lacks_path",
        "mixer": {"policy": "envoy/authz/allow", "revision": "5f0c", "cache": "hit"},
    }
    with_metadata(entry, "envoy.filters.http.ext_authz", decision)
    with_metadata(
        entry, "envoy.filters.http.ratelimit", {"mixer": {"limit": "per-user", "code": "OVER_LIMIT"}}
    )
    made = message(record(entry))
    assert made.mixer_decision_id == decision["decision_id"]
    assert made.mixer_decision_reason == "role_lacks_path"
    assert (made.mixer_policy, made.mixer_policy_revision, made.mixer_cache) == (
        "envoy/authz/allow",
        "5f0c",
        "hit",
    )
    assert (made.mixer_limit, made.mixer_limit_code) == ("per-user", "OVER_LIMIT")


def test_connection_is_joined_with_its_decision() -> None:
    entry = with_metadata(
        tcp_entry(), "envoy.filters.network.ext_authz", {"decision_id": "d", "reason": "ok"}
    )
    made = message(record(entry))
    assert (made.mixer_decision_id, made.mixer_decision_reason) == ("d", "ok")


def test_decision_id_longer_than_one_length_byte_is_whole() -> None:
    entry = with_metadata(http_entry(), "envoy.filters.http.ext_authz", {"decision_id": "d" * 500})
    assert message(record(entry)).mixer_decision_id == "d" * 500


@pytest.mark.parametrize("value", [7, True, None, ["x"], {"x": "y"}])
def test_metadata_of_another_type_is_not_taken_over(value: Any) -> None:
    entry = with_metadata(
        http_entry(), "envoy.filters.http.ext_authz", {"decision_id": value, "mixer": value}
    )
    made = message(record(entry))
    assert (made.mixer_decision_id, made.mixer_policy) == ("", "")


def test_other_dynamic_metadata_does_not_leave_mixer() -> None:
    entry = with_metadata(http_entry(), "envoy.filters.http.jwt_authn", {"payload": "a-secret-of-the-token"})
    made = record(entry)
    assert b"a-secret" not in made.to_protobuf() + made.to_json()


@pytest.mark.parametrize("name", sorted(name.decode() for name in DROPPED_HEADERS))
def test_headers_that_are_secrets_by_nature_are_dropped(name: str) -> None:
    entry = http_entry()
    for headers in (
        entry.request.request_headers,
        entry.response.response_headers,
        entry.response.response_trailers,
    ):
        headers[name] = headers[name.title()] = "a-secret"
        headers["x-user"] = "alice"
    made = record(entry)
    assert b"a-secret" not in made.to_protobuf() + made.to_json()
    for kept in (
        message(made).http_request_header,
        message(made).http_response_header,
        message(made).http_response_trailer,
    ):
        assert dict(kept) == {"x-user": "alice"}


@pytest.mark.parametrize(
    ("authority", "host", "port"),
    [
        ("shop.example", "shop.example", 0),
        ("shop.example:8443", "shop.example", 8443),
        ("[2001:db8::1]:80", "2001:db8::1", 80),
        ("[2001:db8::1]", "2001:db8::1", 0),
        ("2001:db8::1", "2001:db8::1", 0),
        ("shop.example:http", "shop.example:http", 0),
        ("shop.example:999999", "shop.example:999999", 0),
        ("", "", 0),
    ],
)
def test_server_address_is_the_host_without_the_port(authority: str, host: str, port: int) -> None:
    made = message(record(http_entry(host=authority)))
    assert (made.server_address, made.server_port) == (host, port)


def test_rewritten_path_is_told_beside_what_the_client_asked_for() -> None:
    entry = http_entry(path="/v2/orders?x=1")
    entry.request.original_path = "/orders?x=1"
    made = message(record(entry))
    assert (made.url_path, made.url_query, made.envoy_rewritten_path) == ("/orders", "x=1", "/v2/orders")


def test_rewritten_query_alone_is_no_rewritten_path() -> None:
    entry = http_entry(path="/orders?x=2")
    entry.request.original_path = "/orders?x=1"
    made = message(record(entry))
    assert (made.url_path, made.url_query, made.envoy_rewritten_path) == ("/orders", "x=1", "")


def test_method_that_envoy_cannot_name_is_other() -> None:
    entry = http_entry()
    entry.request.request_method = 0
    assert message(record(entry)).http_request_method == "_OTHER"
    assert message(record(HTTPAccessLogEntry())).http_request_method == ""


def test_client_of_x_forwarded_for_is_told_beside_the_connections_end() -> None:
    entry = http_entry(
        downstreamRemoteAddress={"socketAddress": {"address": "203.0.113.7"}},
        downstreamDirectRemoteAddress={"socketAddress": {"address": "10.0.0.9", "portValue": 41000}},
    )
    made = message(record(entry))
    assert (made.client_address, made.client_port) == ("203.0.113.7", 0)
    assert (made.network_peer_address, made.network_peer_port) == ("10.0.0.9", 41000)


def test_connections_own_end_is_left_out_where_it_is_the_client() -> None:
    made = message(record(http_entry()))
    assert (made.network_peer_address, made.network_peer_port) == ("", 0)


def test_addresses_may_be_sockets_in_files_and_listeners_in_envoy() -> None:
    entry = http_entry(
        downstreamLocalAddress={"pipe": {"path": "/run/edge.sock"}},
        upstreamRemoteAddress={"envoyInternalAddress": {"serverListenerName": "inner"}},
        upstreamLocalAddress={"socketAddress": {"address": "10.0.0.1", "portValue": 555}},
    )
    made = message(record(entry))
    assert (made.network_local_address, made.network_local_port) == ("/run/edge.sock", 0)
    assert made.envoy_upstream_host == "inner"
    assert made.envoy_upstream_local_address == "10.0.0.1:555"


@pytest.mark.parametrize(
    ("status", "flags", "letters", "error"),
    [
        (200, {}, "", ""),
        (404, {"noRouteFound": True}, "NR", ""),
        (503, {"upstreamRetryLimitExceeded": True, "upstreamConnectionFailure": True}, "UF,URX",
         "upstream_connection_failure"),
        (0, {"downstreamConnectionTermination": True}, "DC", "downstream_connection_termination"),
        (0, {}, "", ""),
        (502, {}, "", "502"),
        (403, {"unauthorizedDetails": {"reason": "EXTERNAL_SERVICE"}}, "UAEX", ""),
    ],
)  # fmt: skip
def test_errors_are_named_by_envoys_flags(
    status: int, flags: dict[str, Any], letters: str, error: str
) -> None:
    more = {"responseFlags": flags} if flags else {}
    made = message(record(http_entry(status=status, **more)))
    assert (made.envoy_response_flags, made.error_type) == (letters, error)


def test_failed_connection_is_an_error() -> None:
    made = message(record(tcp_entry(responseFlags={"upstreamConnectionFailure": True})))
    assert (made.envoy_response_flags, made.error_type) == ("UF", "upstream_connection_failure")


def test_trace_comes_from_the_logged_header() -> None:
    entry = http_entry()
    entry.request.request_headers["traceparent"] = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    made = message(record(entry))
    assert (made.trace_id, made.parent_span_id) == ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7")
    entry.request.request_headers["traceparent"] = "00-4bf9-00f067aa0ba902b7-01"
    assert message(record(entry)).trace_id == ""


def test_grpc_call_is_told_by_content_type_and_its_status_by_the_trailer() -> None:
    entry = http_entry()
    entry.request.request_headers["content-type"] = "application/grpc+proto"
    made = message(record(entry))
    assert made.rpc_system == "grpc"
    assert not made.HasField("rpc_grpc_status_code")
    entry.response.response_trailers["grpc-status"] = "0"
    made = message(record(entry))
    assert made.HasField("rpc_grpc_status_code")
    assert made.rpc_grpc_status_code == 0


def test_grpc_call_is_told_by_its_user_agent_where_no_content_type_is_logged() -> None:
    entry = http_entry()
    entry.request.user_agent = "grpc-go/1.70.0"
    entry.response.response_headers["grpc-status"] = "14"
    made = message(record(entry))
    assert (made.rpc_system, made.rpc_grpc_status_code) == ("grpc", 14)
    entry.request.request_headers["content-type"] = "application/json"
    assert message(record(entry)).rpc_system == ""


def test_grpc_messages_come_from_filter_state() -> None:
    entry = http_entry()
    state = entry.common_properties.filter_state_objects["envoy.filters.http.grpc_stats"]
    state.Pack(FilterObject(request_message_count=3, response_message_count=0))
    made = message(record(entry))
    assert made.rpc_request_message_count == 3
    assert made.HasField("rpc_response_message_count")


def test_node_tells_the_workload_that_received() -> None:
    made = message(record(http_entry(), identifier("sidecar~10.1.1.1~ratings-1.shop~shop.svc", RATINGS)))
    assert made.istio_reporter == "destination"
    assert made.istio_destination_workload == "ratings-v1"
    assert made.istio_destination_workload_namespace == "shop"
    assert (made.istio_destination_app, made.istio_destination_version) == ("ratings", "v1")
    assert made.istio_destination_canonical_service == "ratings"
    assert made.istio_destination_canonical_revision == "v1"
    assert made.istio_destination_cluster == "Kubernetes"
    assert made.istio_source_workload == ""


@pytest.mark.parametrize(
    ("node", "cluster", "reporter"),
    [
        ("sidecar~1~a~b", "inbound|8080||", "destination"),
        ("sidecar~1~a~b", "outbound|8080||reviews.shop.svc.cluster.local", "source"),
        ("sidecar~1~a~b", "PassthroughCluster", "source"),
        ("sidecar~1~a~b", "InboundPassthroughCluster", "destination"),
        ("sidecar~1~a~b", "", "destination"),
        ("router~1~a~b", "", "source"),
        ("router~1~a~b", "outbound|8080||reviews.shop.svc.cluster.local", "source"),
        ("waypoint~1~a~b", "outbound|8080||reviews.shop.svc.cluster.local", "waypoint"),
        ("edge-1", "orders", "destination"),
    ],
)
def test_side_is_told_by_the_cluster_and_the_kind_of_node(node: str, cluster: str, reporter: str) -> None:
    made = message(record(http_entry(cluster=cluster), identifier(node, RATINGS)))
    assert made.istio_reporter == reporter
    workloads = {
        "source": made.istio_source_workload,
        "destination": made.istio_destination_workload,
        "waypoint": "ratings-v1",
    }
    assert workloads[reporter] == "ratings-v1"


PEER = {"workload": "productpage-v1", "namespace": "shop", "service": "productpage", "cluster": "Kubernetes",
        "identity": "spiffe://cluster.local/ns/shop/sa/productpage"}  # fmt: skip


@pytest.mark.parametrize("wrapped", [False, True], ids=["struct", "bytes"])
@pytest.mark.parametrize(
    ("state", "cluster", "side"),
    [("downstream_peer", "inbound|80||", "source"), ("upstream_peer", "outbound|80||x", "destination")],
)
def test_exchanged_metadata_tells_the_peer(wrapped: bool, state: str, cluster: str, side: str) -> None:
    entry, peer = http_entry(cluster=cluster), Struct()
    peer.update(PEER)
    packed = entry.common_properties.filter_state_objects[state]
    packed.Pack(BytesValue(value=peer.SerializeToString()) if wrapped else peer)
    made = message(record(entry, identifier("sidecar~1~a~b", RATINGS)))
    assert getattr(made, f"istio_{side}_workload") == "productpage-v1"
    assert getattr(made, f"istio_{side}_workload_namespace") == "shop"
    assert getattr(made, f"istio_{side}_canonical_service") == "productpage"
    assert getattr(made, f"istio_{side}_principal") == PEER["identity"]


def tls(source: str | None = "spiffe://mesh/ns/web/sa/front") -> dict[str, Any]:
    peer = {"subjectAltName": [{"uri": source}], "subject": "CN=front"} if source else {}
    return {
        "tlsVersion": "TLSv1_3",
        "tlsCipherSuite": 0x1301,
        "tlsSniHostname": "shop.example",
        "ja3Fingerprint": "abc",
        "peerCertificateProperties": peer,
        "localCertificateProperties": {"subjectAltName": [{"uri": "spiffe://mesh/ns/shop/sa/ratings"}]},
    }


def test_tls_of_the_clients_connection_is_told() -> None:
    made = message(record(http_entry(tlsProperties=tls())))
    assert (made.tls_protocol_version, made.tls_cipher) == ("1.3", "0x1301")
    assert made.tls_client_server_name == "shop.example"
    assert made.tls_client_subject == "CN=front"
    assert made.tls_client_ja3 == "abc"


def test_certificates_prove_both_ends() -> None:
    made = message(record(http_entry(tlsProperties=tls())))
    assert made.istio_source_principal == "spiffe://mesh/ns/web/sa/front"
    assert made.istio_source_workload_namespace == "web"
    assert made.istio_destination_principal == "spiffe://mesh/ns/shop/sa/ratings"
    assert made.istio_connection_security_policy == "mutual_tls"


def test_server_certificate_alone_is_not_mutual() -> None:
    made = message(record(http_entry(tlsProperties=tls(None))))
    assert made.istio_destination_principal == "spiffe://mesh/ns/shop/sa/ratings"
    assert made.istio_connection_security_policy == ""


def test_proven_namespace_outranks_the_claimed_one() -> None:
    entry, peer = http_entry(tlsProperties=tls()), Struct()
    peer.update({"namespace": "claimed", "workload": "front-v1"})
    entry.common_properties.filter_state_objects["downstream_peer"].Pack(peer)
    made = message(record(entry))
    assert made.istio_source_workload_namespace == "web"
    assert made.istio_source_workload == "front-v1"


def test_outbound_side_does_not_take_its_clients_tls_for_the_mesh() -> None:
    made = message(record(http_entry(cluster="outbound|80||x", tlsProperties=tls())))
    assert made.tls_protocol_version == "1.3"
    assert made.istio_destination_principal == ""


def test_events_have_ids_that_no_other_event_has() -> None:
    ids = [made.event_id for _ in range(3) for made in records(100)]
    assert len(set(ids)) == 300


def test_intermediate_entry_of_an_envoy_without_types_is_no_end() -> None:
    assert record(http_entry(kind="NotSet")).type == Schema.NotSet
    assert record(http_entry(kind="NotSet", intermediateLogEntry=True)).type == Schema.DownstreamPeriodic
    assert record(tcp_entry(kind="NotSet", intermediateLogEntry=True)).type == Schema.TcpPeriodic


PARTS = [
    field.name
    for field in intake.CommonColumns.DESCRIPTOR.fields
    if field.type == field.TYPE_BYTES and field.name != "filter_state_objects"
]


def made_of(entry: intake.HTTPColumns.Entry) -> AccessRecord:
    """The record of an entry whose parts may be any bytes."""
    (made,) = EntryReader(identifier(), Decoder()).http((entry.SerializeToString(),))
    return made


@settings(deadline=None)
@given(st.sampled_from(PARTS), st.binary(max_size=40))
def test_no_bytes_in_any_part_break_a_record(part: str, data: bytes) -> None:
    entry = intake.HTTPColumns.Entry()
    getattr(entry.common_properties, part).append(data)
    made = made_of(entry)
    Schema.FromString(made.to_protobuf())
    made.to_json()


def entry_of(key: str, value: bytes) -> bytes:
    """An entry of a map, as it is on the wire."""
    return b"\x0a" + length(len(key.encode())) + key.encode() + b"\x12" + length(len(value)) + value


@settings(deadline=None)
@given(
    st.binary(max_size=40),
    st.sampled_from(["downstream_peer", "upstream_peer", "envoy.filters.http.grpc_stats"]),
)
def test_no_filter_state_breaks_a_record(data: bytes, name: str) -> None:
    for cluster in ("inbound|80||", "outbound|80||x"):
        entry = intake.HTTPColumns.Entry()
        entry.common_properties.upstream_cluster.append(cluster)
        state = intake.FilterState(key=name, value=data).SerializeToString()
        entry.common_properties.filter_state_objects.append(state)
        made = made_of(entry)
        Schema.FromString(made.to_protobuf())


UUID_VALUE = st.binary(min_size=36, max_size=36).map(lambda data: b"\x1a\x24" + data)


@settings(deadline=None)
@given(
    st.one_of(
        st.binary(max_size=60),
        st.builds(
            entry_of, st.sampled_from(["decision_id", "reason", "mixer"]), st.one_of(st.binary(), UUID_VALUE)
        ),
    )
)
def test_no_metadata_breaks_a_record(data: bytes) -> None:
    metadata = intake.Metadata()
    for name in ("envoy.filters.http.ext_authz", "envoy.filters.http.ratelimit"):
        metadata.filter_metadata.add(key=name).value.fields.append(data)
    entry = intake.HTTPColumns.Entry()
    entry.common_properties.metadata.append(metadata.SerializeToString())
    made = made_of(entry)
    Schema.FromString(made.to_protobuf())
    made.to_json()


IDS = st.sampled_from([f"{digit}b9b6d5e-6f8e-4f1e-9b0a-0d6d0f6f6e9d" for digit in range(4)])
# Where an id stands that is looked past: the entry of a decision's id in metadata, within a text.
LIKE_AN_ID = st.builds(
    "{}\n\x0bdecision_id\x12&\x1a${}{}".format, st.text(max_size=2), IDS, st.text(max_size=2)
)
DECISIONS = st.fixed_dictionaries(
    {},
    optional={
        "decision_id": st.one_of(IDS, st.text(max_size=40), LIKE_AN_ID),
        "reason": st.one_of(IDS, LIKE_AN_ID, st.sampled_from(["ok", "denied"])),
        "mixer": st.fixed_dictionaries(
            {}, optional={"policy": st.sampled_from(["a", "b"]), "cache": LIKE_AN_ID}
        ),
    },
)
NAMESPACES = st.dictionaries(
    st.sampled_from(["envoy.filters.http.ext_authz", "a.filter", "z.filter"]), DECISIONS, max_size=3
)


@settings(deadline=None)
@given(st.lists(NAMESPACES, min_size=2, max_size=8))
def test_decisions_that_differ_in_their_id_alone_are_told_apart(
    entries: list[dict[str, dict[str, Any]]],
) -> None:
    reader = EntryReader(identifier(), Decoder())
    for namespaces in entries:
        entry = http_entry()
        for name, values in namespaces.items():
            with_metadata(entry, name, values)
        made = message(read(reader, entry))
        expected = namespaces.get("envoy.filters.http.ext_authz", {})
        assert made.mixer_decision_id == expected.get("decision_id", "")
        assert made.mixer_decision_reason == expected.get("reason", "")
        assert made.mixer_policy == expected.get("mixer", {}).get("policy", "")
        assert made.mixer_cache == expected.get("mixer", {}).get("cache", "")


@settings(deadline=None)
@given(st.one_of(st.binary(max_size=40), st.builds(entry_of, st.text(max_size=8), st.binary(max_size=200))))
def test_header_is_read_as_protobuf_reads_it(data: bytes) -> None:
    entry = intake.HTTPColumns.Entry()
    entry.request.request_headers.append(data)
    made = message(made_of(entry))
    try:
        parsed = intake.Header.FromString(data)
    except DecodeError:
        expected = {}
    else:
        kept = parsed.key and parsed.key.lower().encode() not in DROPPED_HEADERS
        expected = {parsed.key: parsed.value} if kept else {}
    assert dict(made.http_request_header) == expected


def test_long_header_is_whole() -> None:
    sizes = (0, 1, 120, 127, 128, 500, 20_000)
    entry = http_entry()
    for size in sizes:
        entry.request.request_headers[f"x-{size}"] = "v" * size
    kept = message(record(entry)).http_request_header
    assert {name: len(value) for name, value in kept.items()} == {f"x-{size}": size for size in sizes}


def test_status_without_a_grpc_call_is_none() -> None:
    entry = http_entry()
    entry.response.response_headers["grpc-status"] = "3"
    assert not message(record(entry)).HasField("rpc_grpc_status_code")


def test_entries_do_not_share_what_was_looked_up() -> None:
    reader = EntryReader(identifier(), Decoder())
    first = message(read(reader, http_entry(tlsProperties=tls())))
    second = message(read(reader, http_entry(tlsProperties=tls(None))))
    assert first.istio_source_principal
    assert not second.istio_source_principal
    assert TLSProperties.TLSVersion.Name(4) == "TLSv1_3"

"""Envoy's access-log messages, field by field: each is in the record, or it is said here why not."""

from collections.abc import Iterator
from typing import Any

import orjson
import pytest
from envoy.data.accesslog.v3 import accesslog_pb2 as envoys
from google.protobuf import any_pb2, duration_pb2, struct_pb2, timestamp_pb2, wrappers_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from mixer.telemetry.decode import Decoder
from mixer.telemetry.entry import EntryReader
from mixer.telemetry.structured import state_text
from mixer.telemetry.v1.access_record_pb2 import AccessRecord as Schema
from tests.telemetry.entries import http_entry, identifier, read, record

FILTER = "envoy.filters.http.jwt_authn"

HTTP = {
    "protocol_version": "network_protocol_version",
    "request.request_method": "http_request_method",
    "request.scheme": "url_scheme",
    "request.authority": "server_address",
    "request.path": "url_path",
    "request.user_agent": "user_agent_original",
    "request.referer": "envoy_referer",
    "request.forwarded_for": "envoy_forwarded_for",
    "request.request_id": "envoy_request_id",
    "request.original_path": "url_path",
    "request.request_headers_bytes": "http_request_header_size",
    "request.request_body_bytes": "http_request_body_size",
    "request.request_headers": "http_request_header",
    "request.upstream_header_bytes_sent": "envoy_upstream_header_bytes_sent",
    "request.downstream_header_bytes_received": "envoy_downstream_header_bytes_received",
    "response.response_code": "http_response_status_code",
    "response.response_headers_bytes": "http_response_header_size",
    "response.response_body_bytes": "http_response_body_size",
    "response.response_headers": "http_response_header",
    "response.response_trailers": "http_response_trailer",
    "response.response_code_details": "envoy_response_code_details",
    "response.upstream_header_bytes_received": "envoy_upstream_header_bytes_received",
    "response.downstream_header_bytes_sent": "envoy_downstream_header_bytes_sent",
}
TCP = {
    "connection_properties.received_bytes": "envoy_bytes_received",
    "connection_properties.sent_bytes": "envoy_bytes_sent",
}
TLS = {
    "tls_version": "tls_protocol_version",
    "tls_cipher_suite": "tls_cipher",
    "tls_sni_hostname": "tls_client_server_name",
    "local_certificate_properties.subject_alt_name.uri": "envoy_downstream_local_san",
    "local_certificate_properties.subject_alt_name.dns": "envoy_downstream_local_san",
    "local_certificate_properties.subject": "tls_server_subject",
    "local_certificate_properties.issuer": "tls_server_issuer",
    "peer_certificate_properties.subject_alt_name.uri": "envoy_downstream_peer_san",
    "peer_certificate_properties.subject_alt_name.dns": "envoy_downstream_peer_san",
    "peer_certificate_properties.subject": "tls_client_subject",
    "peer_certificate_properties.issuer": "tls_client_issuer",
    "tls_session_id": "envoy_tls_session_id",
    "ja3_fingerprint": "tls_client_ja3",
}
COMMON = {
    "downstream_remote_address": "client_address",
    "downstream_local_address": "network_local_address",
    "downstream_direct_remote_address": "network_peer_address",
    "upstream_remote_address": "envoy_upstream_host",
    "upstream_local_address": "envoy_upstream_local_address",
    "metadata": "envoy_metadata",
    "filter_state_objects": "envoy_filter_state",
    **{f"tls_properties.{name}": field for name, field in TLS.items()},
    # All as letters; they have their names in Envoy's order in `flags.LETTERS`, which another test holds complete.
    **{
        f"response_flags.{flag.name}{'.reason' if flag.message_type else ''}": "envoy_response_flags"
        for flag in envoys.ResponseFlags.DESCRIPTOR.fields
    },
    # What is flat has Envoy's own number and name in the record.
    **{
        field.name: Schema.DESCRIPTOR.fields_by_number[field.number].name
        for field in envoys.AccessLogCommon.DESCRIPTOR.fields
        if field.number in Schema.DESCRIPTOR.fields_by_number
    },
}
LEFT_OUT = {
    "common_properties.sample_rate": "Envoy does not implement it",
    "request.port": "Envoy does not use it: the port is in the authority, and from there in server_port",
}
ENTRIES = {"http": (envoys.HTTPAccessLogEntry, HTTP), "tcp": (envoys.TCPAccessLogEntry, TCP)}
# Messages that are one value here.
WHOLE = ("google.protobuf.", "envoy.config.core.v3.")


def leaves(
    message: Descriptor, at: tuple[FieldDescriptor, ...] = ()
) -> Iterator[tuple[FieldDescriptor, ...]]:
    for field in message.fields:
        below = field.message_type
        if below is None or below.full_name.startswith(WHOLE) or below.GetOptions().map_entry:
            yield (*at, field)
        else:
            yield from leaves(below, (*at, field))


def name_of(path: tuple[FieldDescriptor, ...]) -> str:
    return ".".join(field.name for field in path)


def kept(kind: str) -> dict[str, str]:
    return ENTRIES[kind][1] | {f"common_properties.{name}": field for name, field in COMMON.items()}


PATHS = [(kind, path) for kind, (entry, _) in ENTRIES.items() for path in leaves(entry.DESCRIPTOR)]


@pytest.mark.parametrize("kind", ENTRIES)
def test_every_field_of_envoys_is_kept_or_left_out_for_a_reason(kind: str) -> None:
    names = {name_of(path) for entry, path in PATHS if entry == kind}
    assert kept(kind).keys() | LEFT_OUT.keys() >= names
    assert kept(kind).keys() <= names
    assert not kept(kind).keys() & LEFT_OUT.keys()


@pytest.mark.parametrize(
    ("kind", "path"),
    [pair for pair in PATHS if name_of(pair[1]) not in LEFT_OUT],
    ids=lambda part: part if isinstance(part, str) else name_of(part),
)
def test_field_is_in_the_record_in_both_forms(kind: str, path: tuple[FieldDescriptor, ...]) -> None:
    entry = ENTRIES[kind][0]()
    put(entry, path)
    made = read(EntryReader(identifier(), Decoder(metadata=[FILTER])), entry)
    field = Schema.DESCRIPTOR.fields_by_name[kept(kind)[name_of(path)]]
    message = Schema.FromString(made.to_protobuf())
    assert field in [each for each, _ in message.ListFields()]
    assert orjson.loads(made.to_json())[field.json_name]


def put(message: Any, path: tuple[FieldDescriptor, ...]) -> None:
    """Set one field, and no other."""
    *way, last = path
    for field in way:
        message = getattr(message, field.name)
        if field.is_repeated:
            message = message.add()
    whole = last.message_type
    if whole is None:
        values: dict[int, Any] = {FieldDescriptor.CPPTYPE_STRING: "/a", FieldDescriptor.CPPTYPE_BOOL: True}
        setattr(message, last.name, values.get(last.cpp_type, 1))
    elif last.name == "filter_state_objects":
        getattr(message, last.name)["a.state"].Pack(wrappers_pb2.StringValue(value="a"))
    elif whole.GetOptions().map_entry:
        getattr(message, last.name)["x-a"] = "b"
    elif last.name == "metadata":
        message.metadata.filter_metadata[FILTER].update({"a": "b"})
    elif whole.full_name == "envoy.config.core.v3.Address":
        getattr(message, last.name).socket_address.address = "10.0.0.1"
    elif whole.full_name == timestamp_pb2.Timestamp.DESCRIPTOR.full_name:
        message.start_time.seconds = 1
    elif whole.full_name == duration_pb2.Duration.DESCRIPTOR.full_name:
        getattr(message, last.name).nanos = 1
    else:
        assert whole.full_name == wrappers_pb2.UInt32Value.DESCRIPTOR.full_name
        getattr(message, last.name).value = 200


def packed(value: Any) -> bytes:
    made = any_pb2.Any()
    made.Pack(value)
    return made.SerializeToString()


@pytest.mark.parametrize(
    ("state", "text"),
    [
        (packed(wrappers_pb2.StringValue(value="north")), "north"),
        (packed(wrappers_pb2.BytesValue(value="é".encode())), "é"),
        (packed(wrappers_pb2.BytesValue(value=b"\xff")), '{"@type":"type.googleapis.com/google.protobuf.BytesValue",'
                                                         '"value":"CgH/"}'),
        (packed(wrappers_pb2.UInt64Value(value=7)), '"7"'),
        (packed(struct_pb2.Struct(fields={"a": struct_pb2.Value(number_value=1)})), '{"a":1.0}'),
        (packed(struct_pb2.Struct(fields={"a": struct_pb2.Value(number_value=float("nan"))})),
         '{"@type":"type.googleapis.com/google.protobuf.Struct","value":"Cg4KAWESCREAAAAAAAD4fw=="}'),
        (any_pb2.Any(type_url="x/not.known", value=b"a").SerializeToString(), '{"@type":"x/not.known","value":"YQ=="}'),
        (any_pb2.Any(value=b"a").SerializeToString(), '{"@type":"","value":"YQ=="}'),
    ],
)  # fmt: skip
def test_filter_state_is_text_or_json(state: bytes, text: str) -> None:
    assert state_text(state) == text


def test_metadata_is_in_a_record_only_of_the_filters_that_are_named() -> None:
    entry = http_entry()
    for name in (FILTER, "another"):
        entry.common_properties.metadata.filter_metadata[name].update({"sub": "alice", "groups": ["a", 1]})
    assert not Schema.FromString(record(entry).to_protobuf()).envoy_metadata
    made = Schema.FromString(read(EntryReader(identifier(), Decoder(metadata=[FILTER])), entry).to_protobuf())
    assert {name: orjson.loads(text) for name, text in made.envoy_metadata.items()} == {
        FILTER: {"sub": "alice", "groups": ["a", 1]}
    }


def test_peers_and_counts_are_not_told_a_second_time_as_filter_state() -> None:
    entry = http_entry()
    for name in ("downstream_peer", "upstream_peer", "envoy.filters.http.grpc_stats"):
        entry.common_properties.filter_state_objects[name].Pack(struct_pb2.Struct())
    assert not Schema.FromString(record(entry).to_protobuf()).envoy_filter_state

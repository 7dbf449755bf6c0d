"""Access-log entries of Envoy to records.

Table-driven, because an attribute of a protobuf message costs 100 ns to read: `attrgetter` reads a whole table
in one call, each attribute once, and what is empty is not set.
"""

import re
from collections.abc import Mapping
from operator import attrgetter
from secrets import token_hex
from typing import Any

from envoy.config.core.v3 import address_pb2
from envoy.data.accesslog.v3 import accesslog_pb2
from envoy.extensions.filters.http.grpc_stats.v3 import config_pb2 as grpc_stats_pb2
from envoy.service.accesslog.v3 import als_pb2
from google.protobuf.message import DecodeError

from mixer.telemetry.flags import METHODS, PROTOCOLS, TLS_VERSIONS, flags_of
from mixer.telemetry.peers import PEER_FIELDS, Identity, PeerMetadata, first_uri, namespace_of
from mixer.telemetry.record import AccessRecord, Fields, Origin
from mixer.telemetry.v1 import access_record_pb2 as schema

# Secrets by their nature. They do not enter a record, whatever Envoy was told to log.
DROPPED_HEADERS = frozenset({"authorization", "proxy-authorization", "cookie", "set-cookie", "x-api-key"})

# Envoy's attribute -> our field, for what is taken over as it is.
_REQUEST = {
    "scheme": "url_scheme",
    "user_agent": "user_agent_original",
    "referer": "envoy_referer",
    "forwarded_for": "envoy_forwarded_for",
    "request_id": "envoy_request_id",
    "request_headers_bytes": "http_request_header_size",
    "request_body_bytes": "http_request_body_size",
}
_RESPONSE = {
    "response_code.value": "http_response_status_code",
    "response_headers_bytes": "http_response_header_size",
    "response_body_bytes": "http_response_body_size",
    "response_code_details": "envoy_response_code_details",
}
_CONNECTION = {
    "received_bytes": "envoy_bytes_received",
    "sent_bytes": "envoy_bytes_sent",
}
_COMMON = (
    "access_log_type",
    "upstream_cluster",
    "duration",
    "downstream_wire_bytes_received",
    "downstream_wire_bytes_sent",
)
# What AccessLogCommon has and the record has not, or in another form: left out of what is passed on.
_KEPT_BACK = tuple(
    field.name
    for field in accesslog_pb2.AccessLogCommon.DESCRIPTOR.fields
    if field.number not in schema.AccessRecord.DESCRIPTOR.fields_by_number
)
_read_request, _read_response, _read_connection = (
    attrgetter(*table) for table in (_REQUEST, _RESPONSE, _CONNECTION)
)
_read_common = attrgetter(*_COMMON)
_read_socket = attrgetter("address", "port_value")
_HTTP_FIELDS = (*_REQUEST.values(), *_RESPONSE.values())
_TCP_FIELDS = tuple(_CONNECTION.values())

_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}.*")  # W3C Trace Context
_MAX_CLUSTERS = 4096  # clusters whose direction is remembered


class EntryReader:
    """Makes the records of one stream."""

    def __init__(self, identifier: als_pb2.StreamAccessLogsMessage.Identifier) -> None:
        self._identity = Identity(identifier)
        self._peers = PeerMetadata()
        self._origins: dict[str, Origin] = {}
        self._stream = token_hex(16)
        self._count = 0

    def http(self, entry: accesslog_pb2.HTTPAccessLogEntry) -> AccessRecord:
        """The record of one HTTP request. The entry is used up."""
        fields = self._begin("http")
        request, response = entry.request, entry.response
        for name, value in zip(_HTTP_FIELDS, _read_request(request) + _read_response(response), strict=True):
            if value:
                fields[name] = value
        if version := entry.protocol_version:
            fields["network_protocol_version"] = PROTOCOLS.get(version, str(version))
        _target(request, fields)
        _headers(request, response, fields)
        return self._record(entry.common_properties, fields)

    def tcp(self, entry: accesslog_pb2.TCPAccessLogEntry) -> AccessRecord:
        """The record of one connection, or of a moment in its life. The entry is used up."""
        fields = self._begin("tcp")
        for name, value in zip(_TCP_FIELDS, _read_connection(entry.connection_properties), strict=True):
            if value:
                fields[name] = value
        return self._record(entry.common_properties, fields)

    def _begin(self, protocol: str) -> Fields:
        self._count += 1
        return {"event_id": f"{self._stream}-{self._count}", "network_protocol_name": protocol}

    def _record(self, common: accesslog_pb2.AccessLogCommon, fields: Fields) -> AccessRecord:
        kind, cluster, span, received, sent = _read_common(common)
        nanos, seconds = span.nanos, span.seconds
        duration = seconds + nanos / 1e9 if seconds or nanos or common.HasField("duration") else None
        origin = self._origins.get(cluster)
        if origin is None:
            if len(self._origins) >= _MAX_CLUSTERS:
                self._origins.clear()
            origin = self._origins[cluster] = self._identity.origin(cluster)
        _addresses(common, fields)
        if metadata := common.metadata.filter_metadata:
            _joined(metadata, fields)
        known = len(fields)
        if states := common.filter_state_objects:
            self._states(states, origin, fields)
        if common.HasField("tls_properties"):
            _tls(common.tls_properties, fields, inbound=not origin.outbound)
        peers = tuple(map(fields.get, PEER_FIELDS)) if len(fields) > known else ()
        if common.HasField("response_flags"):
            _flags(common.response_flags, fields)
        # A 404 is an answer, not an error; a request without any answer is one if Envoy says why.
        if "error_type" not in fields and (status := fields.get("http_response_status_code", 0)) >= 500:
            fields["error_type"] = str(status)
        clear = common.ClearField
        for name in _KEPT_BACK:
            clear(name)
        return AccessRecord(
            origin,
            fields,
            common.SerializeToString(),
            peers=peers,
            type=kind,
            cluster=cluster,
            duration=duration,
            received=received,
            sent=sent,
        )

    def _states(self, states: Mapping[str, Any], origin: Origin, fields: Fields) -> None:
        """Who the peers are, and how many gRPC messages they exchanged, from the filter state that Envoy logs."""
        if not origin.outbound and "downstream_peer" in states:
            fields.update(self._peers.labels(states["downstream_peer"], "source"))
        if origin.far_destination and "upstream_peer" in states:
            fields.update(self._peers.labels(states["upstream_peer"], "destination"))
        if "envoy.filters.http.grpc_stats" in states:
            try:
                counts = grpc_stats_pb2.FilterObject.FromString(states["envoy.filters.http.grpc_stats"].value)
            except DecodeError:
                return
            fields["rpc_request_message_count"] = counts.request_message_count
            fields["rpc_response_message_count"] = counts.response_message_count


def _target(request: accesslog_pb2.HTTPRequestProperties, fields: Fields) -> None:
    """Method, path and host: what was asked of whom."""
    path, authority = request.path, request.authority
    if original := request.original_path:  # Envoy rewrote the path
        rewritten, path = path.partition("?")[0], original
    if path:
        asked, _, query = path.partition("?")
        fields["url_path"] = asked
        if query:
            fields["url_query"] = query
        if original and rewritten != asked:
            fields["envoy_rewritten_path"] = rewritten
    if method := METHODS.get(request.request_method):
        fields["http_request_method"] = method
    elif path or authority:
        fields["http_request_method"] = "_OTHER"  # OpenTelemetry's word for a method outside its list
    if authority:
        host, colon, port = authority.rpartition(":")
        if colon and port.isdecimal() and len(port) <= 5 and (":" not in host or host.startswith("[")):
            fields["server_address"] = host.strip("[]")
            fields["server_port"] = int(port)
        else:
            fields["server_address"] = authority.strip("[]")


def _headers(
    request: accesslog_pb2.HTTPRequestProperties,
    response: accesslog_pb2.HTTPResponseProperties,
    fields: Fields,
) -> None:
    """The headers that Envoy was told to log, and what they tell: the trace, and a gRPC call's status."""
    sent = received = trailers = None
    if headers := request.request_headers:
        fields["http_request_header"] = sent = _kept(headers)
        if match := _TRACEPARENT.fullmatch(sent.get("traceparent", "")):
            fields["trace_id"], fields["parent_span_id"] = match.groups()
    if headers := response.response_headers:
        fields["http_response_header"] = received = _kept(headers)
    if headers := response.response_trailers:
        fields["http_response_trailer"] = trailers = _kept(headers)
    content_type = (sent or {}).get("content-type") or (received or {}).get("content-type") or ""
    # Without a logged content type, the user agent tells: gRPC's own clients all begin theirs so.
    if content_type.startswith("application/grpc") or (
        not content_type and fields.get("user_agent_original", "").startswith("grpc-")
    ):
        fields["rpc_system"] = "grpc"
        status = (trailers or {}).get("grpc-status") or (received or {}).get("grpc-status") or ""
        if status.isdecimal() and len(status) <= 3:
            fields["rpc_grpc_status_code"] = int(status)


def _kept(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name.lower() not in DROPPED_HEADERS}


def _addresses(common: accesslog_pb2.AccessLogCommon, fields: Fields) -> None:
    client, client_port = _read_socket(common.downstream_remote_address.socket_address)
    if client:
        fields["client_address"] = client
        if client_port:
            fields["client_port"] = client_port
    elif other := _other_address(common.downstream_remote_address):
        fields["client_address"] = other
    # The connection's own end differs from the client where Envoy took that from x-forwarded-for.
    peer, peer_port = _read_socket(common.downstream_direct_remote_address.socket_address)
    if peer and (peer != client or peer_port != client_port):
        fields["network_peer_address"] = peer
        if peer_port:
            fields["network_peer_port"] = peer_port
    local, local_port = _read_socket(common.downstream_local_address.socket_address)
    if local:
        fields["network_local_address"] = local
        if local_port:
            fields["network_local_port"] = local_port
    elif other := _other_address(common.downstream_local_address):
        fields["network_local_address"] = other
    host, port = _read_socket(common.upstream_remote_address.socket_address)
    if host:
        fields["envoy_upstream_host"] = f"{host}:{port}"
    elif other := _other_address(common.upstream_remote_address):
        fields["envoy_upstream_host"] = other
    host, port = _read_socket(common.upstream_local_address.socket_address)
    if host:
        fields["envoy_upstream_local_address"] = f"{host}:{port}"


def _other_address(address: address_pb2.Address) -> str:
    """A Unix socket's path, or the name of a listener inside Envoy."""
    path: str = address.pipe.path
    name: str = address.envoy_internal_address.server_listener_name
    return path or name


def _joined(metadata: Mapping[str, Any], fields: Fields) -> None:
    """The decision that Check gave, and the limit that Quota named, from the request's dynamic metadata."""
    # What a key has not reads as empty: protobuf's map makes it then, in a message that is ours.
    for namespace in ("envoy.filters.http.ext_authz", "envoy.filters.network.ext_authz"):
        if namespace in metadata:
            decision = metadata[namespace].fields
            if value := decision["decision_id"].string_value:
                fields["mixer_decision_id"] = value
            if value := decision["reason"].string_value:
                fields["mixer_decision_reason"] = value
            ours = decision["mixer"].struct_value.fields
            if value := ours["policy"].string_value:
                fields["mixer_policy"] = value
            if value := ours["revision"].string_value:
                fields["mixer_policy_revision"] = value
            if value := ours["cache"].string_value:
                fields["mixer_cache"] = value
    if "envoy.filters.http.ratelimit" in metadata:
        ours = metadata["envoy.filters.http.ratelimit"].fields["mixer"].struct_value.fields
        if value := ours["limit"].string_value:
            fields["mixer_limit"] = value
        if value := ours["code"].string_value:
            fields["mixer_limit_code"] = value


def _tls(tls: accesslog_pb2.TLSProperties, fields: Fields, *, inbound: bool) -> None:
    if version := tls.tls_version:
        fields["tls_protocol_version"] = TLS_VERSIONS.get(version, str(version))
    if cipher := tls.tls_cipher_suite.value:
        fields["tls_cipher"] = f"0x{cipher:04x}"
    if name := tls.tls_sni_hostname:
        fields["tls_client_server_name"] = name
    if ja3 := tls.ja3_fingerprint:
        fields["tls_client_ja3"] = ja3
    peer, local = tls.peer_certificate_properties, tls.local_certificate_properties
    if subject := peer.subject:
        fields["tls_client_subject"] = subject
    if subject := local.subject:
        fields["tls_server_subject"] = subject
    if not inbound:
        return  # what Envoy logs is the client's connection; the one upstream is not told
    source, destination = first_uri(peer.subject_alt_name), first_uri(local.subject_alt_name)
    if source:
        fields["istio_source_principal"] = source
        if namespace := namespace_of(source):
            fields["istio_source_workload_namespace"] = namespace  # what is proven outranks what was claimed
    if destination:
        fields["istio_destination_principal"] = destination
    if source and destination:
        fields["istio_connection_security_policy"] = "mutual_tls"


def _flags(flags: accesslog_pb2.ResponseFlags, fields: Fields) -> None:
    letters, first = flags_of(flags)
    if letters:
        fields["envoy_response_flags"] = letters
        if not 0 < fields.get("http_response_status_code", 0) < 500:
            fields["error_type"] = first

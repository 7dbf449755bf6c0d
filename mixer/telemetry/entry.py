"""Access-log entries of Envoy to records.

This is the hot path of Report, and written for it: an attribute of a protobuf message takes 100 ns to read and to
set, a submessage or a map as much again. So `attrgetter` reads a table at once, parts that repeat are looked up by
their bytes (`decode`), what a record has as Envoy has it is passed on as bytes, and what is empty is not set.
"""

import re
from collections.abc import Mapping
from operator import attrgetter
from secrets import token_hex

from envoy.extensions.filters.http.grpc_stats.v3.config_pb2 import FilterObject
from envoy.service.accesslog.v3 import als_pb2
from google.protobuf.any_pb2 import Any
from google.protobuf.message import DecodeError

from mixer.telemetry import intake_pb2 as intake
from mixer.telemetry.decode import Decoder, text
from mixer.telemetry.flags import METHODS, PROTOCOLS
from mixer.telemetry.peers import PEER_FIELDS, Identity
from mixer.telemetry.record import AccessRecord, Fields, Origin
from mixer.telemetry.v1.access_record_pb2 import AccessRecord as Schema

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
_read_request = attrgetter(
    *_REQUEST, "request_method", "path", "original_path", "authority", "request_headers"
)
_read_response = attrgetter(*_RESPONSE, "response_headers", "response_trailers")
_HTTP_FIELDS = (*_REQUEST.values(), *_RESPONSE.values())
_read_common = attrgetter(
    "downstream_remote_address",
    "downstream_direct_remote_address",
    "downstream_local_address",
    "upstream_remote_address",
    "upstream_local_address",
    "tls_properties",
    "response_flags",
    "metadata.filter_metadata",
    "filter_state_objects",
    "access_log_type",
    "upstream_cluster",
    "duration",
    "downstream_wire_bytes_received",
    "downstream_wire_bytes_sent",
)
_ALWAYS_KEPT_BACK = (
    "downstream_remote_address",
    "downstream_direct_remote_address",
    "downstream_local_address",
    "upstream_remote_address",
    "upstream_local_address",
)

_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}.*")  # W3C Trace Context
_EXT_AUTHZ = ("envoy.filters.http.ext_authz", "envoy.filters.network.ext_authz")
_RATELIMIT = "envoy.filters.http.ratelimit"
_GRPC_STATS = "envoy.filters.http.grpc_stats"
_MAX_CLUSTERS = 4096  # clusters whose direction is remembered


class EntryReader:
    """Makes the records of one stream. Entries are used up: parts are taken out of them."""

    def __init__(self, identifier: als_pb2.StreamAccessLogsMessage.Identifier, decoder: Decoder) -> None:
        self._identity = Identity(identifier)
        self._decoder = decoder
        self._origins: dict[str, Origin] = {}
        self._stream = token_hex(16)
        self._count = 0

    def http(self, entry: intake.HTTPAccessLogEntry) -> AccessRecord:
        """The record of one HTTP request."""
        self._count = count = self._count + 1
        fields: Fields = {"event_id": f"{self._stream}-{count}", "network_protocol_name": "http"}
        *asked, method, path, original, authority, sent = _read_request(entry.request)
        *answered, received, trailers = _read_response(entry.response)
        for name, value in zip(_HTTP_FIELDS, (*asked, *answered), strict=True):
            if value:
                fields[name] = value
        if version := entry.protocol_version:
            fields["network_protocol_version"] = PROTOCOLS.get(version) or str(version)
        if path or authority:
            # OpenTelemetry's word for a method outside its list
            fields["http_request_method"] = METHODS.get(method) or "_OTHER"
            _target(path, original, authority, fields)
        if sent or received or trailers or "user_agent_original" in fields:
            _headers(sent, received, trailers, fields)
        return self._record(entry.common_properties, fields)

    def tcp(self, entry: intake.TCPAccessLogEntry) -> AccessRecord:
        """The record of one connection, or of a moment in its life."""
        self._count = count = self._count + 1
        fields: Fields = {"event_id": f"{self._stream}-{count}", "network_protocol_name": "tcp"}
        connection = entry.connection_properties
        if size := connection.received_bytes:
            fields["envoy_bytes_received"] = size
        if size := connection.sent_bytes:
            fields["envoy_bytes_sent"] = size
        return self._record(entry.common_properties, fields)

    def _record(self, common: intake.AccessLogCommon, fields: Fields) -> AccessRecord:
        """What HTTP and TCP share."""
        decoder = self._decoder
        # fmt: off
        (
            remote, direct, local, upstream, upstream_local, tls, flags,
            metadata, states, kind, cluster, span, received, sent,
        ) = _read_common(common)
        # fmt: on
        nanos, seconds = span.nanos, span.seconds
        duration = seconds + nanos / 1e9 if seconds or nanos or common.HasField("duration") else None
        if not kind and common.intermediate_log_entry:  # an Envoy that does not tell types yet
            kind = (
                Schema.TcpPeriodic if fields["network_protocol_name"] == "tcp" else Schema.DownstreamPeriodic
            )
        origin = self._origins.get(cluster)
        if origin is None:
            origin = self._origin(cluster)

        clear = common.ClearField
        for name in _ALWAYS_KEPT_BACK:
            clear(name)
        pieces = [decoder.local[local], decoder.upstream[upstream], decoder.upstream_local[upstream_local]]
        client, port = decoder.client[remote]
        if client:
            fields["client_address"] = client
            if port:
                fields["client_port"] = port
        # The connection's own end is another where Envoy took the client from x-forwarded-for.
        if direct and direct != remote:
            pieces.append(decoder.peer[direct])
        if metadata:
            self._join(metadata, fields, pieces)
            clear("metadata")
        peers: tuple[object, ...] = ()
        if states or tls:
            self._tell_peers(states, tls, origin, fields, pieces)
            clear("filter_state_objects")
            clear("tls_properties")
            peers = tuple(map(fields.get, PEER_FIELDS))
        if flags:
            letters, error = decoder.flags[flags]
            if letters:
                fields["envoy_response_flags"] = letters
            clear("response_flags")
            _error(error, fields)
        else:
            _error("", fields)
        pieces.append(common.SerializeToString())
        return AccessRecord(
            origin,
            fields,
            b"".join(pieces),
            ends=(remote, direct, local),
            peers=peers,
            type=kind,
            cluster=cluster,
            duration=duration,
            received=received,
            sent=sent,
        )

    def _origin(self, cluster: str) -> Origin:
        if len(self._origins) >= _MAX_CLUSTERS:
            self._origins.clear()
        origin = self._origins[cluster] = self._identity.origin(cluster)
        return origin

    def _join(self, metadata: Mapping[str, intake.Struct], fields: Fields, pieces: list[bytes]) -> None:
        """The decision that Check gave, and the limit that Quota named, from the request's dynamic metadata."""
        for namespace in _EXT_AUTHZ:
            if namespace in metadata:
                get = metadata[namespace].fields.get
                if (value := get("decision_id")) and (string := text(value)):
                    fields["mixer_decision_id"] = string
                if (value := get("reason")) and (string := text(value)):
                    fields["mixer_decision_reason"] = string
                if value := get("mixer"):
                    pieces.append(self._decoder.policy[value])
        if _RATELIMIT in metadata and (value := metadata[_RATELIMIT].fields.get("mixer")):
            pieces.append(self._decoder.limit[value])

    def _tell_peers(
        self, states: Mapping[str, bytes], tls: bytes, origin: Origin, fields: Fields, pieces: list[bytes]
    ) -> None:
        """Who the two ends are, and how many gRPC messages they exchanged, from filter state and certificates."""
        if not origin.outbound and (state := states.get("downstream_peer")):
            fields.update(self._decoder.source[state])
        if origin.far_destination and (state := states.get("upstream_peer")):
            fields.update(self._decoder.destination[state])
        if tls:
            proven = self._decoder.tls[tls]
            pieces.append(proven.fields)
            if not origin.outbound:  # what Envoy logs is the client's connection, not the one upstream
                fields.update(proven.peers)  # what is proven outranks what was claimed
        if state := states.get(_GRPC_STATS):
            try:
                counts = FilterObject.FromString(Any.FromString(state).value)
            except DecodeError:
                return
            fields["rpc_request_message_count"] = counts.request_message_count
            fields["rpc_response_message_count"] = counts.response_message_count


def _error(flag: str, fields: Fields) -> None:
    """A 404 is an answer, not an error; what was never answered is an error when Envoy says why."""
    status = fields.get("http_response_status_code", 0)
    if status >= 500:
        fields["error_type"] = flag or str(status)
    elif flag and not status:
        fields["error_type"] = flag


def _target(path: str, original: str, authority: str, fields: Fields) -> None:
    """Path and host that the client asked for."""
    asked, _, query = (original or path).partition("?")
    if asked:
        fields["url_path"] = asked
    if query:
        fields["url_query"] = query
    if original and (rewritten := path.partition("?")[0]) != asked:
        fields["envoy_rewritten_path"] = rewritten
    if authority:
        host, colon, port = authority.rpartition(":")
        if not colon:
            fields["server_address"] = authority
        elif port.isdecimal() and len(port) <= 5 and (":" not in host or host.startswith("[")):
            fields["server_address"] = host.strip("[]")
            fields["server_port"] = int(port)
        else:
            fields["server_address"] = authority.strip("[]")


def _headers(
    sent: Mapping[str, str], received: Mapping[str, str], trailers: Mapping[str, str], fields: Fields
) -> None:
    """The headers that Envoy was told to log, and what they tell: the trace, and a gRPC call's status."""
    content_type = status = ""
    if sent:
        fields["http_request_header"] = kept = _kept(sent)
        content_type = kept.get("content-type", "")
        if (parent := kept.get("traceparent")) and (match := _TRACEPARENT.fullmatch(parent)):
            fields["trace_id"], fields["parent_span_id"] = match.groups()
    if received:
        fields["http_response_header"] = kept = _kept(received)
        content_type = content_type or kept.get("content-type", "")
        status = kept.get("grpc-status", "")
    if trailers:
        fields["http_response_trailer"] = kept = _kept(trailers)
        status = kept.get("grpc-status", "") or status
    # Without a logged content type, the user agent tells: those of gRPC's own clients all begin so.
    if content_type.startswith("application/grpc") or (
        not content_type and fields.get("user_agent_original", "").startswith("grpc-")
    ):
        fields["rpc_system"] = "grpc"
        if status.isdecimal() and len(status) <= 3:
            fields["rpc_grpc_status_code"] = int(status)


def _kept(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: headers[name] for name in headers if name.lower() not in DROPPED_HEADERS}

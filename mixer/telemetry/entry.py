"""Access-log entries of Envoy to records.

This is the hot path of Report, and written for it: an attribute of a protobuf message takes 100 ns to read and to
set, a submessage or a map as much again. So `attrgetter` reads a table at once, parts that repeat are looked up by
their bytes (`decode`), what a record has as Envoy has it is passed on as bytes, and what is empty is not set.
"""

import re
from collections.abc import Sequence
from operator import attrgetter
from secrets import token_hex

from envoy.extensions.filters.http.grpc_stats.v3.config_pb2 import FilterObject
from envoy.service.accesslog.v3 import als_pb2
from google.protobuf.any_pb2 import Any
from google.protobuf.message import DecodeError

from mixer.telemetry import intake_pb2 as intake
from mixer.telemetry.decode import UNTOLD, Decoder
from mixer.telemetry.peers import PEER_FIELDS, Identity
from mixer.telemetry.record import TCP, AccessRecord, Fields, Origin, Shape
from mixer.telemetry.structured import metadata_texts
from mixer.telemetry.v1.access_record_pb2 import AccessRecord as Schema
from mixer.telemetry.wire import prefixed, tag

_read_request = attrgetter(
    "request_method",
    "scheme",
    "authority",
    "path",
    "original_path",
    "user_agent",
    "referer",
    "forwarded_for",
    "request_id",
    "request_headers_bytes",
    "request_body_bytes",
    "request_headers",
    "downstream_header_bytes_received",
    "upstream_header_bytes_sent",
)
_read_response = attrgetter(
    "response_code",
    "response_headers_bytes",
    "response_body_bytes",
    "response_code_details",
    "response_headers",
    "response_trailers",
    "upstream_header_bytes_received",
    "downstream_header_bytes_sent",
)
_KEPT_BACK = (
    "downstream_remote_address",
    "downstream_direct_remote_address",
    "downstream_local_address",
    "upstream_remote_address",
    "upstream_local_address",
)
_read_common = attrgetter(
    *_KEPT_BACK,
    "tls_properties",
    "response_flags",
    "metadata",
    "filter_state_objects",
    "access_log_type",
    "upstream_cluster",
    "duration",
    "downstream_wire_bytes_received",
    "downstream_wire_bytes_sent",
)

_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}.*")  # W3C Trace Context
# Of the request as it came and went on, of the response likewise.
_HEADER_BYTES = (
    "envoy_downstream_header_bytes_received",
    "envoy_upstream_header_bytes_sent",
    "envoy_upstream_header_bytes_received",
    "envoy_downstream_header_bytes_sent",
)
_GRPC_STATS = "envoy.filters.http.grpc_stats"
_EVENT_ID = tag("event_id")
_REQUEST_HEADER, _RESPONSE_HEADER, _RESPONSE_TRAILER = map(
    tag, ("http_request_header", "http_response_header", "http_response_trailer")
)
_MAX_CLUSTERS = 4096  # clusters whose direction is remembered


class EntryReader:
    """Makes the records of one stream. Entries are used up: parts are taken out of them."""

    def __init__(self, identifier: als_pb2.StreamAccessLogsMessage.Identifier, decoder: Decoder) -> None:
        self._identity = Identity(identifier)
        self._decoder = decoder
        self._origins: dict[str, Origin] = {}
        self._stream = token_hex(16).encode()
        self._count = 0

    def http(self, entry: intake.HTTPAccessLogEntry) -> AccessRecord:  # noqa: PLR0912 (a look at each field)
        """The record of one HTTP request."""
        # fmt: off
        (
            method, scheme, authority, path, original, agent, referer, forwarded, request_id,
            headers_size, body_size, sent, headers_in, headers_on,
        ) = _read_request(entry.request)
        (
            code, answer_headers_size, answer_size, details, received, trailers, headers_back, headers_out,
        ) = _read_response(entry.response)
        # fmt: on
        decoder = self._decoder
        if not (method or path or authority):
            method = UNTOLD
        shape = decoder.shape[entry.protocol_version, method, scheme, authority, agent, code, details]
        fields: Fields = {}
        pieces = [shape.encoded]
        if path or original:
            asked, _, query = (original or path).partition("?")
            if asked:
                fields["url_path"] = asked
            if query:
                fields["url_query"] = decoder.redaction.query(query)
            if original and (rewritten := path.partition("?")[0]) != asked:
                fields["envoy_rewritten_path"] = rewritten
        if shape.grpc:
            fields["rpc_system"] = "grpc"
        if referer:
            fields["envoy_referer"] = decoder.redaction.url(referer)
        if forwarded:
            fields["envoy_forwarded_for"] = forwarded
        if request_id:
            fields["envoy_request_id"] = request_id
        if headers_size:
            fields["http_request_header_size"] = headers_size
        if body_size:
            fields["http_request_body_size"] = body_size
        if answer_headers_size:
            fields["http_response_header_size"] = answer_headers_size
        if answer_size:
            fields["http_response_body_size"] = answer_size
        if headers_in or headers_on or headers_back or headers_out:
            sizes = (headers_in, headers_on, headers_back, headers_out)
            fields.update(pair for pair in zip(_HEADER_BYTES, sizes, strict=True) if pair[1])
        if received:
            self._take_headers(received, _RESPONSE_HEADER, fields, pieces)
        if trailers:
            self._take_headers(trailers, _RESPONSE_TRAILER, fields, pieces)
        if sent:
            self._take_headers(sent, _REQUEST_HEADER, fields, pieces)
        if "rpc_grpc_status_code" in fields and "rpc_system" not in fields:
            del fields["rpc_grpc_status_code"]
        return self._record(entry.common_properties, fields, pieces, shape)

    def tcp(self, entry: intake.TCPAccessLogEntry) -> AccessRecord:
        """The record of one connection, or of a moment in its life."""
        fields: Fields = {}
        connection = entry.connection_properties
        if size := connection.received_bytes:
            fields["envoy_bytes_received"] = size
        if size := connection.sent_bytes:
            fields["envoy_bytes_sent"] = size
        return self._record(entry.common_properties, fields, [TCP.encoded], TCP)

    def _record(
        self, common: intake.AccessLogCommon, fields: Fields, pieces: list[bytes], shape: Shape
    ) -> AccessRecord:
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
            kind = Schema.TcpPeriodic if shape is TCP else Schema.DownstreamPeriodic
        origin = self._origins.get(cluster)
        if origin is None:
            origin = self._origin(cluster)

        clear = common.ClearField
        for name in _KEPT_BACK:
            clear(name)
        pieces += (
            decoder.client[remote],
            decoder.local[local],
            decoder.upstream[upstream],
            decoder.upstream_local[upstream_local],
        )
        # The connection's own end is another where Envoy took the client from x-forwarded-for.
        if direct and direct != remote:
            pieces.append(decoder.peer[direct])
        holders: tuple[str, ...] = ()
        if metadata:
            joined, holders = decoder.joined(metadata)
            pieces += joined
            if decoder.metadata and (texts := metadata_texts(metadata, decoder.metadata)):
                fields["envoy_metadata"] = texts
            clear("metadata")
        peers: tuple[object, ...] = ()
        if states or tls:
            self._tell_peers(states, tls, origin, fields, pieces)
            clear("filter_state_objects")
            clear("tls_properties")
            peers = tuple(map(fields.get, PEER_FIELDS))
        flag = ""
        if flags:
            letters, flag = decoder.flags[flags]
            if letters:
                fields["envoy_response_flags"] = letters
            clear("response_flags")
        # A 404 is an answer, not an error; what was never answered is an error when Envoy says why.
        status = shape.status
        if status >= 500 or not status:
            if flag:
                fields["error_type"] = flag
            elif status:
                fields["error_type"] = str(status)

        self._count = count = self._count + 1
        event_id = b"%b-%d" % (self._stream, count)
        pieces += _EVENT_ID, prefixed(len(event_id)), event_id, common.SerializeToString()
        return AccessRecord(
            origin,
            event_id,
            shape,
            fields,
            b"".join(pieces),
            (remote, direct, local),
            peers,
            kind,
            cluster,
            duration,
            received,
            sent,
            holders,
        )

    def _origin(self, cluster: str) -> Origin:
        if len(self._origins) >= _MAX_CLUSTERS:
            self._origins.clear()
        origin = self._origins[cluster] = self._identity.origin(cluster)
        return origin

    def _take_headers(
        self, entries: Sequence[bytes], into: bytes, fields: Fields, pieces: list[bytes]
    ) -> None:
        """Take over headers that Envoy was told to log, and what they tell: the trace, and a gRPC call's status.

        `into` is the tag of the record's field. Of several content types and statuses the last one taken counts.
        """
        known = self._decoder.header
        for raw in entries[:]:
            if (header := known[raw]) is None:
                continue
            pieces += into, header.entry
            if name := header.name:
                tell(name, header.value, fields)

    def _tell_peers(
        self,
        states: Sequence[intake.FilterState],
        tls: bytes,
        origin: Origin,
        fields: Fields,
        pieces: list[bytes],
    ) -> None:
        """Who the two ends are, and how many gRPC messages they exchanged, from filter state and certificates; other
        filter state as text."""
        others: dict[str, str] = {}
        for state in states[:]:
            name = state.key
            if name == "downstream_peer":
                if not origin.outbound:
                    fields.update(self._decoder.source[state.value])
            elif name == "upstream_peer":
                if origin.far_destination:
                    fields.update(self._decoder.destination[state.value])
            elif name == _GRPC_STATS:
                _count_messages(state.value, fields)
            elif text := self._decoder.state[state.value]:
                others[name] = text
        if others:
            fields["envoy_filter_state"] = others
        if tls:
            proven = self._decoder.tls[tls]
            pieces.append(proven.fields)
            if not origin.outbound:  # what Envoy logs is the client's connection, not the one upstream
                fields.update(proven.peers)  # what is proven outranks what was claimed


def _count_messages(state: bytes, fields: Fields) -> None:
    try:
        counts = FilterObject.FromString(Any.FromString(state).value)
    except DecodeError:
        return
    fields["rpc_request_message_count"] = counts.request_message_count
    fields["rpc_response_message_count"] = counts.response_message_count


def tell(name: bytes, value: bytes, fields: Fields) -> None:
    """What a header tells beyond itself (`TELLING_HEADERS`)."""
    if name == b"content-type":
        fields.pop("rpc_system", None)
        if value.startswith(b"application/grpc"):
            fields["rpc_system"] = "grpc"
    elif name == b"grpc-status":
        if value.isdigit() and len(value) <= 3:
            fields["rpc_grpc_status_code"] = int(value)
    elif match := _TRACEPARENT.fullmatch(value.decode("utf-8", "replace")):
        fields["trace_id"], fields["parent_span_id"] = match.groups()

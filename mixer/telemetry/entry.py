"""Access-log entries of Envoy to records.

This is the hot path of Report, and written for it: entries are read column by column (`columns`), and parts that repeat
are looked up by their bytes (`decode`). What only the record itself has is read when it is encoded (`encode`), for a
whole batch at once, and never where nobody asks for it.
"""

import re
from collections.abc import Callable, Sequence
from functools import partial
from itertools import repeat
from secrets import token_hex
from typing import Any as AnyValue

from envoy.extensions.filters.http.grpc_stats.v3.config_pb2 import FilterObject
from envoy.service.accesslog.v3 import als_pb2
from google.protobuf.any_pb2 import Any
from google.protobuf.message import DecodeError

from mixer.telemetry import intake_pb2 as intake
from mixer.telemetry.columns import Part, Reader, Table
from mixer.telemetry.decode import UNTOLD, Decoder, Tls
from mixer.telemetry.encode import Batch, HTTPBatch
from mixer.telemetry.peers import PEER_FIELDS, Identity
from mixer.telemetry.record import TCP, AccessRecord, Fields, Origin, Shape
from mixer.telemetry.v1.access_record_pb2 import AccessRecord as Schema

_HTTP, _TCP = intake.HTTPColumns, intake.TCPColumns
_ENTRY = Part(_HTTP, "", ("protocol_version",))
_REQUEST = Part(
    _HTTP, "request", ("request_method", "scheme", "authority", "user_agent", "request_headers"),
    lists=("request_headers",),
)  # fmt: skip
_RESPONSE = Part(
    _HTTP, "response", ("response_code", "response_code_details", "response_headers", "response_trailers"),
    lists=("response_headers", "response_trailers"),
)  # fmt: skip
_PATH = Part(_HTTP, "request", ("path",))
_REQUEST_SIZES = Part(_HTTP, "request", ("request_headers_bytes", "request_body_bytes"))
_RESPONSE_SIZES = Part(_HTTP, "response", ("response_headers_bytes", "response_body_bytes"))
_CONNECTION = Part(_TCP, "connection_properties", ("received_bytes", "sent_bytes"))
# The same of both kinds.
_COMMON = Part(
    _HTTP, "common_properties",
    (
        "tls_properties", "response_flags", "filter_state_objects", "access_log_type", "intermediate_log_entry",
        "upstream_cluster", "downstream_wire_bytes_received", "downstream_wire_bytes_sent",
    ),
    lists=("filter_state_objects",),
)  # fmt: skip
_DURATION = Part(_HTTP, "common_properties.duration", ("seconds", "nanos"))

_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}.*")  # W3C Trace Context
_GRPC_STATS = b"envoy.filters.http.grpc_stats"
_MAX_CLUSTERS = 4096  # clusters whose direction is remembered
_NOTHING: Fields = {}  # shared, and never changed
# A record from its values, in order, without the price of a Python function.
_record: Callable[[tuple[AnyValue, ...]], AccessRecord] = partial(tuple.__new__, AccessRecord)


class _Origins(dict[str, Origin]):
    """By the upstream cluster's name."""

    def __init__(self, identity: Identity) -> None:
        super().__init__()
        self._identity = identity

    def __missing__(self, cluster: str) -> Origin:
        if len(self) >= _MAX_CLUSTERS:
            self.clear()
        origin = self[cluster] = self._identity.origin(cluster)
        return origin


class _Told(list[Fields]):
    """What is told of each entry; most are told nothing of."""

    def of(self, place: int) -> Fields:
        """To be changed."""
        if (fields := self[place]) is _NOTHING:
            fields = self[place] = {}
        return fields


class EntryReader:
    """Makes the records of one stream."""

    def __init__(self, identifier: als_pb2.StreamAccessLogsMessage.Identifier, decoder: Decoder) -> None:
        self._decoder = decoder
        self._origins = _Origins(Identity(identifier))
        self._stream = token_hex(16).encode()
        self._count = 0
        self._http, self._tcp = Reader(_HTTP), Reader(_TCP)

    def http(self, entries: Sequence[bytes]) -> list[AccessRecord]:
        """The records of HTTP requests, of serialised entries. Raises protobuf's `DecodeError`, or `RequestError`."""
        table = Table(self._http, entries)
        decoder = self._decoder
        methods, schemes, hosts, agents, sent = _REQUEST.columns(table)
        codes, details, received, trailers = _RESPONSE.columns(table)
        (versions,) = _ENTRY.columns(table)
        if b"" in hosts:  # neither method, host nor path: Envoy could not read the request
            (paths,) = _PATH.columns(table)
            methods = [
                method if method or host or path else UNTOLD
                for method, host, path in zip(methods, hosts, paths, strict=True)
            ]
        keys = zip(versions, methods, schemes, hosts, agents, codes, details, strict=True)
        shapes = list(map(decoder.shape.__getitem__, keys))
        told = _Told(repeat(_NOTHING, table.count))
        for place, shape in enumerate(shapes):
            if shape.grpc:
                told.of(place)["rpc_system"] = "grpc"
        for headers in (received, trailers, sent):
            self._hear(headers, told)
        for fields in told:
            if "rpc_grpc_status_code" in fields and "rpc_system" not in fields:
                del fields["rpc_grpc_status_code"]
        return self._records(table, HTTPBatch, shapes, told, (received, trailers, sent))

    def tcp(self, entries: Sequence[bytes]) -> list[AccessRecord]:
        """The records of connections, or of moments in their lives, likewise."""
        table = Table(self._tcp, entries)
        told = _Told(repeat(_NOTHING, table.count))
        for place, (received, sent) in enumerate(zip(*_CONNECTION.columns(table), strict=True)):
            if received:
                told.of(place)["envoy_bytes_received"] = received
            if sent:
                told.of(place)["envoy_bytes_sent"] = sent
        return self._records(table, Batch, [TCP] * table.count, told, ())

    def _records(
        self,
        table: Table,
        kind: type[Batch],
        shapes: list[Shape],
        told: _Told,
        headers: Sequence[Sequence[tuple[bytes, ...]]],
    ) -> list[AccessRecord]:
        """What HTTP and TCP share."""
        decoder, count = self._decoder, table.count
        tls, flags, states, kinds, lasting, clusters, received, sent = _COMMON.columns(table)
        durations = _durations(table)
        if any(lasting):  # an Envoy that does not tell types yet
            periodic = Schema.TcpPeriodic if kind is Batch else Schema.DownstreamPeriodic
            kinds = [
                periodic if lasts and not each else each for each, lasts in zip(kinds, lasting, strict=True)
            ]
        origins = list(map(self._origins.__getitem__, clusters))
        proven: Sequence[Tls | None] = ()
        peers: Sequence[tuple[object, ...]] = [()] * count
        if any(tls) or any(states):
            proven = [decoder.tls[data] if data else None for data in tls]
            peers = [
                self._tell_peers(states[place], proven[place], origins[place], told.of(place))
                if states[place] or tls[place]
                else ()
                for place in range(count)
            ]
        flagged: Sequence[str] = ()
        if any(flags):
            named = list(map(decoder.flags.__getitem__, flags))
            flagged = [name for _, name in named]
            for place, (letters, _) in enumerate(named):
                if letters:
                    told.of(place)["envoy_response_flags"] = letters
        if kind is HTTPBatch and (0 in received or 0 in sent):
            _tell_sizes(table, received, sent, told)
        batch = kind(
            table, decoder, self._stream, self._count + 1,
            origins=origins, shapes=shapes, headers=headers, proven=proven, flagged=flagged,
            states=states,
        )  # fmt: skip
        self._count += count
        rows = zip(
            origins, shapes, told, peers, kinds, clusters, durations, received, sent,
            repeat(batch, count), range(count),
            strict=True,
        )  # fmt: skip
        return list(map(_record, rows))

    def _hear(self, headers: Sequence[tuple[bytes, ...]], told: _Told) -> None:
        """What headers that Envoy was told to log tell beyond themselves: the trace, and a gRPC call's status.

        Of several content types and statuses the last one taken counts.
        """
        known = self._decoder.telling
        if not any(headers):
            return
        for place, header in [
            (place, header)
            for place, raws in enumerate(headers)
            for raw in raws
            if (header := known[raw]) is not None
        ]:
            tell(header.name, header.value, told.of(place))

    def _tell_peers(
        self, states: Sequence[bytes], proven: Tls | None, origin: Origin, fields: Fields
    ) -> tuple[object, ...]:
        """Who the two ends are, and how many gRPC messages they exchanged, from filter state and certificates."""
        decoder = self._decoder
        for raw in states:
            name, value = decoder.filter_state[raw]
            if name == b"downstream_peer" and not origin.outbound:
                fields.update(decoder.source[value])
            elif name == b"upstream_peer" and origin.far_destination:
                fields.update(decoder.destination[value])
            elif name == _GRPC_STATS:
                _count_messages(value, fields)
        if (
            proven is not None and not origin.outbound
        ):  # what Envoy logs is the client's connection, not the one upstream
            fields.update(proven.peers)  # what is proven outranks what was claimed
        return tuple(map(fields.get, PEER_FIELDS))


def _durations(table: Table) -> Sequence[float | None]:
    """Seconds; None where Envoy did not tell."""
    spans = zip(*_DURATION.columns(table), strict=True)
    found: list[float | None] = [seconds + nanos / 1e9 for seconds, nanos in spans]
    if 0 in found:
        entries = table.entries
        found = [span if span or _has_duration(entries[place]) else None for place, span in enumerate(found)]
    return found


def _has_duration(entry: bytes) -> bool:
    return intake.Timed.FromString(entry).common_properties.HasField("duration")


def _tell_sizes(table: Table, received: Sequence[int], sent: Sequence[int], told: _Told) -> None:
    """An Envoy before 1.22 does not tell the bytes on the wire."""
    columns = (received, sent, *_REQUEST_SIZES.columns(table), *_RESPONSE_SIZES.columns(table))
    names = (
        "http_request_header_size",
        "http_request_body_size",
        "http_response_header_size",
        "http_response_body_size",
    )
    for place, (wire_in, wire_out, *sizes) in enumerate(zip(*columns, strict=True)):
        if not (wire_in and wire_out):
            told.of(place).update({name: size for name, size in zip(names, sizes, strict=True) if size})


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

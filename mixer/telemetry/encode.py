"""Records of a batch of access-log entries as protobuf, each put together from pieces that are encoded already.

A protobuf message may be written in parts, in any order (https://protobuf.dev/programming-guides/encoding/#order).
"""

from collections.abc import Iterator, Sequence
from functools import cached_property
from operator import attrgetter

from mixer.telemetry import intake_pb2 as intake
from mixer.telemetry.columns import Part, Table, repeated
from mixer.telemetry.decode import Decoder, Tls
from mixer.telemetry.record import Fields, Origin, Shape, encoded
from mixer.telemetry.redaction import Redaction
from mixer.telemetry.wire import SHORT_TEXT, Column, Numbers, Text, joined, mapped, prefixed, tag, utf8

_HTTP = intake.HTTPColumns
_REQUEST = Part(
    _HTTP, "request",
    (
        "path", "original_path", "referer", "forwarded_for", "request_id",
        "request_headers_bytes", "request_body_bytes",
        "downstream_header_bytes_received", "upstream_header_bytes_sent",
    ),
)  # fmt: skip
_RESPONSE = Part(
    _HTTP, "response",
    (
        "response_headers_bytes", "response_body_bytes",
        "upstream_header_bytes_received", "downstream_header_bytes_sent",
    ),
)  # fmt: skip
_ENDS = Part(
    _HTTP, "common_properties",
    ("downstream_remote_address", "downstream_direct_remote_address", "downstream_local_address"),
)  # fmt: skip
_UPSTREAM = Part(_HTTP, "common_properties", ("upstream_remote_address", "upstream_local_address"))
_METADATA = Part(_HTTP, "common_properties", ("metadata",))

_path, _query, _rewritten = map(Text, ("url_path", "url_query", "envoy_rewritten_path"))
_referer, _forwarded, _request_id = map(Text, ("envoy_referer", "envoy_forwarded_for", "envoy_request_id"))
_error = Text("error_type")
_SIZES = tuple(
    map(
        Numbers,
        (
            "http_request_header_size", "http_request_body_size",
            "envoy_downstream_header_bytes_received", "envoy_upstream_header_bytes_sent",
            "http_response_header_size", "http_response_body_size",
            "envoy_upstream_header_bytes_received", "envoy_downstream_header_bytes_sent",
        ),
    )
)  # fmt: skip
_EVENT_ID = tag("event_id")


def _common(fields: Fields) -> bytes:
    """An access-log entry whose common properties are these fields of a record."""
    made = encoded(fields)
    return b"\x0a" + prefixed(len(made)) + made


def _id_tag(size: int) -> bytes:
    return _EVENT_ID + prefixed(size)


class Batch:
    """Of TCP entries. See `record.Source`.

    `headers`: of each entry those of its response, of its trailers and of its request. `proven`: what its TLS tells;
    `flagged`: the first of its response flags. Both are empty where no entry has any. `states`: its filter state.
    """

    # What `Passed` has behind each entry: common properties with this alone.
    _protocol = _common({"network_protocol_name": "tcp"})

    def __init__(
        self,
        table: Table,
        decoder: Decoder,
        stream: bytes,
        first: int,
        *,
        origins: Sequence[Origin],
        shapes: Sequence[Shape],
        headers: Sequence[Sequence[tuple[bytes, ...]]],
        proven: Sequence[Tls | None],
        flagged: Sequence[str],
        states: Sequence[Sequence[bytes]],
    ) -> None:
        self._table = table
        self._decoder = decoder
        self._stream = stream
        self._first = first
        self._origins = origins
        self._shapes = shapes
        self._headers = headers
        self._proven = proven
        self._flagged = flagged
        self._states = states

    def ends(self, place: int) -> tuple[bytes, bytes, bytes]:
        remote, direct, local = self._ends
        return remote[place], direct[place], local[place]

    def holders(self, place: int) -> tuple[str, ...]:
        return self._joined[1][place]

    @cached_property
    def event_ids(self) -> list[bytes]:
        stream, first = self._stream, self._first
        form = stream + b"-%d"  # a stream is named in hexadecimal digits
        return [form % number for number in range(first, first + self._table.count)]

    @cached_property
    def _ends(self) -> list[Sequence[bytes]]:
        return _ENDS.columns(self._table)

    @cached_property
    def _joined(self) -> tuple[tuple[Column, ...], Sequence[tuple[str, ...]]]:
        return self._decoder.joined_all(self._metadata)

    @cached_property
    def _metadata(self) -> Sequence[bytes]:
        (metadata,) = _METADATA.columns(self._table)
        return metadata

    @cached_property
    def encoded(self) -> list[bytes]:
        ids = self.event_ids
        sizes = [len(ids[0])] if len(ids[0]) == len(ids[-1]) else list(map(len, ids))
        # What all have comes first, so that it is one piece.
        columns = sorted(self._columns(), key=lambda column: not isinstance(column, bytes))
        return joined((*columns, mapped(_id_tag, sizes), ids), self._table.count)

    def _columns(self) -> Iterator[Column]:
        decoder = self._decoder
        yield mapped(attrgetter("protobuf"), self._origins)
        yield mapped(attrgetter("encoded"), self._shapes)
        remote, direct, local = self._ends
        upstream, upstream_local = _UPSTREAM.columns(self._table)
        yield mapped(decoder.client.__getitem__, remote)
        yield mapped(decoder.local.__getitem__, local)
        yield mapped(decoder.upstream.__getitem__, upstream)
        yield mapped(decoder.upstream_local.__getitem__, upstream_local)
        # The connection's own end is another where Envoy took the client from x-forwarded-for.
        if direct != remote:
            yield [
                decoder.peer[one] if one and one != other else b""
                for one, other in zip(direct, remote, strict=True)
            ]
        yield from self._joined[0]
        if decoder.metadata:
            yield mapped(decoder.named_metadata, self._metadata)
        if any(self._states):
            yield [
                b"".join(map(decoder.state.__getitem__, states)) if states else b"" for states in self._states
            ]
        if self._proven:
            yield [b"" if tls is None else tls.fields for tls in self._proven]
        if self._flagged:  # where there is no answer that says why, or a bad one, Envoy's word counts
            yield [
                b"" if 0 < shape.status < 500 else _error(flag)
                for shape, flag in zip(self._shapes, self._flagged, strict=True)
            ]
        passed = intake.Passed.FromString(repeated(self._table.entries, self._protocol))
        yield intake.Pieces.FromString(passed.SerializeToString()).log_entry.common_properties[:]


class HTTPBatch(Batch):
    """Of HTTP entries."""

    # And no version of the protocol, which takes the place of all that is no common property.
    _protocol = _common({"network_protocol_name": "http"}) + b"\x10\x00"

    def _columns(self) -> Iterator[Column]:
        yield from super()._columns()
        paths, originals, referers, forwarded, ids, *sizes = _REQUEST.columns(self._table)
        sizes += _RESPONSE.columns(self._table)
        decoder = self._decoder
        redaction = decoder.redaction
        if any(originals):
            rewritten = list(map(_rewritten_path, paths, originals))
            yield rewritten
            paths = [original or path for original, path in zip(originals, paths, strict=True)]
        yield _paths(paths, redaction)
        if any(referers):
            yield [_referer(redaction.url(value)) if value else b"" for value in referers]
        if any(forwarded):
            yield _forwarded.column(forwarded)
        yield _request_id.column(ids)
        for number, values in zip(_SIZES, sizes, strict=True):
            if any(values):
                yield mapped(number.__getitem__, values)
        into = (decoder.response_header, decoder.response_trailer, decoder.request_header)
        for known, headers in zip(into, self._headers, strict=True):
            if any(headers):
                yield [
                    known[raws[0]] if len(raws) == 1 else b"".join(map(known.__getitem__, raws))
                    for raws in headers
                ]


def _paths(paths: Sequence[str], redaction: Redaction) -> Column:
    """What the clients asked for."""
    if not redaction.is_harmless("\n".join(paths)):
        paths = [
            f"{asked}?{redaction.query(query)}" if query else asked
            for asked, _, query in (path.partition("?") for path in paths)
        ]
    data = utf8(paths)
    if max(map(len, data)) >= SHORT_TEXT:
        return [
            _path.of(asked) + _query.of(query) for asked, _, query in (each.partition(b"?") for each in data)
        ]
    before_path, before_query = _path.starts, _query.starts
    return [
        before_path[len(asked)] + asked + before_query[len(query)] + query
        if mark
        else before_path[len(asked)] + asked
        for asked, mark, query in [each.partition(b"?") for each in data]
    ]


def _rewritten_path(path: str, original: str) -> bytes:
    """What was sent upstream, where Envoy rewrote it."""
    rewritten = path.partition("?")[0]
    return _rewritten(rewritten) if original and rewritten != original.partition("?")[0] else b""

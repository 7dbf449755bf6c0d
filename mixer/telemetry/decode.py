"""Parts of an access-log entry that repeat from entry to entry: decoded once, then looked up by their bytes.

An address, a certificate or a policy's name is the same for thousands of entries. A part's result is either
encoded fields of a record, to be put among its bytes as they are, or values.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from secrets import token_hex
from typing import Any, Generic, NamedTuple, TypeVar

from envoy.config.core.v3.address_pb2 import Address
from envoy.data.accesslog.v3.accesslog_pb2 import ResponseFlags, TLSProperties
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError
from google.protobuf.struct_pb2 import Struct
from google.protobuf.wrappers_pb2 import BytesValue, UInt32Value

from mixer.telemetry import intake_pb2 as intake
from mixer.telemetry.attributes import authority as authority_of
from mixer.telemetry.flags import LETTERS, METHODS, PROTOCOLS, TLS_VERSIONS
from mixer.telemetry.peers import namespace_of, peer_workload, sided
from mixer.telemetry.record import Fields, Shape, encoded
from mixer.telemetry.redaction import Redaction
from mixer.telemetry.structured import metadata_texts, state_text
from mixer.telemetry.wire import Column, header, length, prefixed, tag

MAX_PARTS = 8192  # of one kind; then it begins anew
MAX_PART = 2048  # bytes; what is larger is decoded each time
MAX_HEADER = 256  # bytes; longer ones are rarely the same

# Headers that tell something beyond themselves.
TELLING_HEADERS = frozenset({b"content-type", b"grpc-status", b"traceparent"})

_EXT_AUTHZ = ("envoy.filters.http.ext_authz", "envoy.filters.network.ext_authz")
_RATELIMIT = "envoy.filters.http.ratelimit"
# Filter state that a record tells in fields of its own.
TOLD_STATES = frozenset({b"downstream_peer", b"upstream_peer", b"envoy.filters.http.grpc_stats"})
# The entry of a decision's id in metadata, up to the 36 characters of a UUID.
_ID_ENTRY = b"\x0a\x0bdecision_id\x12\x26\x1a\x24"
_ID_SIZE = 36
_HOLE = token_hex(_ID_SIZE // 2).encode()  # an id that nobody gives
_NOBODY: tuple[str, ...] = ()
_ID_FIELD = tag("mixer_decision_id") + prefixed(_ID_SIZE)

T = TypeVar("T")


class Parts(dict[bytes, T], Generic[T]):
    """Results of `decode` by the bytes they came from, at most `MAX_PARTS`; `default` for what cannot be parsed.

    What is larger than `largest` bytes is decoded each time.
    """

    def __init__(self, decode: Callable[[bytes], T], default: T, largest: int = MAX_PART) -> None:
        super().__init__()
        self._decode = decode
        self._default = default
        self._largest = largest

    def __missing__(self, data: bytes) -> T:
        try:
            result = self._decode(data)
        except DecodeError:
            result = self._default
        if len(data) <= self._largest:
            if len(self) >= MAX_PARTS:
                self.clear()
            self[data] = result
        return result


Key = tuple[int, int, str, bytes, str, bytes, str]
"""Of a request: protocol, method, scheme, authority, user agent; of its answer: code and details."""
UNTOLD = -1  # the method of a request that Envoy could not read


class Shapes(dict[Key, Shape]):
    """Shapes by what they come from, bounded as `Parts`. Looking one up costs less than any two of its fields."""

    def __missing__(self, key: Key) -> Shape:
        version, method, scheme, authority, agent, code, details = key
        named = authority_of(authority.decode("utf-8", "replace"))
        try:
            status = UInt32Value.FromString(code).value
        except DecodeError:
            status = 0
        fields = {
            "network_protocol_version": (PROTOCOLS.get(version) or str(version)) if version else "",
            # OpenTelemetry's word for a method outside its list
            "http_request_method": "" if method == UNTOLD else METHODS.get(method, "_OTHER"),
            "url_scheme": scheme,
            "user_agent_original": agent,
            "http_response_status_code": status,
            "envoy_response_code_details": details,
            # A 404 is an answer, not an error.
            "error_type": str(status) if status >= 500 else "",
            **named,
        }
        # As gRPC's own clients call themselves; a content type knows better.
        shape = Shape(
            encoded(fields),
            host=named.get("server_address", ""),
            status=status,
            grpc=agent.startswith("grpc-"),
        )
        if len(authority) + len(agent) + len(code) + len(details) + len(scheme) <= MAX_PART:
            if len(self) >= MAX_PARTS:
                self.clear()
            self[key] = shape
        return shape


class Header:
    """A logged header: the entry of a record's map with its length before it, and what it tells, else b""."""

    __slots__ = ("entry", "name", "value")

    def __init__(self, entry: bytes, name: bytes, value: bytes) -> None:
        self.entry = entry
        self.name = name
        self.value = value


class Tls:
    """What the TLS of a client's connection tells."""

    __slots__ = ("fields", "peers")

    def __init__(self, fields: bytes, peers: Mapping[str, str]) -> None:
        self.fields = fields  # encoded
        self.peers = peers  # Istio's fields of both ends, as far as certificates prove them


class Joined(NamedTuple):
    """What an entry's metadata tells of Check and Quota: encoded fields, and whose slots the request has."""

    fields: bytes
    holders: tuple[str, ...] = ()
    holds: bool = False  # whether the decision's id is another such holder


_NOTHING = Joined(b"")


class Decoder:
    """All parts of entries, shared by all streams."""

    def __init__(self, redaction: Redaction | None = None, metadata: Collection[str] = ()) -> None:
        """`metadata`: names of filters whose dynamic metadata a record has."""
        self.redaction = redaction or Redaction()
        self.metadata = frozenset(metadata)
        self.shape = Shapes()
        self.client = Parts(_endpoint("client_address", "client_port"), b"")
        self.peer = Parts(_endpoint("network_peer_address", "network_peer_port"), b"")
        self.local = Parts(_endpoint("network_local_address", "network_local_port"), b"")
        self.upstream = Parts(_joined("envoy_upstream_host"), b"")
        self.upstream_local = Parts(_joined("envoy_upstream_local_address"), b"")
        self.tls: Parts[Tls] = Parts(_tls, Tls(b"", {}))
        self.flags: Parts[tuple[str, str]] = Parts(_flags, ("", ""))
        self.state = Parts(_state_text, b"")
        self.header: Parts[Header | None] = Parts(self._header, None, MAX_HEADER)
        # Of a header what it tells, and its entry in the maps of a record.
        self.telling: Parts[Header | None] = Parts(self._telling, None, MAX_HEADER)
        self.response_header = Parts(self._into("http_response_header"), b"", MAX_HEADER)
        self.response_trailer = Parts(self._into("http_response_trailer"), b"", MAX_HEADER)
        self.request_header = Parts(self._into("http_request_header"), b"", MAX_HEADER)
        self.source: Parts[Mapping[str, str]] = Parts(_peer("source"), {})
        self.destination: Parts[Mapping[str, str]] = Parts(_peer("destination"), {})
        self.filter_state = Parts(_state, (b"", b""))
        self._decision = Parts(_decision, _NOTHING)
        self._quota = Parts(_quota, _NOTHING)
        self._around_id: Parts[Joined | None] = Parts(self._learn, None)

    def _header(self, data: bytes) -> Header | None:
        """None for what is no header, or none that a record may have."""
        found = header(data)
        if found is None:
            return None
        name, value, entry = found
        kept = self.redaction.header(name, value)
        if not name or kept is None:
            return None
        if kept is not value and kept != value:
            entry = intake.Header(key=name.decode(), value=kept.decode()).SerializeToString()
        return Header(prefixed(len(entry)) + entry, name if name in TELLING_HEADERS else b"", value)

    def _telling(self, data: bytes) -> Header | None:
        found = self.header[data]
        return found if found is not None and found.name else None

    def _into(self, field: str) -> Callable[[bytes], bytes]:
        start = tag(field)

        def entry(data: bytes) -> bytes:
            return b"" if (found := self.header[data]) is None else start + found.entry

        return entry

    def joined_all(self, column: Sequence[bytes]) -> tuple[tuple[Column, ...], Sequence[tuple[str, ...]]]:
        """`joined` of each, at once where all are alike but for the decision's id: columns, and the holders."""
        first = column[0]
        place = first.find(_ID_ENTRY)
        if place >= 0:
            start = place + len(_ID_ENTRY)
            end = start + _ID_SIZE
            before, after = first[:start], first[end:]
            ids = [metadata[start:end] for metadata in column]
            if (
                b"".join(column) == before + (after + before).join(ids) + after
                and set(map(len, column)) == {len(first)}
                and b"".join(ids).isascii()
                and (known := self._around_id[before + after]) is not None
            ):
                fields, holders, holds = known
                told = [_ID_FIELD + decision_id for decision_id in ids]
                if holds:
                    return (fields, told), [(*holders, decision_id.decode()) for decision_id in ids]
                return (fields, told), [holders] * len(ids)
        pieces, holders_of = zip(*map(self.joined, column), strict=True)
        return (pieces,), holders_of

    def joined(self, metadata: bytes) -> tuple[bytes, tuple[str, ...]]:
        """The decision that Check gave and the limit that Quota named, encoded, from an entry's metadata, and the
        holders of the slots that the request has.

        From request to request that often differs in the decision's id alone, so it is looked up without it.
        """
        before, entry, after = metadata.partition(_ID_ENTRY)
        if not entry:
            known = self._around_id[metadata] if metadata else None
            return (known.fields, known.holders) if known is not None else (b"", _NOBODY)
        decision_id = after[:_ID_SIZE]
        if len(decision_id) == _ID_SIZE and decision_id.isascii():
            known = self._around_id[before + entry + after[_ID_SIZE:]]
            if known is not None:
                fields, holders, holds = known
                if holds:
                    holders = (*holders, decision_id.decode())
                return fields + _ID_FIELD + decision_id, holders
        rest, decision_id = self._parsed(metadata)
        if not decision_id:
            return rest.fields, rest.holders
        holders = (*rest.holders, decision_id.decode()) if rest.holds else rest.holders
        return rest.fields + _ID_FIELD + decision_id, holders

    def named_metadata(self, metadata: bytes) -> bytes:
        """What the filters that are named left in an entry's metadata, encoded."""
        texts = metadata_texts(metadata, self.metadata) if metadata else None
        return encoded({"envoy_metadata": texts}) if texts else b""

    def _learn(self, around: bytes) -> Joined | None:
        """What metadata gives without the first id in it; None where that is not the decision's."""
        start = around.find(_ID_ENTRY)
        if start < 0:
            return self._parsed(around)[0]
        start += len(_ID_ENTRY)
        rest, decision_id = self._parsed(around[:start] + _HOLE + around[start:])
        return rest if decision_id == _HOLE else None

    def _parsed(self, metadata: bytes) -> tuple[Joined, bytes]:
        """All but the decision's id, encoded, and that id if it is a UUID."""
        try:
            namespaces = intake.Metadata.FromString(metadata).filter_metadata
        except DecodeError:
            return Joined(b""), b""
        parts: list[Joined] = []
        decision_id = b""
        for namespace in namespaces:
            if (name := namespace.key) in _EXT_AUTHZ:
                for entry in namespace.value.fields:
                    # All ids differ: there is nothing to look up.
                    if (
                        len(entry) == len(_ID_ENTRY) + _ID_SIZE
                        and entry.startswith(_ID_ENTRY)
                        and entry.isascii()
                    ):
                        decision_id = entry[-_ID_SIZE:]
                    else:
                        parts.append(self._decision[entry])
            elif name == _RATELIMIT:
                parts += [self._quota[entry] for entry in namespace.value.fields]
        holders = tuple(holder for part in parts for holder in part.holders)
        fields = b"".join(part.fields for part in parts)
        return Joined(fields, holders, any(part.holds for part in parts)), decision_id


def _address(data: bytes) -> tuple[str, int]:
    """Host and port; of a Unix socket its path, of a listener inside Envoy its name, and no port."""
    address = Address.FromString(data)
    socket = address.socket_address
    if socket.address:
        return socket.address, socket.port_value
    return address.pipe.path or address.envoy_internal_address.server_listener_name, 0


def _endpoint(address_field: str, port_field: str) -> Callable[[bytes], bytes]:
    def decode(data: bytes) -> bytes:
        host, port = _address(data)
        return encoded({address_field: host, port_field: port})

    return decode


def _joined(field: str) -> Callable[[bytes], bytes]:
    def decode(data: bytes) -> bytes:
        host, port = _address(data)
        return encoded({field: f"{host}:{port}" if port else host})

    return decode


def _decision(entry: bytes) -> Joined:
    """One entry of the dynamic metadata that Check gave."""
    struct = _entry(entry)
    ours = struct["mixer"].struct_value.fields
    fields = {
        "mixer_decision_id": struct["decision_id"].string_value,
        "mixer_decision_reason": struct["reason"].string_value,
        "mixer_policy": ours["policy"].string_value,
        "mixer_policy_revision": ours["revision"].string_value,
        "mixer_cache": ours["cache"].string_value,
        **_limit(ours),
    }
    return Joined(encoded(fields), holds=ours["holds"].bool_value)


def _quota(entry: bytes) -> Joined:
    """One entry of the dynamic metadata that Quota gave."""
    ours = _entry(entry)["mixer"].struct_value.fields
    holders = tuple(each.string_value for each in ours["holders"].list_value.values if each.string_value)
    return Joined(encoded(_limit(ours)), holders)


def _limit(ours: Any) -> Fields:
    return {"mixer_limit": ours["limit"].string_value, "mixer_limit_code": ours["code"].string_value}


def _entry(entry: bytes) -> Any:
    """The fields of a google.protobuf.Struct with this one entry. What it has not reads as empty."""
    return Struct.FromString(b"\x0a" + length(len(entry)) + entry).fields


def _flags(data: bytes) -> tuple[str, str]:
    """The letters as in %RESPONSE_FLAGS% (`UF,URX`), and the name of the first flag; empty when none is set."""
    names = {field.name for field, value in ResponseFlags.FromString(data).ListFields() if value}
    known = [name for name in LETTERS if name in names]
    return ",".join(LETTERS[name] for name in known), known[0] if known else ""


def _tls(data: bytes) -> Tls:
    tls = TLSProperties.FromString(data)
    peer, local = tls.peer_certificate_properties, tls.local_certificate_properties
    version, cipher = tls.tls_version, tls.tls_cipher_suite.value
    fields: Fields = {
        "tls_protocol_version": TLS_VERSIONS.get(version, str(version)) if version else "",
        "tls_cipher": f"0x{cipher:04x}" if cipher else "",
        "tls_client_server_name": tls.tls_sni_hostname,
        "tls_client_ja3": tls.ja3_fingerprint,
        "tls_client_subject": peer.subject,
        "tls_server_subject": local.subject,
        "tls_client_issuer": peer.issuer,
        "tls_server_issuer": local.issuer,
        "envoy_tls_session_id": tls.tls_session_id,
        "envoy_downstream_peer_san": _names(peer),
        "envoy_downstream_local_san": _names(local),
    }
    source, destination = _first_uri(peer), _first_uri(local)
    peers = {
        "istio_source_principal": source,
        "istio_source_workload_namespace": namespace_of(source),
        "istio_destination_principal": destination,
        "istio_connection_security_policy": "mutual_tls" if source and destination else "",
    }
    return Tls(encoded(fields), {name: value for name, value in peers.items() if value})


def _names(certificate: Any) -> str:
    """Its URIs and DNS names, as Envoy's %DOWNSTREAM_PEER_URI_SAN% has them."""
    return ",".join(name.uri or name.dns for name in certificate.subject_alt_name)


def _first_uri(certificate: Any) -> str:
    return next((name.uri for name in certificate.subject_alt_name if name.uri), "")


def _state(data: bytes) -> tuple[bytes, bytes]:
    """The name of filter state, and what it is: an entry of a map to google.protobuf.Any."""
    state = intake.FilterState.FromString(data)
    return state.key.encode(), state.value


def _state_text(data: bytes) -> bytes:
    """Filter state as text, encoded; b"" for what a record tells in another way."""
    name, value = _state(data)
    if name in TOLD_STATES or not (text := state_text(value)):
        return b""
    return encoded({"envoy_filter_state": {name.decode(): text}})


def _peer(side: str) -> Callable[[bytes], Mapping[str, str]]:
    """Exchanged peer metadata: a google.protobuf.Any of a Struct, or of a Struct's bytes."""

    def decode(data: bytes) -> Mapping[str, str]:
        state = AnyMessage.FromString(data)
        value = BytesValue.FromString(state.value).value if state.Is(BytesValue.DESCRIPTOR) else state.value
        return sided(side, peer_workload(Struct.FromString(value)))

    return decode

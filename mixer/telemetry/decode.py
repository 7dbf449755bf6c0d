"""Parts of an access-log entry that repeat from entry to entry: decoded once, then looked up by their bytes.

An address, a certificate or a policy's name is the same for thousands of entries. A part's result is either
encoded fields of a record, to be put among its bytes as they are, or values.
"""

from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

from envoy.config.core.v3.address_pb2 import Address
from envoy.data.accesslog.v3.accesslog_pb2 import ResponseFlags, TLSProperties
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError
from google.protobuf.struct_pb2 import Struct
from google.protobuf.wrappers_pb2 import BytesValue

from mixer.telemetry.flags import LETTERS, TLS_VERSIONS
from mixer.telemetry.peers import namespace_of, peer_workload, sided
from mixer.telemetry.record import Fields, encoded
from mixer.telemetry.wire import length

MAX_PARTS = 8192  # of one kind; then it begins anew
MAX_PART = 2048  # bytes; what is larger is decoded each time

T = TypeVar("T")


class Parts(dict[bytes, T], Generic[T]):
    """Results of `decode` by the bytes they came from, at most `MAX_PARTS`; `default` for what cannot be parsed."""

    def __init__(self, decode: Callable[[bytes], T], default: T) -> None:
        super().__init__()
        self._decode = decode
        self._default = default

    def __missing__(self, data: bytes) -> T:
        try:
            result = self._decode(data)
        except DecodeError:
            result = self._default
        if len(data) <= MAX_PART:
            if len(self) >= MAX_PARTS:
                self.clear()
            self[data] = result
        return result


class Tls:
    """What the TLS of a client's connection tells."""

    __slots__ = ("fields", "peers")

    def __init__(self, fields: bytes, peers: Mapping[str, str]) -> None:
        self.fields = fields  # encoded
        self.peers = peers  # Istio's fields of both ends, as far as certificates prove them


class Decoder:
    """All parts of entries, shared by all streams."""

    def __init__(self) -> None:
        self.client: Parts[tuple[str, int]] = Parts(_address, ("", 0))
        self.peer = Parts(_endpoint("network_peer_address", "network_peer_port"), b"")
        self.local = Parts(_endpoint("network_local_address", "network_local_port"), b"")
        self.upstream = Parts(_joined("envoy_upstream_host"), b"")
        self.upstream_local = Parts(_joined("envoy_upstream_local_address"), b"")
        self.tls: Parts[Tls] = Parts(_tls, Tls(b"", {}))
        self.flags: Parts[tuple[str, str]] = Parts(_flags, ("", ""))
        self.decision = Parts(_decision, b"")
        self.quota = Parts(_quota, b"")
        self.source: Parts[Mapping[str, str]] = Parts(_peer("source"), {})
        self.destination: Parts[Mapping[str, str]] = Parts(_peer("destination"), {})


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


def _decision(entry: bytes) -> bytes:
    """One entry of the dynamic metadata that Check gave."""
    struct = _entry(entry)
    ours = struct["mixer"].struct_value.fields
    return encoded(
        {
            "mixer_decision_id": struct["decision_id"].string_value,
            "mixer_decision_reason": struct["reason"].string_value,
            "mixer_policy": ours["policy"].string_value,
            "mixer_policy_revision": ours["revision"].string_value,
            "mixer_cache": ours["cache"].string_value,
        }
    )


def _quota(entry: bytes) -> bytes:
    """One entry of the dynamic metadata that Quota gave."""
    ours = _entry(entry)["mixer"].struct_value.fields
    return encoded({"mixer_limit": ours["limit"].string_value, "mixer_limit_code": ours["code"].string_value})


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
    }
    source, destination = _first_uri(peer), _first_uri(local)
    peers = {
        "istio_source_principal": source,
        "istio_source_workload_namespace": namespace_of(source),
        "istio_destination_principal": destination,
        "istio_connection_security_policy": "mutual_tls" if source and destination else "",
    }
    return Tls(encoded(fields), {name: value for name, value in peers.items() if value})


def _first_uri(certificate: Any) -> str:
    return next((name.uri for name in certificate.subject_alt_name if name.uri), "")


def _peer(side: str) -> Callable[[bytes], Mapping[str, str]]:
    """Exchanged peer metadata: a google.protobuf.Any of a Struct, or of a Struct's bytes."""

    def decode(data: bytes) -> Mapping[str, str]:
        state = AnyMessage.FromString(data)
        value = BytesValue.FromString(state.value).value if state.Is(BytesValue.DESCRIPTOR) else state.value
        return sided(side, peer_workload(Struct.FromString(value)))

    return decode

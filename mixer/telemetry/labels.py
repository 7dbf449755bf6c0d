"""Istio's standard labels of a record.

Names and meaning: https://istio.io/latest/docs/reference/config/metrics/. A value that is not known is `unknown`.
"""

from functools import lru_cache

from mixer.telemetry.peers import PEER_FIELDS
from mixer.telemetry.record import TCP as CONNECTION
from mixer.telemetry.record import AccessRecord, Origin

UNKNOWN = "unknown"
PEERS = (
    "reporter",
    *(name.removeprefix("istio_") for name in PEER_FIELDS),
    "destination_service",
    "destination_service_name",
    "destination_service_namespace",
)
TCP = (*PEERS, "request_protocol", "response_flags", "connection_security_policy")
HTTP = (
    *PEERS,
    "request_protocol",
    "response_code",
    "grpc_response_status",
    "response_flags",
    "connection_security_policy",
)

# Istio's clusters for what is not a service of the mesh. They stand for it as the service's name.
_NO_SERVICE = ("BlackHoleCluster", "PassthroughCluster", "InboundPassthroughCluster")


def peers(record: AccessRecord) -> tuple[str, ...]:
    """The values of `PEERS`."""
    get, (reporter, *known) = record.fields.get, _known(record.origin)
    values = [get(name) or value for name, value in zip(PEER_FIELDS, known, strict=True)]
    return (reporter, *values, *_service(record))


@lru_cache(maxsize=4096)
def _known(origin: Origin) -> tuple[str, ...]:
    """The reporter, and what each of `PEER_FIELDS` is where a record does not tell."""
    fields = origin.fields
    return (fields["istio_reporter"], *(fields.get(name) or UNKNOWN for name in PEER_FIELDS))


def tcp(record: AccessRecord) -> tuple[str, ...]:
    """The values of `TCP`."""
    return (*peers(record), "tcp", record.fields.get("envoy_response_flags", "-"), _security(record))


def http(record: AccessRecord) -> tuple[str, ...]:
    """The values of `HTTP`."""
    fields = record.fields
    return (
        *peers(record),
        fields.get("rpc_system", "http"),
        str(record.shape.status),
        str(fields.get("rpc_grpc_status_code", "")),
        fields.get("envoy_response_flags", "-"),
        _security(record),
    )


def either(record: AccessRecord) -> tuple[str, ...]:
    """The values of `HTTP`, also for a connection: it has neither a response code nor a gRPC status."""
    if record.shape is not CONNECTION:
        return http(record)
    *those, protocol, flags, secured = tcp(record)
    return (*those, protocol, "", "", flags, secured)


def key(record: AccessRecord) -> tuple[object, ...]:
    """Stands for all that the labels above come from, and is cheaper than they are."""
    get, shape = record.fields.get, record.shape
    return (
        record.origin,
        record.cluster,
        shape if shape is CONNECTION else shape.host,
        shape.status,
        get("envoy_response_flags"),
        get("rpc_system"),
        get("rpc_grpc_status_code"),
        record.peers,  # and whether both ends were proven, which is whether their identities are
    )


def _security(record: AccessRecord) -> str:
    if record.origin.outbound:
        return UNKNOWN  # only the receiving side sees whether both ends were proven
    return str(record.fields.get("istio_connection_security_policy", "none"))


def _service(record: AccessRecord) -> tuple[str, str, str]:
    """The service called, its short name, and its namespace."""
    cluster, side = record.cluster, "destination"
    if record.origin.far_destination:
        namespace = record.fields.get(f"istio_{side}_workload_namespace", "")
        fallback = ""
    else:
        namespace = record.origin.fields.get(f"istio_{side}_workload_namespace", "")
        fallback = record.origin.fields.get(f"istio_{side}_canonical_service", "")
    # outbound|9080|v1|reviews.default.svc.cluster.local, as Istio names its clusters
    parts = cluster.split("|")
    host = parts[3] if len(parts) == 4 else ""
    # A host that no route knows is whatever the client made up.
    if not host and cluster:
        host = record.shape.host
    name = host
    labels = host.split(".")
    if len(labels) >= 3 and labels[2] == "svc":
        name, namespace = labels[0], labels[1]
    if cluster.startswith(_NO_SERVICE):
        name = cluster
    return host or fallback or UNKNOWN, name or fallback or UNKNOWN, namespace or UNKNOWN

"""Who called whom, in Istio's terms: from the node's metadata, exchanged peer metadata, and certificates.

The keys are Istio's: of the node metadata that its agent gives to Envoy (`WORKLOAD_NAME`, `NAMESPACE`, …), and
of the peer metadata that its filters put into filter state (`downstream_peer`, `upstream_peer`; names as in
`extensions/common/metadata_object.h` of istio/proxy).
"""

from collections.abc import Mapping

from envoy.service.accesslog.v3 import als_pb2
from google.protobuf.struct_pb2 import Struct

from mixer.telemetry.record import Origin

# Attribute of a workload -> key in exchanged peer metadata.
_PEER_KEYS = {
    "workload": "workload",
    "workload_namespace": "namespace",
    "principal": "identity",
    "app": "app",
    "version": "version",
    "canonical_service": "service",
    "canonical_revision": "revision",
    "cluster": "cluster",
}
PEER_FIELDS = tuple(f"istio_{side}_{name}" for side in ("source", "destination") for name in _PEER_KEYS)
"""All fields that tell of the two ends, in the order of Istio's labels."""
# Istio's clusters for hosts outside the mesh.
_OUTSIDE = frozenset({"PassthroughCluster", "BlackHoleCluster"})


class Identity:
    """What the first message of a stream says of the Envoy behind it."""

    def __init__(self, identifier: als_pb2.StreamAccessLogsMessage.Identifier) -> None:
        node = identifier.node
        common = {
            "envoy_node_id": node.id,
            "envoy_node_cluster": node.cluster,
            "envoy_node_zone": node.locality.zone,
            "envoy_log_name": identifier.log_name,
        }
        common = {name: value for name, value in common.items() if value}
        workload = _node_workload(node.metadata)
        kind = node.id.partition("~")[0]  # Istio's node ids: sidecar~10.1.2.3~pod.namespace~domain
        self._outbound = Origin(
            {**common, "istio_reporter": "source", **sided("source", workload)}, outbound=True
        )
        self._inbound = Origin({**common, "istio_reporter": "destination", **sided("destination", workload)})
        self._default = self._inbound
        if kind == "router":  # a gateway sends, also where no cluster tells so
            self._default = self._outbound
        elif kind == "waypoint":  # stands for the destinations behind it, not for itself
            self._default = self._inbound = self._outbound = Origin({**common, "istio_reporter": "waypoint"})

    def origin(self, upstream_cluster: str) -> Origin:
        """The side that this Envoy was on, told by the cluster's name as Istio gives it."""
        if upstream_cluster.startswith("outbound|") or upstream_cluster in _OUTSIDE:
            return self._outbound
        if upstream_cluster.startswith(("inbound|", "InboundPassthroughCluster")):
            return self._inbound
        return self._default


def namespace_of(principal: str) -> str:
    """The namespace in a SPIFFE identity of Istio's form (`spiffe://domain/ns/NAMESPACE/sa/ACCOUNT`), else empty."""
    _, found, rest = principal.partition("/ns/")
    return rest.partition("/")[0] if found else ""


def _node_workload(metadata: Struct) -> dict[str, str]:
    labels = metadata.fields["LABELS"].struct_value if "LABELS" in metadata.fields else Struct()
    return {
        "workload": _string(metadata, "WORKLOAD_NAME"),
        "workload_namespace": _string(metadata, "NAMESPACE"),
        "app": _string(labels, "app.kubernetes.io/name") or _string(labels, "app"),
        "version": _string(labels, "app.kubernetes.io/version") or _string(labels, "version"),
        "canonical_service": _string(labels, "service.istio.io/canonical-name"),
        "canonical_revision": _string(labels, "service.istio.io/canonical-revision"),
        "cluster": _string(metadata, "CLUSTER_ID"),
    }


def peer_workload(metadata: Struct) -> dict[str, str]:
    """A workload's attributes from exchanged peer metadata."""
    return {name: _string(metadata, key) for name, key in _PEER_KEYS.items()}


def sided(side: str, workload: Mapping[str, str]) -> dict[str, str]:
    """The fields of a workload as the source or the destination; what is unknown is left out."""
    return {f"istio_{side}_{name}": value for name, value in workload.items() if value}


def _string(struct: Struct, key: str) -> str:
    return struct.fields[key].string_value if key in struct.fields else ""

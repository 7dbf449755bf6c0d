"""Envoy's response flags and enumerations as operators know them."""

from envoy.config.core.v3 import base_pb2

# Field of envoy.data.accesslog.v3.ResponseFlags -> its letters in %RESPONSE_FLAGS%, in Envoy's order of output.
# https://www.envoyproxy.io/docs/envoy/latest/configuration/observability/access_log/usage
LETTERS = {
    "failed_local_healthcheck": "LH",
    "no_healthy_upstream": "UH",
    "upstream_request_timeout": "UT",
    "local_reset": "LR",
    "upstream_remote_reset": "UR",
    "upstream_connection_failure": "UF",
    "upstream_connection_termination": "UC",
    "upstream_overflow": "UO",
    "no_route_found": "NR",
    "delay_injected": "DI",
    "fault_injected": "FI",
    "rate_limited": "RL",
    "unauthorized_details": "UAEX",
    "rate_limit_service_error": "RLSE",
    "downstream_connection_termination": "DC",
    "upstream_retry_limit_exceeded": "URX",
    "stream_idle_timeout": "SI",
    "invalid_envoy_request_headers": "IH",
    "downstream_protocol_error": "DPE",
    "upstream_max_stream_duration_reached": "UMSDR",
    "response_from_cache_filter": "RFCF",
    "no_filter_config_found": "NFCF",
    "duration_timeout": "DT",
    "upstream_protocol_error": "UPE",
    "no_cluster_found": "NC",
    "overload_manager": "OM",
    "dns_resolution_failure": "DF",
    "downstream_remote_reset": "DR",
}

# By number; 0 is "not told".
METHODS = {value.number: value.name for value in base_pb2.RequestMethod.DESCRIPTOR.values if value.number}
PROTOCOLS = {1: "1.0", 2: "1.1", 3: "2", 4: "3"}
TLS_VERSIONS = {1: "1.0", 2: "1.1", 3: "1.2", 4: "1.3"}

import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class AccessRecord(_message.Message):
    __slots__ = ("start_time", "envoy_time_to_last_rx_byte", "envoy_time_to_first_upstream_tx_byte", "envoy_time_to_last_upstream_tx_byte", "envoy_time_to_first_upstream_rx_byte", "envoy_time_to_last_upstream_rx_byte", "envoy_time_to_first_downstream_tx_byte", "envoy_time_to_last_downstream_tx_byte", "duration", "envoy_upstream_cluster", "envoy_upstream_transport_failure_reason", "envoy_route_name", "envoy_custom_tags", "envoy_upstream_request_attempt_count", "envoy_connection_termination_details", "envoy_stream_id", "envoy_intermediate_log_entry", "envoy_downstream_transport_failure_reason", "envoy_downstream_wire_bytes_sent", "envoy_downstream_wire_bytes_received", "envoy_upstream_wire_bytes_sent", "envoy_upstream_wire_bytes_received", "envoy_access_log_type", "event_id", "trace_id", "parent_span_id", "http_request_method", "http_request_body_size", "http_request_header_size", "http_request_header", "http_response_status_code", "http_response_body_size", "http_response_header_size", "http_response_header", "http_response_trailer", "url_scheme", "url_path", "url_query", "server_address", "server_port", "client_address", "client_port", "network_peer_address", "network_peer_port", "network_local_address", "network_local_port", "network_protocol_name", "network_protocol_version", "user_agent_original", "error_type", "rpc_system", "rpc_grpc_status_code", "rpc_request_message_count", "rpc_response_message_count", "tls_protocol_version", "tls_cipher", "tls_client_server_name", "tls_client_subject", "tls_server_subject", "tls_client_ja3", "tls_client_issuer", "tls_server_issuer", "envoy_tls_session_id", "envoy_downstream_peer_san", "envoy_response_flags", "envoy_response_code_details", "envoy_upstream_host", "envoy_upstream_local_address", "envoy_rewritten_path", "envoy_request_id", "envoy_forwarded_for", "envoy_referer", "envoy_bytes_received", "envoy_bytes_sent", "envoy_node_id", "envoy_node_cluster", "envoy_node_zone", "envoy_log_name", "envoy_downstream_local_san", "envoy_downstream_header_bytes_received", "envoy_upstream_header_bytes_sent", "envoy_upstream_header_bytes_received", "envoy_downstream_header_bytes_sent", "envoy_filter_state", "mixer_decision_id", "mixer_policy", "mixer_policy_revision", "mixer_decision_reason", "mixer_cache", "mixer_limit", "mixer_limit_code", "envoy_metadata", "istio_reporter", "istio_connection_security_policy", "istio_source_workload", "istio_source_workload_namespace", "istio_source_principal", "istio_source_app", "istio_source_version", "istio_source_canonical_service", "istio_source_canonical_revision", "istio_source_cluster", "istio_destination_workload", "istio_destination_workload_namespace", "istio_destination_principal", "istio_destination_app", "istio_destination_version", "istio_destination_canonical_service", "istio_destination_canonical_revision", "istio_destination_cluster")
    class AccessLogType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        NotSet: _ClassVar[AccessRecord.AccessLogType]
        TcpUpstreamConnected: _ClassVar[AccessRecord.AccessLogType]
        TcpPeriodic: _ClassVar[AccessRecord.AccessLogType]
        TcpConnectionEnd: _ClassVar[AccessRecord.AccessLogType]
        DownstreamStart: _ClassVar[AccessRecord.AccessLogType]
        DownstreamPeriodic: _ClassVar[AccessRecord.AccessLogType]
        DownstreamEnd: _ClassVar[AccessRecord.AccessLogType]
        UpstreamPoolReady: _ClassVar[AccessRecord.AccessLogType]
        UpstreamPeriodic: _ClassVar[AccessRecord.AccessLogType]
        UpstreamEnd: _ClassVar[AccessRecord.AccessLogType]
        DownstreamTunnelSuccessfullyEstablished: _ClassVar[AccessRecord.AccessLogType]
        UdpTunnelUpstreamConnected: _ClassVar[AccessRecord.AccessLogType]
        UdpPeriodic: _ClassVar[AccessRecord.AccessLogType]
        UdpSessionEnd: _ClassVar[AccessRecord.AccessLogType]
    NotSet: AccessRecord.AccessLogType
    TcpUpstreamConnected: AccessRecord.AccessLogType
    TcpPeriodic: AccessRecord.AccessLogType
    TcpConnectionEnd: AccessRecord.AccessLogType
    DownstreamStart: AccessRecord.AccessLogType
    DownstreamPeriodic: AccessRecord.AccessLogType
    DownstreamEnd: AccessRecord.AccessLogType
    UpstreamPoolReady: AccessRecord.AccessLogType
    UpstreamPeriodic: AccessRecord.AccessLogType
    UpstreamEnd: AccessRecord.AccessLogType
    DownstreamTunnelSuccessfullyEstablished: AccessRecord.AccessLogType
    UdpTunnelUpstreamConnected: AccessRecord.AccessLogType
    UdpPeriodic: AccessRecord.AccessLogType
    UdpSessionEnd: AccessRecord.AccessLogType
    class EnvoyCustomTagsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class HttpRequestHeaderEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class HttpResponseHeaderEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class HttpResponseTrailerEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class EnvoyFilterStateEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class EnvoyMetadataEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    START_TIME_FIELD_NUMBER: _ClassVar[int]
    ENVOY_TIME_TO_LAST_RX_BYTE_FIELD_NUMBER: _ClassVar[int]
    ENVOY_TIME_TO_FIRST_UPSTREAM_TX_BYTE_FIELD_NUMBER: _ClassVar[int]
    ENVOY_TIME_TO_LAST_UPSTREAM_TX_BYTE_FIELD_NUMBER: _ClassVar[int]
    ENVOY_TIME_TO_FIRST_UPSTREAM_RX_BYTE_FIELD_NUMBER: _ClassVar[int]
    ENVOY_TIME_TO_LAST_UPSTREAM_RX_BYTE_FIELD_NUMBER: _ClassVar[int]
    ENVOY_TIME_TO_FIRST_DOWNSTREAM_TX_BYTE_FIELD_NUMBER: _ClassVar[int]
    ENVOY_TIME_TO_LAST_DOWNSTREAM_TX_BYTE_FIELD_NUMBER: _ClassVar[int]
    DURATION_FIELD_NUMBER: _ClassVar[int]
    ENVOY_UPSTREAM_CLUSTER_FIELD_NUMBER: _ClassVar[int]
    ENVOY_UPSTREAM_TRANSPORT_FAILURE_REASON_FIELD_NUMBER: _ClassVar[int]
    ENVOY_ROUTE_NAME_FIELD_NUMBER: _ClassVar[int]
    ENVOY_CUSTOM_TAGS_FIELD_NUMBER: _ClassVar[int]
    ENVOY_UPSTREAM_REQUEST_ATTEMPT_COUNT_FIELD_NUMBER: _ClassVar[int]
    ENVOY_CONNECTION_TERMINATION_DETAILS_FIELD_NUMBER: _ClassVar[int]
    ENVOY_STREAM_ID_FIELD_NUMBER: _ClassVar[int]
    ENVOY_INTERMEDIATE_LOG_ENTRY_FIELD_NUMBER: _ClassVar[int]
    ENVOY_DOWNSTREAM_TRANSPORT_FAILURE_REASON_FIELD_NUMBER: _ClassVar[int]
    ENVOY_DOWNSTREAM_WIRE_BYTES_SENT_FIELD_NUMBER: _ClassVar[int]
    ENVOY_DOWNSTREAM_WIRE_BYTES_RECEIVED_FIELD_NUMBER: _ClassVar[int]
    ENVOY_UPSTREAM_WIRE_BYTES_SENT_FIELD_NUMBER: _ClassVar[int]
    ENVOY_UPSTREAM_WIRE_BYTES_RECEIVED_FIELD_NUMBER: _ClassVar[int]
    ENVOY_ACCESS_LOG_TYPE_FIELD_NUMBER: _ClassVar[int]
    EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    TRACE_ID_FIELD_NUMBER: _ClassVar[int]
    PARENT_SPAN_ID_FIELD_NUMBER: _ClassVar[int]
    HTTP_REQUEST_METHOD_FIELD_NUMBER: _ClassVar[int]
    HTTP_REQUEST_BODY_SIZE_FIELD_NUMBER: _ClassVar[int]
    HTTP_REQUEST_HEADER_SIZE_FIELD_NUMBER: _ClassVar[int]
    HTTP_REQUEST_HEADER_FIELD_NUMBER: _ClassVar[int]
    HTTP_RESPONSE_STATUS_CODE_FIELD_NUMBER: _ClassVar[int]
    HTTP_RESPONSE_BODY_SIZE_FIELD_NUMBER: _ClassVar[int]
    HTTP_RESPONSE_HEADER_SIZE_FIELD_NUMBER: _ClassVar[int]
    HTTP_RESPONSE_HEADER_FIELD_NUMBER: _ClassVar[int]
    HTTP_RESPONSE_TRAILER_FIELD_NUMBER: _ClassVar[int]
    URL_SCHEME_FIELD_NUMBER: _ClassVar[int]
    URL_PATH_FIELD_NUMBER: _ClassVar[int]
    URL_QUERY_FIELD_NUMBER: _ClassVar[int]
    SERVER_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    SERVER_PORT_FIELD_NUMBER: _ClassVar[int]
    CLIENT_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    CLIENT_PORT_FIELD_NUMBER: _ClassVar[int]
    NETWORK_PEER_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    NETWORK_PEER_PORT_FIELD_NUMBER: _ClassVar[int]
    NETWORK_LOCAL_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    NETWORK_LOCAL_PORT_FIELD_NUMBER: _ClassVar[int]
    NETWORK_PROTOCOL_NAME_FIELD_NUMBER: _ClassVar[int]
    NETWORK_PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    USER_AGENT_ORIGINAL_FIELD_NUMBER: _ClassVar[int]
    ERROR_TYPE_FIELD_NUMBER: _ClassVar[int]
    RPC_SYSTEM_FIELD_NUMBER: _ClassVar[int]
    RPC_GRPC_STATUS_CODE_FIELD_NUMBER: _ClassVar[int]
    RPC_REQUEST_MESSAGE_COUNT_FIELD_NUMBER: _ClassVar[int]
    RPC_RESPONSE_MESSAGE_COUNT_FIELD_NUMBER: _ClassVar[int]
    TLS_PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    TLS_CIPHER_FIELD_NUMBER: _ClassVar[int]
    TLS_CLIENT_SERVER_NAME_FIELD_NUMBER: _ClassVar[int]
    TLS_CLIENT_SUBJECT_FIELD_NUMBER: _ClassVar[int]
    TLS_SERVER_SUBJECT_FIELD_NUMBER: _ClassVar[int]
    TLS_CLIENT_JA3_FIELD_NUMBER: _ClassVar[int]
    TLS_CLIENT_ISSUER_FIELD_NUMBER: _ClassVar[int]
    TLS_SERVER_ISSUER_FIELD_NUMBER: _ClassVar[int]
    ENVOY_TLS_SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    ENVOY_DOWNSTREAM_PEER_SAN_FIELD_NUMBER: _ClassVar[int]
    ENVOY_RESPONSE_FLAGS_FIELD_NUMBER: _ClassVar[int]
    ENVOY_RESPONSE_CODE_DETAILS_FIELD_NUMBER: _ClassVar[int]
    ENVOY_UPSTREAM_HOST_FIELD_NUMBER: _ClassVar[int]
    ENVOY_UPSTREAM_LOCAL_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    ENVOY_REWRITTEN_PATH_FIELD_NUMBER: _ClassVar[int]
    ENVOY_REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ENVOY_FORWARDED_FOR_FIELD_NUMBER: _ClassVar[int]
    ENVOY_REFERER_FIELD_NUMBER: _ClassVar[int]
    ENVOY_BYTES_RECEIVED_FIELD_NUMBER: _ClassVar[int]
    ENVOY_BYTES_SENT_FIELD_NUMBER: _ClassVar[int]
    ENVOY_NODE_ID_FIELD_NUMBER: _ClassVar[int]
    ENVOY_NODE_CLUSTER_FIELD_NUMBER: _ClassVar[int]
    ENVOY_NODE_ZONE_FIELD_NUMBER: _ClassVar[int]
    ENVOY_LOG_NAME_FIELD_NUMBER: _ClassVar[int]
    ENVOY_DOWNSTREAM_LOCAL_SAN_FIELD_NUMBER: _ClassVar[int]
    ENVOY_DOWNSTREAM_HEADER_BYTES_RECEIVED_FIELD_NUMBER: _ClassVar[int]
    ENVOY_UPSTREAM_HEADER_BYTES_SENT_FIELD_NUMBER: _ClassVar[int]
    ENVOY_UPSTREAM_HEADER_BYTES_RECEIVED_FIELD_NUMBER: _ClassVar[int]
    ENVOY_DOWNSTREAM_HEADER_BYTES_SENT_FIELD_NUMBER: _ClassVar[int]
    ENVOY_FILTER_STATE_FIELD_NUMBER: _ClassVar[int]
    MIXER_DECISION_ID_FIELD_NUMBER: _ClassVar[int]
    MIXER_POLICY_FIELD_NUMBER: _ClassVar[int]
    MIXER_POLICY_REVISION_FIELD_NUMBER: _ClassVar[int]
    MIXER_DECISION_REASON_FIELD_NUMBER: _ClassVar[int]
    MIXER_CACHE_FIELD_NUMBER: _ClassVar[int]
    MIXER_LIMIT_FIELD_NUMBER: _ClassVar[int]
    MIXER_LIMIT_CODE_FIELD_NUMBER: _ClassVar[int]
    ENVOY_METADATA_FIELD_NUMBER: _ClassVar[int]
    ISTIO_REPORTER_FIELD_NUMBER: _ClassVar[int]
    ISTIO_CONNECTION_SECURITY_POLICY_FIELD_NUMBER: _ClassVar[int]
    ISTIO_SOURCE_WORKLOAD_FIELD_NUMBER: _ClassVar[int]
    ISTIO_SOURCE_WORKLOAD_NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    ISTIO_SOURCE_PRINCIPAL_FIELD_NUMBER: _ClassVar[int]
    ISTIO_SOURCE_APP_FIELD_NUMBER: _ClassVar[int]
    ISTIO_SOURCE_VERSION_FIELD_NUMBER: _ClassVar[int]
    ISTIO_SOURCE_CANONICAL_SERVICE_FIELD_NUMBER: _ClassVar[int]
    ISTIO_SOURCE_CANONICAL_REVISION_FIELD_NUMBER: _ClassVar[int]
    ISTIO_SOURCE_CLUSTER_FIELD_NUMBER: _ClassVar[int]
    ISTIO_DESTINATION_WORKLOAD_FIELD_NUMBER: _ClassVar[int]
    ISTIO_DESTINATION_WORKLOAD_NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    ISTIO_DESTINATION_PRINCIPAL_FIELD_NUMBER: _ClassVar[int]
    ISTIO_DESTINATION_APP_FIELD_NUMBER: _ClassVar[int]
    ISTIO_DESTINATION_VERSION_FIELD_NUMBER: _ClassVar[int]
    ISTIO_DESTINATION_CANONICAL_SERVICE_FIELD_NUMBER: _ClassVar[int]
    ISTIO_DESTINATION_CANONICAL_REVISION_FIELD_NUMBER: _ClassVar[int]
    ISTIO_DESTINATION_CLUSTER_FIELD_NUMBER: _ClassVar[int]
    start_time: _timestamp_pb2.Timestamp
    envoy_time_to_last_rx_byte: _duration_pb2.Duration
    envoy_time_to_first_upstream_tx_byte: _duration_pb2.Duration
    envoy_time_to_last_upstream_tx_byte: _duration_pb2.Duration
    envoy_time_to_first_upstream_rx_byte: _duration_pb2.Duration
    envoy_time_to_last_upstream_rx_byte: _duration_pb2.Duration
    envoy_time_to_first_downstream_tx_byte: _duration_pb2.Duration
    envoy_time_to_last_downstream_tx_byte: _duration_pb2.Duration
    duration: _duration_pb2.Duration
    envoy_upstream_cluster: str
    envoy_upstream_transport_failure_reason: str
    envoy_route_name: str
    envoy_custom_tags: _containers.ScalarMap[str, str]
    envoy_upstream_request_attempt_count: int
    envoy_connection_termination_details: str
    envoy_stream_id: str
    envoy_intermediate_log_entry: bool
    envoy_downstream_transport_failure_reason: str
    envoy_downstream_wire_bytes_sent: int
    envoy_downstream_wire_bytes_received: int
    envoy_upstream_wire_bytes_sent: int
    envoy_upstream_wire_bytes_received: int
    envoy_access_log_type: AccessRecord.AccessLogType
    event_id: str
    trace_id: str
    parent_span_id: str
    http_request_method: str
    http_request_body_size: int
    http_request_header_size: int
    http_request_header: _containers.ScalarMap[str, str]
    http_response_status_code: int
    http_response_body_size: int
    http_response_header_size: int
    http_response_header: _containers.ScalarMap[str, str]
    http_response_trailer: _containers.ScalarMap[str, str]
    url_scheme: str
    url_path: str
    url_query: str
    server_address: str
    server_port: int
    client_address: str
    client_port: int
    network_peer_address: str
    network_peer_port: int
    network_local_address: str
    network_local_port: int
    network_protocol_name: str
    network_protocol_version: str
    user_agent_original: str
    error_type: str
    rpc_system: str
    rpc_grpc_status_code: int
    rpc_request_message_count: int
    rpc_response_message_count: int
    tls_protocol_version: str
    tls_cipher: str
    tls_client_server_name: str
    tls_client_subject: str
    tls_server_subject: str
    tls_client_ja3: str
    tls_client_issuer: str
    tls_server_issuer: str
    envoy_tls_session_id: str
    envoy_downstream_peer_san: str
    envoy_response_flags: str
    envoy_response_code_details: str
    envoy_upstream_host: str
    envoy_upstream_local_address: str
    envoy_rewritten_path: str
    envoy_request_id: str
    envoy_forwarded_for: str
    envoy_referer: str
    envoy_bytes_received: int
    envoy_bytes_sent: int
    envoy_node_id: str
    envoy_node_cluster: str
    envoy_node_zone: str
    envoy_log_name: str
    envoy_downstream_local_san: str
    envoy_downstream_header_bytes_received: int
    envoy_upstream_header_bytes_sent: int
    envoy_upstream_header_bytes_received: int
    envoy_downstream_header_bytes_sent: int
    envoy_filter_state: _containers.ScalarMap[str, str]
    mixer_decision_id: str
    mixer_policy: str
    mixer_policy_revision: str
    mixer_decision_reason: str
    mixer_cache: str
    mixer_limit: str
    mixer_limit_code: str
    envoy_metadata: _containers.ScalarMap[str, str]
    istio_reporter: str
    istio_connection_security_policy: str
    istio_source_workload: str
    istio_source_workload_namespace: str
    istio_source_principal: str
    istio_source_app: str
    istio_source_version: str
    istio_source_canonical_service: str
    istio_source_canonical_revision: str
    istio_source_cluster: str
    istio_destination_workload: str
    istio_destination_workload_namespace: str
    istio_destination_principal: str
    istio_destination_app: str
    istio_destination_version: str
    istio_destination_canonical_service: str
    istio_destination_canonical_revision: str
    istio_destination_cluster: str
    def __init__(self, start_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., envoy_time_to_last_rx_byte: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., envoy_time_to_first_upstream_tx_byte: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., envoy_time_to_last_upstream_tx_byte: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., envoy_time_to_first_upstream_rx_byte: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., envoy_time_to_last_upstream_rx_byte: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., envoy_time_to_first_downstream_tx_byte: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., envoy_time_to_last_downstream_tx_byte: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., envoy_upstream_cluster: _Optional[str] = ..., envoy_upstream_transport_failure_reason: _Optional[str] = ..., envoy_route_name: _Optional[str] = ..., envoy_custom_tags: _Optional[_Mapping[str, str]] = ..., envoy_upstream_request_attempt_count: _Optional[int] = ..., envoy_connection_termination_details: _Optional[str] = ..., envoy_stream_id: _Optional[str] = ..., envoy_intermediate_log_entry: _Optional[bool] = ..., envoy_downstream_transport_failure_reason: _Optional[str] = ..., envoy_downstream_wire_bytes_sent: _Optional[int] = ..., envoy_downstream_wire_bytes_received: _Optional[int] = ..., envoy_upstream_wire_bytes_sent: _Optional[int] = ..., envoy_upstream_wire_bytes_received: _Optional[int] = ..., envoy_access_log_type: _Optional[_Union[AccessRecord.AccessLogType, str]] = ..., event_id: _Optional[str] = ..., trace_id: _Optional[str] = ..., parent_span_id: _Optional[str] = ..., http_request_method: _Optional[str] = ..., http_request_body_size: _Optional[int] = ..., http_request_header_size: _Optional[int] = ..., http_request_header: _Optional[_Mapping[str, str]] = ..., http_response_status_code: _Optional[int] = ..., http_response_body_size: _Optional[int] = ..., http_response_header_size: _Optional[int] = ..., http_response_header: _Optional[_Mapping[str, str]] = ..., http_response_trailer: _Optional[_Mapping[str, str]] = ..., url_scheme: _Optional[str] = ..., url_path: _Optional[str] = ..., url_query: _Optional[str] = ..., server_address: _Optional[str] = ..., server_port: _Optional[int] = ..., client_address: _Optional[str] = ..., client_port: _Optional[int] = ..., network_peer_address: _Optional[str] = ..., network_peer_port: _Optional[int] = ..., network_local_address: _Optional[str] = ..., network_local_port: _Optional[int] = ..., network_protocol_name: _Optional[str] = ..., network_protocol_version: _Optional[str] = ..., user_agent_original: _Optional[str] = ..., error_type: _Optional[str] = ..., rpc_system: _Optional[str] = ..., rpc_grpc_status_code: _Optional[int] = ..., rpc_request_message_count: _Optional[int] = ..., rpc_response_message_count: _Optional[int] = ..., tls_protocol_version: _Optional[str] = ..., tls_cipher: _Optional[str] = ..., tls_client_server_name: _Optional[str] = ..., tls_client_subject: _Optional[str] = ..., tls_server_subject: _Optional[str] = ..., tls_client_ja3: _Optional[str] = ..., tls_client_issuer: _Optional[str] = ..., tls_server_issuer: _Optional[str] = ..., envoy_tls_session_id: _Optional[str] = ..., envoy_downstream_peer_san: _Optional[str] = ..., envoy_response_flags: _Optional[str] = ..., envoy_response_code_details: _Optional[str] = ..., envoy_upstream_host: _Optional[str] = ..., envoy_upstream_local_address: _Optional[str] = ..., envoy_rewritten_path: _Optional[str] = ..., envoy_request_id: _Optional[str] = ..., envoy_forwarded_for: _Optional[str] = ..., envoy_referer: _Optional[str] = ..., envoy_bytes_received: _Optional[int] = ..., envoy_bytes_sent: _Optional[int] = ..., envoy_node_id: _Optional[str] = ..., envoy_node_cluster: _Optional[str] = ..., envoy_node_zone: _Optional[str] = ..., envoy_log_name: _Optional[str] = ..., envoy_downstream_local_san: _Optional[str] = ..., envoy_downstream_header_bytes_received: _Optional[int] = ..., envoy_upstream_header_bytes_sent: _Optional[int] = ..., envoy_upstream_header_bytes_received: _Optional[int] = ..., envoy_downstream_header_bytes_sent: _Optional[int] = ..., envoy_filter_state: _Optional[_Mapping[str, str]] = ..., mixer_decision_id: _Optional[str] = ..., mixer_policy: _Optional[str] = ..., mixer_policy_revision: _Optional[str] = ..., mixer_decision_reason: _Optional[str] = ..., mixer_cache: _Optional[str] = ..., mixer_limit: _Optional[str] = ..., mixer_limit_code: _Optional[str] = ..., envoy_metadata: _Optional[_Mapping[str, str]] = ..., istio_reporter: _Optional[str] = ..., istio_connection_security_policy: _Optional[str] = ..., istio_source_workload: _Optional[str] = ..., istio_source_workload_namespace: _Optional[str] = ..., istio_source_principal: _Optional[str] = ..., istio_source_app: _Optional[str] = ..., istio_source_version: _Optional[str] = ..., istio_source_canonical_service: _Optional[str] = ..., istio_source_canonical_revision: _Optional[str] = ..., istio_source_cluster: _Optional[str] = ..., istio_destination_workload: _Optional[str] = ..., istio_destination_workload_namespace: _Optional[str] = ..., istio_destination_principal: _Optional[str] = ..., istio_destination_app: _Optional[str] = ..., istio_destination_version: _Optional[str] = ..., istio_destination_canonical_service: _Optional[str] = ..., istio_destination_canonical_revision: _Optional[str] = ..., istio_destination_cluster: _Optional[str] = ...) -> None: ...

import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class StreamAccessLogsMessage(_message.Message):
    __slots__ = ("identifier", "http_logs", "tcp_logs")
    IDENTIFIER_FIELD_NUMBER: _ClassVar[int]
    HTTP_LOGS_FIELD_NUMBER: _ClassVar[int]
    TCP_LOGS_FIELD_NUMBER: _ClassVar[int]
    identifier: bytes
    http_logs: Entries
    tcp_logs: Entries
    def __init__(self, identifier: _Optional[bytes] = ..., http_logs: _Optional[_Union[Entries, _Mapping]] = ..., tcp_logs: _Optional[_Union[Entries, _Mapping]] = ...) -> None: ...

class Entries(_message.Message):
    __slots__ = ("log_entry",)
    LOG_ENTRY_FIELD_NUMBER: _ClassVar[int]
    log_entry: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, log_entry: _Optional[_Iterable[bytes]] = ...) -> None: ...

class HTTPColumns(_message.Message):
    __slots__ = ("log_entry",)
    class Entry(_message.Message):
        __slots__ = ("common_properties", "protocol_version", "request", "response")
        COMMON_PROPERTIES_FIELD_NUMBER: _ClassVar[int]
        PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
        REQUEST_FIELD_NUMBER: _ClassVar[int]
        RESPONSE_FIELD_NUMBER: _ClassVar[int]
        common_properties: CommonColumns
        protocol_version: _containers.RepeatedScalarFieldContainer[int]
        request: RequestColumns
        response: ResponseColumns
        def __init__(self, common_properties: _Optional[_Union[CommonColumns, _Mapping]] = ..., protocol_version: _Optional[_Iterable[int]] = ..., request: _Optional[_Union[RequestColumns, _Mapping]] = ..., response: _Optional[_Union[ResponseColumns, _Mapping]] = ...) -> None: ...
    LOG_ENTRY_FIELD_NUMBER: _ClassVar[int]
    log_entry: HTTPColumns.Entry
    def __init__(self, log_entry: _Optional[_Union[HTTPColumns.Entry, _Mapping]] = ...) -> None: ...

class TCPColumns(_message.Message):
    __slots__ = ("log_entry",)
    class Entry(_message.Message):
        __slots__ = ("common_properties", "connection_properties")
        COMMON_PROPERTIES_FIELD_NUMBER: _ClassVar[int]
        CONNECTION_PROPERTIES_FIELD_NUMBER: _ClassVar[int]
        common_properties: CommonColumns
        connection_properties: ConnectionColumns
        def __init__(self, common_properties: _Optional[_Union[CommonColumns, _Mapping]] = ..., connection_properties: _Optional[_Union[ConnectionColumns, _Mapping]] = ...) -> None: ...
    LOG_ENTRY_FIELD_NUMBER: _ClassVar[int]
    log_entry: TCPColumns.Entry
    def __init__(self, log_entry: _Optional[_Union[TCPColumns.Entry, _Mapping]] = ...) -> None: ...

class ConnectionColumns(_message.Message):
    __slots__ = ("received_bytes", "sent_bytes")
    RECEIVED_BYTES_FIELD_NUMBER: _ClassVar[int]
    SENT_BYTES_FIELD_NUMBER: _ClassVar[int]
    received_bytes: _containers.RepeatedScalarFieldContainer[int]
    sent_bytes: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, received_bytes: _Optional[_Iterable[int]] = ..., sent_bytes: _Optional[_Iterable[int]] = ...) -> None: ...

class RequestColumns(_message.Message):
    __slots__ = ("request_method", "scheme", "authority", "path", "user_agent", "referer", "forwarded_for", "request_id", "original_path", "request_headers_bytes", "request_body_bytes", "request_headers", "upstream_header_bytes_sent", "downstream_header_bytes_received")
    REQUEST_METHOD_FIELD_NUMBER: _ClassVar[int]
    SCHEME_FIELD_NUMBER: _ClassVar[int]
    AUTHORITY_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    USER_AGENT_FIELD_NUMBER: _ClassVar[int]
    REFERER_FIELD_NUMBER: _ClassVar[int]
    FORWARDED_FOR_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ORIGINAL_PATH_FIELD_NUMBER: _ClassVar[int]
    REQUEST_HEADERS_BYTES_FIELD_NUMBER: _ClassVar[int]
    REQUEST_BODY_BYTES_FIELD_NUMBER: _ClassVar[int]
    REQUEST_HEADERS_FIELD_NUMBER: _ClassVar[int]
    UPSTREAM_HEADER_BYTES_SENT_FIELD_NUMBER: _ClassVar[int]
    DOWNSTREAM_HEADER_BYTES_RECEIVED_FIELD_NUMBER: _ClassVar[int]
    request_method: _containers.RepeatedScalarFieldContainer[int]
    scheme: _containers.RepeatedScalarFieldContainer[str]
    authority: _containers.RepeatedScalarFieldContainer[bytes]
    path: _containers.RepeatedScalarFieldContainer[str]
    user_agent: _containers.RepeatedScalarFieldContainer[str]
    referer: _containers.RepeatedScalarFieldContainer[str]
    forwarded_for: _containers.RepeatedScalarFieldContainer[str]
    request_id: _containers.RepeatedScalarFieldContainer[str]
    original_path: _containers.RepeatedScalarFieldContainer[str]
    request_headers_bytes: _containers.RepeatedScalarFieldContainer[int]
    request_body_bytes: _containers.RepeatedScalarFieldContainer[int]
    request_headers: _containers.RepeatedScalarFieldContainer[bytes]
    upstream_header_bytes_sent: _containers.RepeatedScalarFieldContainer[int]
    downstream_header_bytes_received: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, request_method: _Optional[_Iterable[int]] = ..., scheme: _Optional[_Iterable[str]] = ..., authority: _Optional[_Iterable[bytes]] = ..., path: _Optional[_Iterable[str]] = ..., user_agent: _Optional[_Iterable[str]] = ..., referer: _Optional[_Iterable[str]] = ..., forwarded_for: _Optional[_Iterable[str]] = ..., request_id: _Optional[_Iterable[str]] = ..., original_path: _Optional[_Iterable[str]] = ..., request_headers_bytes: _Optional[_Iterable[int]] = ..., request_body_bytes: _Optional[_Iterable[int]] = ..., request_headers: _Optional[_Iterable[bytes]] = ..., upstream_header_bytes_sent: _Optional[_Iterable[int]] = ..., downstream_header_bytes_received: _Optional[_Iterable[int]] = ...) -> None: ...

class ResponseColumns(_message.Message):
    __slots__ = ("response_code", "response_headers_bytes", "response_body_bytes", "response_headers", "response_trailers", "response_code_details", "upstream_header_bytes_received", "downstream_header_bytes_sent")
    RESPONSE_CODE_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_HEADERS_BYTES_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_BODY_BYTES_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_HEADERS_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_TRAILERS_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_CODE_DETAILS_FIELD_NUMBER: _ClassVar[int]
    UPSTREAM_HEADER_BYTES_RECEIVED_FIELD_NUMBER: _ClassVar[int]
    DOWNSTREAM_HEADER_BYTES_SENT_FIELD_NUMBER: _ClassVar[int]
    response_code: _containers.RepeatedScalarFieldContainer[bytes]
    response_headers_bytes: _containers.RepeatedScalarFieldContainer[int]
    response_body_bytes: _containers.RepeatedScalarFieldContainer[int]
    response_headers: _containers.RepeatedScalarFieldContainer[bytes]
    response_trailers: _containers.RepeatedScalarFieldContainer[bytes]
    response_code_details: _containers.RepeatedScalarFieldContainer[str]
    upstream_header_bytes_received: _containers.RepeatedScalarFieldContainer[int]
    downstream_header_bytes_sent: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, response_code: _Optional[_Iterable[bytes]] = ..., response_headers_bytes: _Optional[_Iterable[int]] = ..., response_body_bytes: _Optional[_Iterable[int]] = ..., response_headers: _Optional[_Iterable[bytes]] = ..., response_trailers: _Optional[_Iterable[bytes]] = ..., response_code_details: _Optional[_Iterable[str]] = ..., upstream_header_bytes_received: _Optional[_Iterable[int]] = ..., downstream_header_bytes_sent: _Optional[_Iterable[int]] = ...) -> None: ...

class DurationColumns(_message.Message):
    __slots__ = ("seconds", "nanos")
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    NANOS_FIELD_NUMBER: _ClassVar[int]
    seconds: _containers.RepeatedScalarFieldContainer[int]
    nanos: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, seconds: _Optional[_Iterable[int]] = ..., nanos: _Optional[_Iterable[int]] = ...) -> None: ...

class CommonColumns(_message.Message):
    __slots__ = ("downstream_remote_address", "downstream_local_address", "upstream_remote_address", "upstream_local_address", "downstream_direct_remote_address", "tls_properties", "response_flags", "metadata", "filter_state_objects", "upstream_cluster", "duration", "intermediate_log_entry", "downstream_wire_bytes_sent", "downstream_wire_bytes_received", "access_log_type", "start_time", "time_to_last_rx_byte", "time_to_first_upstream_tx_byte", "time_to_last_upstream_tx_byte", "time_to_first_upstream_rx_byte", "time_to_last_upstream_rx_byte", "time_to_first_downstream_tx_byte", "time_to_last_downstream_tx_byte", "upstream_transport_failure_reason", "route_name", "custom_tags", "upstream_request_attempt_count", "connection_termination_details", "stream_id", "downstream_transport_failure_reason", "upstream_wire_bytes_sent", "upstream_wire_bytes_received")
    DOWNSTREAM_REMOTE_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    DOWNSTREAM_LOCAL_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    UPSTREAM_REMOTE_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    UPSTREAM_LOCAL_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    DOWNSTREAM_DIRECT_REMOTE_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    TLS_PROPERTIES_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_FLAGS_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    FILTER_STATE_OBJECTS_FIELD_NUMBER: _ClassVar[int]
    UPSTREAM_CLUSTER_FIELD_NUMBER: _ClassVar[int]
    DURATION_FIELD_NUMBER: _ClassVar[int]
    INTERMEDIATE_LOG_ENTRY_FIELD_NUMBER: _ClassVar[int]
    DOWNSTREAM_WIRE_BYTES_SENT_FIELD_NUMBER: _ClassVar[int]
    DOWNSTREAM_WIRE_BYTES_RECEIVED_FIELD_NUMBER: _ClassVar[int]
    ACCESS_LOG_TYPE_FIELD_NUMBER: _ClassVar[int]
    START_TIME_FIELD_NUMBER: _ClassVar[int]
    TIME_TO_LAST_RX_BYTE_FIELD_NUMBER: _ClassVar[int]
    TIME_TO_FIRST_UPSTREAM_TX_BYTE_FIELD_NUMBER: _ClassVar[int]
    TIME_TO_LAST_UPSTREAM_TX_BYTE_FIELD_NUMBER: _ClassVar[int]
    TIME_TO_FIRST_UPSTREAM_RX_BYTE_FIELD_NUMBER: _ClassVar[int]
    TIME_TO_LAST_UPSTREAM_RX_BYTE_FIELD_NUMBER: _ClassVar[int]
    TIME_TO_FIRST_DOWNSTREAM_TX_BYTE_FIELD_NUMBER: _ClassVar[int]
    TIME_TO_LAST_DOWNSTREAM_TX_BYTE_FIELD_NUMBER: _ClassVar[int]
    UPSTREAM_TRANSPORT_FAILURE_REASON_FIELD_NUMBER: _ClassVar[int]
    ROUTE_NAME_FIELD_NUMBER: _ClassVar[int]
    CUSTOM_TAGS_FIELD_NUMBER: _ClassVar[int]
    UPSTREAM_REQUEST_ATTEMPT_COUNT_FIELD_NUMBER: _ClassVar[int]
    CONNECTION_TERMINATION_DETAILS_FIELD_NUMBER: _ClassVar[int]
    STREAM_ID_FIELD_NUMBER: _ClassVar[int]
    DOWNSTREAM_TRANSPORT_FAILURE_REASON_FIELD_NUMBER: _ClassVar[int]
    UPSTREAM_WIRE_BYTES_SENT_FIELD_NUMBER: _ClassVar[int]
    UPSTREAM_WIRE_BYTES_RECEIVED_FIELD_NUMBER: _ClassVar[int]
    downstream_remote_address: _containers.RepeatedScalarFieldContainer[bytes]
    downstream_local_address: _containers.RepeatedScalarFieldContainer[bytes]
    upstream_remote_address: _containers.RepeatedScalarFieldContainer[bytes]
    upstream_local_address: _containers.RepeatedScalarFieldContainer[bytes]
    downstream_direct_remote_address: _containers.RepeatedScalarFieldContainer[bytes]
    tls_properties: _containers.RepeatedScalarFieldContainer[bytes]
    response_flags: _containers.RepeatedScalarFieldContainer[bytes]
    metadata: _containers.RepeatedScalarFieldContainer[bytes]
    filter_state_objects: _containers.RepeatedScalarFieldContainer[bytes]
    upstream_cluster: _containers.RepeatedScalarFieldContainer[str]
    duration: DurationColumns
    intermediate_log_entry: _containers.RepeatedScalarFieldContainer[int]
    downstream_wire_bytes_sent: _containers.RepeatedScalarFieldContainer[int]
    downstream_wire_bytes_received: _containers.RepeatedScalarFieldContainer[int]
    access_log_type: _containers.RepeatedScalarFieldContainer[int]
    start_time: _timestamp_pb2.Timestamp
    time_to_last_rx_byte: _duration_pb2.Duration
    time_to_first_upstream_tx_byte: _duration_pb2.Duration
    time_to_last_upstream_tx_byte: _duration_pb2.Duration
    time_to_first_upstream_rx_byte: _duration_pb2.Duration
    time_to_last_upstream_rx_byte: _duration_pb2.Duration
    time_to_first_downstream_tx_byte: _duration_pb2.Duration
    time_to_last_downstream_tx_byte: _duration_pb2.Duration
    upstream_transport_failure_reason: _containers.RepeatedScalarFieldContainer[str]
    route_name: _containers.RepeatedScalarFieldContainer[str]
    custom_tags: _containers.RepeatedCompositeFieldContainer[Header]
    upstream_request_attempt_count: _containers.RepeatedScalarFieldContainer[int]
    connection_termination_details: _containers.RepeatedScalarFieldContainer[str]
    stream_id: _containers.RepeatedScalarFieldContainer[str]
    downstream_transport_failure_reason: _containers.RepeatedScalarFieldContainer[str]
    upstream_wire_bytes_sent: _containers.RepeatedScalarFieldContainer[int]
    upstream_wire_bytes_received: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, downstream_remote_address: _Optional[_Iterable[bytes]] = ..., downstream_local_address: _Optional[_Iterable[bytes]] = ..., upstream_remote_address: _Optional[_Iterable[bytes]] = ..., upstream_local_address: _Optional[_Iterable[bytes]] = ..., downstream_direct_remote_address: _Optional[_Iterable[bytes]] = ..., tls_properties: _Optional[_Iterable[bytes]] = ..., response_flags: _Optional[_Iterable[bytes]] = ..., metadata: _Optional[_Iterable[bytes]] = ..., filter_state_objects: _Optional[_Iterable[bytes]] = ..., upstream_cluster: _Optional[_Iterable[str]] = ..., duration: _Optional[_Union[DurationColumns, _Mapping]] = ..., intermediate_log_entry: _Optional[_Iterable[int]] = ..., downstream_wire_bytes_sent: _Optional[_Iterable[int]] = ..., downstream_wire_bytes_received: _Optional[_Iterable[int]] = ..., access_log_type: _Optional[_Iterable[int]] = ..., start_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., time_to_last_rx_byte: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., time_to_first_upstream_tx_byte: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., time_to_last_upstream_tx_byte: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., time_to_first_upstream_rx_byte: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., time_to_last_upstream_rx_byte: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., time_to_first_downstream_tx_byte: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., time_to_last_downstream_tx_byte: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., upstream_transport_failure_reason: _Optional[_Iterable[str]] = ..., route_name: _Optional[_Iterable[str]] = ..., custom_tags: _Optional[_Iterable[_Union[Header, _Mapping]]] = ..., upstream_request_attempt_count: _Optional[_Iterable[int]] = ..., connection_termination_details: _Optional[_Iterable[str]] = ..., stream_id: _Optional[_Iterable[str]] = ..., downstream_transport_failure_reason: _Optional[_Iterable[str]] = ..., upstream_wire_bytes_sent: _Optional[_Iterable[int]] = ..., upstream_wire_bytes_received: _Optional[_Iterable[int]] = ...) -> None: ...

class Timed(_message.Message):
    __slots__ = ("common_properties",)
    class Common(_message.Message):
        __slots__ = ("duration",)
        DURATION_FIELD_NUMBER: _ClassVar[int]
        duration: _duration_pb2.Duration
        def __init__(self, duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...
    COMMON_PROPERTIES_FIELD_NUMBER: _ClassVar[int]
    common_properties: Timed.Common
    def __init__(self, common_properties: _Optional[_Union[Timed.Common, _Mapping]] = ...) -> None: ...

class Passed(_message.Message):
    __slots__ = ("log_entry",)
    class Common(_message.Message):
        __slots__ = ("downstream_remote_address", "downstream_local_address", "upstream_remote_address", "upstream_local_address", "downstream_direct_remote_address", "tls_properties", "response_flags", "metadata", "filter_state_objects", "network_protocol_name")
        DOWNSTREAM_REMOTE_ADDRESS_FIELD_NUMBER: _ClassVar[int]
        DOWNSTREAM_LOCAL_ADDRESS_FIELD_NUMBER: _ClassVar[int]
        UPSTREAM_REMOTE_ADDRESS_FIELD_NUMBER: _ClassVar[int]
        UPSTREAM_LOCAL_ADDRESS_FIELD_NUMBER: _ClassVar[int]
        DOWNSTREAM_DIRECT_REMOTE_ADDRESS_FIELD_NUMBER: _ClassVar[int]
        TLS_PROPERTIES_FIELD_NUMBER: _ClassVar[int]
        RESPONSE_FLAGS_FIELD_NUMBER: _ClassVar[int]
        METADATA_FIELD_NUMBER: _ClassVar[int]
        FILTER_STATE_OBJECTS_FIELD_NUMBER: _ClassVar[int]
        NETWORK_PROTOCOL_NAME_FIELD_NUMBER: _ClassVar[int]
        downstream_remote_address: bytes
        downstream_local_address: bytes
        upstream_remote_address: bytes
        upstream_local_address: bytes
        downstream_direct_remote_address: bytes
        tls_properties: bytes
        response_flags: bytes
        metadata: bytes
        filter_state_objects: bytes
        network_protocol_name: str
        def __init__(self, downstream_remote_address: _Optional[bytes] = ..., downstream_local_address: _Optional[bytes] = ..., upstream_remote_address: _Optional[bytes] = ..., upstream_local_address: _Optional[bytes] = ..., downstream_direct_remote_address: _Optional[bytes] = ..., tls_properties: _Optional[bytes] = ..., response_flags: _Optional[bytes] = ..., metadata: _Optional[bytes] = ..., filter_state_objects: _Optional[bytes] = ..., network_protocol_name: _Optional[str] = ...) -> None: ...
    class Entry(_message.Message):
        __slots__ = ("common_properties", "protocol_version", "request", "response")
        COMMON_PROPERTIES_FIELD_NUMBER: _ClassVar[int]
        PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
        REQUEST_FIELD_NUMBER: _ClassVar[int]
        RESPONSE_FIELD_NUMBER: _ClassVar[int]
        common_properties: Passed.Common
        protocol_version: int
        request: bytes
        response: bytes
        def __init__(self, common_properties: _Optional[_Union[Passed.Common, _Mapping]] = ..., protocol_version: _Optional[int] = ..., request: _Optional[bytes] = ..., response: _Optional[bytes] = ...) -> None: ...
    LOG_ENTRY_FIELD_NUMBER: _ClassVar[int]
    log_entry: _containers.RepeatedCompositeFieldContainer[Passed.Entry]
    def __init__(self, log_entry: _Optional[_Iterable[_Union[Passed.Entry, _Mapping]]] = ...) -> None: ...

class Pieces(_message.Message):
    __slots__ = ("log_entry",)
    class Entry(_message.Message):
        __slots__ = ("common_properties",)
        COMMON_PROPERTIES_FIELD_NUMBER: _ClassVar[int]
        common_properties: _containers.RepeatedScalarFieldContainer[bytes]
        def __init__(self, common_properties: _Optional[_Iterable[bytes]] = ...) -> None: ...
    LOG_ENTRY_FIELD_NUMBER: _ClassVar[int]
    log_entry: Pieces.Entry
    def __init__(self, log_entry: _Optional[_Union[Pieces.Entry, _Mapping]] = ...) -> None: ...

class FilterState(_message.Message):
    __slots__ = ("key", "value")
    KEY_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    key: str
    value: bytes
    def __init__(self, key: _Optional[str] = ..., value: _Optional[bytes] = ...) -> None: ...

class Metadata(_message.Message):
    __slots__ = ("filter_metadata",)
    class Namespace(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Struct
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Struct, _Mapping]] = ...) -> None: ...
    FILTER_METADATA_FIELD_NUMBER: _ClassVar[int]
    filter_metadata: _containers.RepeatedCompositeFieldContainer[Metadata.Namespace]
    def __init__(self, filter_metadata: _Optional[_Iterable[_Union[Metadata.Namespace, _Mapping]]] = ...) -> None: ...

class Struct(_message.Message):
    __slots__ = ("fields",)
    FIELDS_FIELD_NUMBER: _ClassVar[int]
    fields: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, fields: _Optional[_Iterable[bytes]] = ...) -> None: ...

class Header(_message.Message):
    __slots__ = ("key", "value")
    KEY_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    key: str
    value: str
    def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...

"""The one place that turns our errors into gRPC status."""

import grpc

from mixer.errors import CallError, DeadlineError, MixerError, RequestError

_CODES: tuple[tuple[type[MixerError], grpc.StatusCode], ...] = (
    (RequestError, grpc.StatusCode.INVALID_ARGUMENT),
    (DeadlineError, grpc.StatusCode.DEADLINE_EXCEEDED),
    (CallError, grpc.StatusCode.UNAVAILABLE),  # no answer to give: Envoy's failure mode decides
)


def code_of(error: MixerError) -> grpc.StatusCode:
    """Never OK, never UNKNOWN."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), grpc.StatusCode.INTERNAL)

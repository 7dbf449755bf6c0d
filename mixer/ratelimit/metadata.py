"""The dynamic metadata that envoyproxy/ratelimit gives when asked (`ratelimitToMetadata` in its `ratelimit.go`)."""

from collections.abc import Iterable, Mapping
from typing import Any

from envoy.extensions.common.ratelimit.v3.ratelimit_pb2 import RateLimitDescriptor
from envoy.service.ratelimit.v3.rls_pb2 import RateLimitRequest
from google.protobuf import text_format

from mixer.ratelimit.tree import Limit


def of_request(request: RateLimitRequest, passed: Iterable[Limit]) -> dict[str, Any]:
    """The request's domain, descriptors and hits, and the `metadata` of the limits that were not over."""
    fields: dict[str, Any] = {
        "domain": request.domain,
        "descriptors": [_descriptor(descriptor) for descriptor in request.descriptors],
    }
    if request.hits_addend:
        fields["hitsAddend"] = request.hits_addend
    merged: dict[str, Any] = {}
    for limit in passed:
        _add(merged, limit.metadata or {})
    if merged:
        fields["metadata"] = merged
    return fields


def _descriptor(descriptor: RateLimitDescriptor) -> dict[str, Any]:
    fields: dict[str, Any] = {"entries": [f"{entry.key}={entry.value}" for entry in descriptor.entries]}
    if descriptor.HasField("limit"):
        # As Go writes it: numbers and enums alone stand in it.
        fields["limit"] = text_format.MessageToString(descriptor.limit, as_one_line=True).replace(": ", ":")
    if descriptor.HasField("hits_addend"):
        fields["hitsAddend"] = descriptor.hits_addend.value
    return fields


def _add(target: dict[str, Any], source: Mapping[str, Any]) -> None:
    """Mappings merge; of anything else the first stays."""
    for key, value in source.items():
        if isinstance(value, Mapping):
            below = target.setdefault(key, {})
            if isinstance(below, dict):
                _add(below, value)
        else:
            target.setdefault(key, value)

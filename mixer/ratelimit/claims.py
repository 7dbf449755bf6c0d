"""From a request to what is to be counted: which limit applies to each of its descriptors, and its hits."""

from collections.abc import Mapping, Sequence
from typing import Any

from envoy.extensions.common.ratelimit.v3.ratelimit_pb2 import RateLimitDescriptor
from envoy.service.ratelimit.v3.rls_pb2 import RateLimitRequest
from google.protobuf.unknown_fields import UnknownFieldSet

from mixer.errors import RequestError
from mixer.ratelimit.counters import FixedWindow
from mixer.ratelimit.tree import SECONDS, UNITS, Domain, Limit

MAX_DESCRIPTORS = 1000  # of one request, which is one script call for Redis; Envoy sends a handful
MAX_HITS = 2**32  # of one descriptor: above any limit, so that more makes no difference

# Since Envoy 1.38 a descriptor can give hits back with this field, which older protos do not know.
_NEGATIVE_HITS = 4
_KNOWN_NEGATIVE_HITS = RateLimitDescriptor.DESCRIPTOR.fields_by_number.get(_NEGATIVE_HITS)

Claim = tuple[Limit, str]  # a limit that applies, and the name of its counter


def claims(domains: Mapping[str, Domain], request: RateLimitRequest) -> list[Claim | None]:
    """For each descriptor of the request the limit that applies to it, None if none does.

    Raises:
        RequestError: the request is wrong.
    """
    descriptors = request.descriptors
    if not request.domain:
        raise RequestError("domain: expected the name of a domain, got nothing")
    if not 0 < len(descriptors) <= MAX_DESCRIPTORS:
        raise RequestError(f"descriptors: expected 1 to {MAX_DESCRIPTORS}, got {len(descriptors)}")
    domain = domains.get(request.domain)
    if domain is None:
        return [None] * len(descriptors)
    found: list[Claim | None] = []
    replaced: frozenset[str] = frozenset()
    for descriptor in descriptors:
        claim: Claim | None
        if descriptor.HasField("limit"):
            claim = _override(domain, descriptor, len(found))
        else:
            claim = domain.match(descriptor.entries)
        found.append(claim)
        if claim is not None and claim[0].replaces:
            replaced |= claim[0].replaces
    if replaced:
        return [None if claim is not None and _is_replaced(claim[0], replaced) else claim for claim in found]
    return found


def hits(request: RateLimitRequest, found: Sequence[Claim | None], now: int) -> list[FixedWindow]:
    """What to count at the time `now` (seconds since the epoch), in the order of the descriptors.

    The request's `hits_addend` counts where a descriptor has none of its own; 0 there means 1, while 0 at a
    descriptor means to look without counting.

    Raises:
        RequestError: a descriptor gives hits back.
    """
    default = request.hits_addend or 1
    windows = []
    for index, (descriptor, claim) in enumerate(zip(request.descriptors, found, strict=True)):
        if claim is None or claim[0].unlimited:
            continue
        limit, name = claim
        addend = default
        if descriptor.HasField("hits_addend"):
            if _is_negative(descriptor):
                raise RequestError(
                    f"descriptors[{index}].is_negative_hits: giving hits back is not supported"
                )
            addend = min(descriptor.hits_addend.value, MAX_HITS)
        seconds = SECONDS[limit.unit]
        windows.append(FixedWindow(name, seconds, now - now % seconds, addend))
    return windows


def _override(domain: Domain, descriptor: RateLimitDescriptor, index: int) -> Claim:
    limit = descriptor.limit
    if limit.unit not in SECONDS:
        names = ", ".join(name.upper() for name in UNITS)
        raise RequestError(f"descriptors[{index}].limit.unit: expected one of {names}, got {limit.unit}")
    return domain.override(descriptor.entries, limit.requests_per_unit, limit.unit)


def _is_replaced(limit: Limit, replaced: frozenset[str]) -> bool:
    return limit.name in replaced and not limit.unlimited


def _is_negative(descriptor: RateLimitDescriptor) -> bool:
    if _KNOWN_NEGATIVE_HITS is not None:
        return bool(getattr(descriptor, _KNOWN_NEGATIVE_HITS.name))
    unknown: Any = UnknownFieldSet(descriptor)
    return any(field.field_number == _NEGATIVE_HITS and field.data for field in unknown)

"""From a request to what is to be counted: which limit applies to each of its descriptors, and its hits."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from envoy.extensions.common.ratelimit.v3.ratelimit_pb2 import RateLimitDescriptor
from envoy.service.ratelimit.v3.rls_pb2 import RateLimitRequest
from google.protobuf.unknown_fields import UnknownFieldSet

from mixer.errors import RequestError
from mixer.metrics import Metrics
from mixer.ratelimit import keys
from mixer.ratelimit.answer import LimitTexts
from mixer.ratelimit.counters import MAX_HITS, Hit
from mixer.ratelimit.tree import SECONDS, UNITS, Domain, Limit
from mixer.tallies import OVERFLOW

MAX_DESCRIPTORS = 1000  # of one request, which is one script call for Redis; Envoy sends a handful

# Requests, and descriptors, that are remembered by their bytes with what applies to them: the same users and paths come
# again and again, and to read a message field by field costs more than to match it. About 25 MB of each at most.
REMEMBERED = 10_000
REMEMBERED_BYTES = 256

# Since Envoy 1.38 a descriptor can give hits back with this field, which older protos do not know.
_NEGATIVE_HITS = 4
_KNOWN_NEGATIVE_HITS = RateLimitDescriptor.DESCRIPTOR.fields_by_number.get(_NEGATIVE_HITS)


class Claim(NamedTuple):
    """A limit that applies to a descriptor."""

    limit: Limit
    texts: LimitTexts
    tally: list[int]  # its statistics
    hit: Hit | None  # the descriptor's own hits, else 1; None for an unlimited limit
    has_hits: bool = False  # whether the descriptor has its own; else the request's count
    gives_back: bool = False


class Asked:
    """What a request asks for."""

    __slots__ = ("claims", "hits", "ordinary", "request", "tells")

    def __init__(self, request: RateLimitRequest, claims: list[Claim | None]) -> None:
        self.request = request
        self.claims = claims  # of each descriptor; None where no limit applies
        self.hits = hits(claims, request.hits_addend)
        # The claims, where each descriptor has an ordinary limit, which is judged by itself.
        ordinary = [claim for claim in claims if claim is not None and _is_ordinary(claim)]
        self.ordinary = ordinary if len(ordinary) == len(claims) else None
        # Whether a limit has something of its own to tell who is over it.
        self.tells = any(claim is not None and claim.limit.over_limit is not None for claim in claims)


class Claims:
    """Finds the limits of requests."""

    def __init__(self, domains: Mapping[str, Domain], metrics: Metrics) -> None:
        self._domains = domains
        self._tallies = metrics.limit_hits
        self._texts = {limit: LimitTexts(limit) for domain in domains.values() for limit in domain.limits()}
        self._remembered: dict[str, dict[bytes, Claim | None]] = {name: {} for name in domains}
        self._room = REMEMBERED  # for all domains together
        self._asked: dict[bytes, Asked] = {}

    def of_message(self, message: bytes) -> Asked:
        """What a serialised RateLimitRequest asks for.

        Raises:
            RequestError: the request is wrong, or asks for what there is not.
            DecodeError: it is no RateLimitRequest.
        """
        if (asked := self._asked.get(message)) is None:
            request = RateLimitRequest.FromString(message)
            asked = Asked(request, self.of(request))
            if len(message) <= REMEMBERED_BYTES * 2:
                if len(self._asked) >= REMEMBERED:
                    self._asked.clear()
                self._asked[message] = asked
        return asked

    def of(self, request: RateLimitRequest) -> list[Claim | None]:
        """For each descriptor of the request the limit that applies to it, None if none does.

        Raises:
            RequestError: the request is wrong, or asks for what there is not.
        """
        name, descriptors = request.domain, request.descriptors
        if not name:
            raise RequestError("domain: expected the name of a domain, got nothing")
        if not 0 < len(descriptors) <= MAX_DESCRIPTORS:
            raise RequestError(f"descriptors: expected 1 to {MAX_DESCRIPTORS}, got {len(descriptors)}")
        remembered = self._remembered.get(name)
        if remembered is None:
            return [None] * len(descriptors)
        found: list[Claim | None] = []
        replaced: frozenset[str] = frozenset()
        for descriptor in descriptors:
            content = descriptor.SerializeToString()
            if content in remembered:
                claim = remembered[content]
            else:
                claim = self._find(self._domains[name], descriptor, len(found))
                if len(content) <= REMEMBERED_BYTES:
                    self._make_room()
                    remembered[content] = claim
            found.append(claim)
            if claim is not None and claim.limit.replaces:
                replaced |= claim.limit.replaces
        if replaced:
            return [
                None if claim is not None and _is_replaced(claim.limit, replaced) else claim
                for claim in found
            ]
        return found

    def _make_room(self) -> None:
        if self._room == 0:
            for remembered in self._remembered.values():
                remembered.clear()
            self._room = REMEMBERED
        self._room -= 1

    def _find(self, domain: Domain, descriptor: RateLimitDescriptor, index: int) -> Claim | None:
        if descriptor.HasField("limit"):
            override = descriptor.limit
            if override.unit not in SECONDS:
                names = ", ".join(unit.upper() for unit in UNITS)
                raise RequestError(
                    f"descriptors[{index}].limit.unit: expected one of {names}, got {override.unit}"
                )
            match = domain.override(descriptor.entries, override.requests_per_unit, override.unit)
        elif (matched := domain.match(descriptor.entries)) is not None:
            match = matched
        else:
            return None
        limit, name = match
        texts = self._texts.get(limit) or LimitTexts(limit)  # an override is its descriptor's alone
        tally = self._tallies.row(self._label(domain, descriptor, limit))
        if limit.rule is None:
            return Claim(limit, texts, tally, None)
        holder = ""
        if limit.rule.algorithm == "concurrency" and not (holder := descriptor.entries[-1].value):
            path = f"descriptors[{index}].entries[{len(descriptor.entries) - 1}].value"
            raise RequestError(f"{path}: expected an id of the request, got nothing")
        has_hits, gives_back = descriptor.HasField("hits_addend"), _is_negative(descriptor)
        hits = min(descriptor.hits_addend.value, MAX_HITS) if has_hits else 1
        hit = Hit(name, limit.rule, -hits if gives_back else hits, keys.bounded(holder))
        return Claim(limit, texts, tally, hit, has_hits, gives_back)

    @staticmethod
    def _label(domain: Domain, descriptor: RateLimitDescriptor, limit: Limit) -> str:
        """By what statistics of the limit are labelled."""
        if descriptor.HasField("limit"):
            return OVERFLOW  # whose labels would be without bound
        if limit.detailed_metric or limit.value_to_metric:
            return domain.metric_label(descriptor.entries, limit)
        return limit.label


def hits(found: Sequence[Claim | None], hits_addend: int) -> list[Hit]:
    """What to count, in the order of the descriptors.

    The request's `hits_addend` is for the descriptors that have none of their own. 0 means 1 there, while at a
    descriptor it means to look without counting.
    """
    if hits_addend <= 1:
        return [claim.hit for claim in found if claim is not None and claim.hit is not None]
    return [
        claim.hit
        if claim.has_hits
        else claim.hit._replace(hits=-hits_addend if claim.gives_back else hits_addend)
        for claim in found
        if claim is not None and claim.hit is not None
    ]


def _is_ordinary(claim: Claim) -> bool:
    limit, hit = claim.limit, claim.hit
    return not (hit is None or hit.holder or limit.shadow_mode or limit.quota_mode)


def _is_replaced(limit: Limit, replaced: frozenset[str]) -> bool:
    return limit.name in replaced and not limit.unlimited


def _is_negative(descriptor: RateLimitDescriptor) -> bool:
    if _KNOWN_NEGATIVE_HITS is not None:
        return bool(getattr(descriptor, _KNOWN_NEGATIVE_HITS.name))
    unknown: Any = UnknownFieldSet(descriptor)
    return any(field.field_number == _NEGATIVE_HITS and field.data for field in unknown)

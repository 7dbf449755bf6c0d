"""A RateLimitResponse as bytes, put together from parts that are made once for each limit.

Serialised messages that follow one another merge (protobuf's encoding, "last one wins" and repeated fields
append), so an answer is its overall code, its statuses, its headers and its metadata in a row. With two
descriptors that costs a fifth of building and serialising the message.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

from envoy.config.core.v3.base_pb2 import HeaderValue
from envoy.service.ratelimit.v3.rls_pb2 import RateLimitResponse
from google.protobuf.struct_pb2 import Struct

from mixer.ratelimit.tree import Limit

OK: int = RateLimitResponse.OK
OVER_LIMIT: int = RateLimitResponse.OVER_LIMIT
MAX_REMAINING = 2**32 - 1

_DescriptorStatus = RateLimitResponse.DescriptorStatus

# Fields of DescriptorStatus and Duration: their number and wire type in one byte.
_STATUSES, _LIMIT_REMAINING, _DURATION_UNTIL_RESET, _SECONDS = b"\x12", b"\x18", b"\x22", b"\x08"


_LAST = [bytes((digit,)) for digit in range(0x80)]
_MORE = [bytes((digit | 0x80,)) for digit in range(0x80)]


def _varint(number: int) -> bytes:
    """A number that is not negative, base 128, the low digits first."""
    return _LAST[number] if number < 0x80 else _MORE[number & 0x7F] + _higher(number >> 7)


@lru_cache(maxsize=8192)  # of counts that go down one by one, these come again and again
def _higher(number: int) -> bytes:
    return _varint(number)


class LimitTexts:
    """What answers say about one limit: how a status begins (OK, then OVER_LIMIT), and the metadata if it decided."""

    __slots__ = ("_over", "_reset", "limit", "metadata", "near", "status")

    def __init__(self, limit: Limit) -> None:
        self.limit = limit
        # Above that many, a counter is near its limit (envoyproxy/ratelimit's `near_limit_ratio`).
        self.near = limit.rule.size * 4 // 5 if limit.rule is not None else 0
        current = RateLimitResponse.RateLimit(
            name=limit.name, requests_per_unit=limit.requests_per_unit, unit=limit.unit
        )
        self.status = tuple(
            _DescriptorStatus(code=code, current_limit=current).SerializeToString()
            for code in (OK, OVER_LIMIT)
        )
        self.metadata = {code: metadata({"limit": limit.label}, code) for code in (OK, OVER_LIMIT)}
        self._reset, self._over = -1, b""  # the last status that said so

    def over(self, reset: int) -> bytes:
        """The status of a counter that is over, with nothing left; those of one second are mostly the same."""
        if reset != self._reset:
            self._reset, self._over = reset, status(self.status[True], 0, reset)
        return self._over


# The parts of a status, in their order; what it begins with is the limit's own (`LimitTexts.status`).


@lru_cache(maxsize=8192)
def begin_of(length: int) -> bytes:
    """What stands before a status whose other parts are that long."""
    return _STATUSES + _varint(length)


def remaining(left: int) -> bytes:
    """What is left of the limit; not written for 0."""
    return _LIMIT_REMAINING + _varint(left) if left else b""


@lru_cache(maxsize=8192)
def until_reset(seconds: int) -> bytes:
    duration = _SECONDS + _varint(seconds)
    return _DURATION_UNTIL_RESET + _varint(len(duration)) + duration


def status(begin: bytes, left: int, reset: int) -> bytes:
    """One status, as a part of the answer. `reset` in seconds."""
    body = begin + remaining(left) + until_reset(reset)
    return begin_of(len(body)) + body


def metadata(decisive: dict[str, str], code: int) -> bytes:
    """The dynamic metadata `mixer`: which limit decided, and what the answer is."""
    fields = Struct()
    fields["mixer"] = {**decisive, "code": RateLimitResponse.Code.Name(code)}
    return _part(dynamic_metadata=fields)


def more_metadata(fields: dict[str, Any]) -> bytes:
    """Further fields of the dynamic metadata."""
    struct = Struct()
    struct.update(fields)
    return _part(dynamic_metadata=struct)


def holding(limit: str, code: int, holders: Sequence[str]) -> bytes:
    """`metadata` of a request that has slots: with the ids by which Report gives them back."""
    fields = Struct()
    fields["mixer"] = {"limit": limit, "code": RateLimitResponse.Code.Name(code), "holders": list(holders)}
    return _part(dynamic_metadata=fields)


def headers(values: Iterable[tuple[str, str]], body: str = "") -> bytes:
    """Headers of the answer to the client, and its body over the limit, as a part of the answer."""
    added = [HeaderValue(key=key, value=value) for key, value in values]
    return _part(response_headers_to_add=added, raw_body=body.encode())


def _part(**fields: Any) -> bytes:
    serialised: bytes = RateLimitResponse(**fields).SerializeToString()
    return serialised


OVERALL = {code: _part(overall_code=code) for code in (OK, OVER_LIMIT)}
NO_LIMIT = _part(statuses=[_DescriptorStatus(code=OK)])
UNLIMITED = _part(statuses=[_DescriptorStatus(code=OK, limit_remaining=MAX_REMAINING)])
NO_LIMIT_METADATA = {code: metadata({}, code) for code in (OK, OVER_LIMIT)}

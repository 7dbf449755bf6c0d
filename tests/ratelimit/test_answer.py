"""Answers put together from bytes are the messages that protobuf would make."""

from envoy.service.ratelimit.v3.rls_pb2 import RateLimitResponse
from hypothesis import given, settings
from hypothesis import strategies as st

from mixer.ratelimit import answer
from mixer.ratelimit.answer import OK, OVER_LIMIT, LimitTexts
from mixer.ratelimit.tree import Limit

UINT32 = st.integers(0, 2**32 - 1)


@settings(deadline=None)  # a busy machine is no mistake
@given(
    name=st.text(max_size=200),
    rate=UINT32,
    unit=st.integers(1, 7),
    code=st.sampled_from((OK, OVER_LIMIT)),
    left=UINT32,
    until_reset=st.integers(1, 31_536_000),
)
def test_status_is_the_message(
    name: str, rate: int, unit: int, code: int, left: int, until_reset: int
) -> None:
    texts = LimitTexts(Limit("d.a", rate, unit, name))
    expected = RateLimitResponse()
    status = expected.statuses.add(code=code, limit_remaining=left)
    status.current_limit.name, status.current_limit.requests_per_unit, status.current_limit.unit = (
        name,
        rate,
        unit,
    )
    status.duration_until_reset.seconds = until_reset
    part = answer.status(texts.status[code == OVER_LIMIT], left, until_reset)
    assert RateLimitResponse.FromString(part) == expected


def test_parts_in_a_row_are_one_message() -> None:
    texts = LimitTexts(Limit("d.a", 5, 2, "per-user"))
    parts = (
        answer.OVERALL[OVER_LIMIT],
        answer.NO_LIMIT,
        answer.status(texts.status[True], 0, 60),
        answer.UNLIMITED,
        texts.metadata[OVER_LIMIT],
        answer.more_metadata({"domain": "d", "descriptors": [{"entries": ["a=b"]}]}),
        answer.headers([("RateLimit-Limit", "5"), ("RateLimit-Remaining", "0")], "late"),
    )
    expected = RateLimitResponse(overall_code=OVER_LIMIT)
    expected.statuses.add(code=OK)
    status = expected.statuses.add(code=OVER_LIMIT)
    status.current_limit.name, status.current_limit.requests_per_unit, status.current_limit.unit = (
        "per-user",
        5,
        2,
    )
    status.duration_until_reset.seconds = 60
    expected.statuses.add(code=OK, limit_remaining=2**32 - 1)
    expected.dynamic_metadata.update(
        {
            "mixer": {"limit": "per-user", "code": "OVER_LIMIT"},
            "domain": "d",
            "descriptors": [{"entries": ["a=b"]}],
        }
    )
    expected.response_headers_to_add.add(key="RateLimit-Limit", value="5")
    expected.response_headers_to_add.add(key="RateLimit-Remaining", value="0")
    expected.raw_body = b"late"
    assert RateLimitResponse.FromString(b"".join(parts)) == expected

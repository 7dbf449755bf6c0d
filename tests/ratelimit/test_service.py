"""The quota service: which answer a request gets. Counters are in memory, the clock is the test's."""

import asyncio
import gc
from collections.abc import Sequence
from typing import Any

import pytest
import structlog
from envoy.service.ratelimit.v3.rls_pb2 import RateLimitRequest, RateLimitResponse
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import DecodeError
from google.protobuf.unknown_fields import UnknownFieldSet
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from mixer import config
from mixer.errors import CounterError, DeadlineError, RequestError
from mixer.metrics import MAX_LIMITS, Metrics
from mixer.pending import InTask, Pending
from mixer.ratelimit import claims
from mixer.ratelimit.counters import SECOND, Hit, Outcome, Outcomes, Rule
from mixer.ratelimit.memory import MemoryCounters
from mixer.ratelimit.service import QuotaService
from tests.ratelimit.files import limits_of

START = 1_800_000_000  # where a minute, an hour and a day begin
OK, OVER = "OK", "OVER_LIMIT"
MAX = 2**32 - 1

LIMITS = """\
domain: shop
descriptors:
- {key: user, rate_limit: {unit: minute, requests_per_unit: 2, name: per-user}}
- {key: user, value: admin, rate_limit: {unlimited: true, name: admins}}
- {key: user, value: none, rate_limit: {unit: hour, requests_per_unit: 0}}
- {key: path, rate_limit: {unit: second, requests_per_unit: 3}}
- {key: trial, shadow_mode: true, rate_limit: {unit: day, requests_per_unit: 1, name: trial}}
- {key: q1, quota_mode: true, rate_limit: {unit: day, requests_per_unit: 1, name: q1}}
- {key: q2, quota_mode: true, rate_limit: {unit: day, requests_per_unit: 2, name: q2}}
- {key: vip, rate_limit: {unit: minute, requests_per_unit: 9, name: vip, replaces: [{name: per-user}]}}
- {key: free, rate_limit: {unlimited: true, replaces: [{name: per-user}]}}
- {key: left, rate_limit: {unit: minute, requests_per_unit: 9, name: left, replaces: [{name: right}]}}
- {key: right, rate_limit: {unit: minute, requests_per_unit: 9, name: right, replaces: [{name: left}]}}
- key: open
  metadata: {team: core, nested: {a: 1}}
  rate_limit: {unit: day, requests_per_unit: 9}
- key: closed
  metadata: {team: other, nested: {b: 2}}
  rate_limit: {unit: day, requests_per_unit: 9}
- {key: week, rate_limit: {unit: week, requests_per_unit: 1}}
"""


class Quota:
    """A service with these settings, and a clock that the test sets."""

    def __init__(self, limits: str = LIMITS, counters: Any = None, **chosen: Any) -> None:
        self.now = float(START)
        self.metrics = Metrics(CollectorRegistry())
        self.service = QuotaService(
            limits_of(limits, has_shares=True),
            counters or MemoryCounters(self.metrics, self.clock),
            config.RateLimits.model_validate(chosen),
            self.metrics,
            local=MemoryCounters(self.metrics, self.clock),
            clock=self.clock,
        )

    def clock(self) -> float:
        return self.now

    def ask(self, request: RateLimitRequest, timeout: float | None = None) -> RateLimitResponse:
        async def call() -> bytes:
            answer = self.service.should_rate_limit(request.SerializeToString(), timeout)
            return answer if isinstance(answer, bytes) else await answer

        return RateLimitResponse.FromString(asyncio.run(call()))

    def codes(self, *descriptors: dict[str, str]) -> tuple[str, list[str]]:
        """The overall code, and those of the statuses."""
        return codes_of(self.ask(request(*descriptors)))

    def outcomes(self) -> dict[str, float]:
        """Descriptors by outcome, as the metric has them."""
        (family,) = self.metrics.quota_descriptors.collect()
        return {
            sample.labels["outcome"]: sample.value
            for sample in family.samples
            if sample.name.endswith("_total") and sample.value
        }


def request(*descriptors: dict[str, str], domain: str = "shop", hits_addend: int = 0) -> RateLimitRequest:
    message = RateLimitRequest(domain=domain, hits_addend=hits_addend)
    for entries in descriptors:
        descriptor = message.descriptors.add()
        for key, value in entries.items():
            descriptor.entries.add(key=key, value=value)
    return message


def codes_of(response: RateLimitResponse) -> tuple[str, list[str]]:
    name = RateLimitResponse.Code.Name
    return name(response.overall_code), [name(status.code) for status in response.statuses]


def mixer_of(response: RateLimitResponse) -> dict[str, str]:
    """Our dynamic metadata."""
    return MessageToDict(response.dynamic_metadata)["mixer"]


ALICE = {"user": "alice"}


def test_requests_up_to_the_limit_pass_and_the_next_one_does_not() -> None:
    quota = Quota()
    assert [quota.codes(ALICE)[0] for _ in range(4)] == [OK, OK, OVER, OVER]


def test_status_tells_the_limit_what_is_left_and_when_it_starts_anew() -> None:
    quota = Quota()
    quota.now = START + 12.9
    (status,) = quota.ask(request(ALICE)).statuses
    assert MessageToDict(status) == {
        "code": OK,
        "currentLimit": {"name": "per-user", "requestsPerUnit": 2, "unit": "MINUTE"},
        "limitRemaining": 1,
        "durationUntilReset": "48s",
    }


def test_a_new_window_admits_again() -> None:
    quota = Quota()
    quota.now = START + 59.99
    assert [quota.codes(ALICE)[0] for _ in range(3)] == [OK, OK, OVER]
    quota.now = START + 60
    assert quota.codes(ALICE)[0] == OK


def test_weeks_begin_on_thursday_as_the_epoch_did() -> None:
    quota = Quota()
    quota.now = 7 * 86400 * 100.0
    (status,) = quota.ask(request({"week": "x"})).statuses
    assert status.duration_until_reset.seconds == 7 * 86400


def test_a_limit_of_zero_admits_nothing() -> None:
    assert Quota().codes({"user": "none"}) == (OVER, [OVER])


def test_values_are_counted_apart() -> None:
    quota = Quota()
    assert [quota.codes({"user": user})[0] for user in ("a", "b", "a", "b", "a")] == [OK, OK, OK, OK, OVER]


def test_one_descriptor_over_its_limit_is_enough_and_statuses_keep_their_order() -> None:
    quota = Quota()
    for _ in range(2):
        quota.codes(ALICE)
    assert quota.codes({"path": "/"}, ALICE, {"user": "bob"}) == (OVER, [OK, OVER, OK])


def test_a_descriptor_given_twice_counts_twice() -> None:
    quota = Quota()
    response = quota.ask(request(ALICE, ALICE, ALICE))
    assert codes_of(response) == (OVER, [OK, OK, OVER])
    assert [status.limit_remaining for status in response.statuses] == [1, 0, 0]


@pytest.mark.parametrize(
    "message", [request({"other": "x"}), request(ALICE, domain="elsewhere"), request({})]
)
def test_what_meets_no_limit_passes_without_one(message: RateLimitRequest) -> None:
    response = Quota().ask(message)
    assert [MessageToDict(status) for status in response.statuses] == [{"code": OK}]
    assert mixer_of(response) == {"code": OK}


def test_unlimited_passes_with_the_most_left_that_there_is() -> None:
    response = Quota().ask(request({"user": "admin"}))
    assert [MessageToDict(status) for status in response.statuses] == [{"code": OK, "limitRemaining": MAX}]
    assert mixer_of(response) == {"limit": "admins", "code": OK}


def test_hits_of_the_request_count_for_descriptors_without_their_own() -> None:
    quota = Quota()
    message = request(ALICE, {"path": "/"}, hits_addend=2)
    message.descriptors[1].hits_addend.value = 1
    assert [status.limit_remaining for status in quota.ask(message).statuses] == [0, 2]


def test_zero_hits_of_a_descriptor_look_without_counting() -> None:
    quota = Quota()
    look = request(ALICE)
    look.descriptors[0].hits_addend.value = 0
    assert quota.ask(look).statuses[0].limit_remaining == 2
    quota.codes(ALICE)
    quota.codes(ALICE)
    assert codes_of(quota.ask(look)) == (OK, [OK])  # at the limit, not over it
    quota.codes(ALICE)
    assert codes_of(quota.ask(look)) == (OVER, [OVER])


def test_hits_beyond_any_limit_are_over_and_stay_countable() -> None:
    quota = Quota()
    message = request(ALICE)
    message.descriptors[0].hits_addend.value = 2**64 - 1
    assert [codes_of(quota.ask(message))[0] for _ in range(3)] == [OVER] * 3


def test_a_limit_of_the_request_stands_in_for_that_of_the_file() -> None:
    quota = Quota()
    message = request(ALICE)
    message.descriptors[0].limit.requests_per_unit = 1
    message.descriptors[0].limit.unit = 2
    response = quota.ask(message)
    (status,) = response.statuses
    assert MessageToDict(status.current_limit) == {"requestsPerUnit": 1, "unit": "MINUTE"}
    assert mixer_of(response) == {"limit": "shop.user_alice", "code": OK}
    assert quota.codes(ALICE) == (OK, [OK])  # the same counter, by the file's limit of 2
    assert codes_of(quota.ask(message)) == (OVER, [OVER])


def test_a_limit_of_the_request_needs_a_known_domain() -> None:
    message = request(ALICE, domain="elsewhere")
    message.descriptors[0].limit.requests_per_unit = 0
    message.descriptors[0].limit.unit = 2
    assert codes_of(Quota().ask(message)) == (OK, [OK])


@pytest.mark.parametrize("key", ["vip", "free"])
def test_a_limit_that_replaces_another_takes_it_out(key: str) -> None:
    quota = Quota()
    assert [quota.codes(ALICE, {key: "x"}) for _ in range(3)] == [(OK, [OK, OK])] * 3
    response = quota.ask(request(ALICE, {key: "x"}))
    assert MessageToDict(response.statuses[0]) == {"code": OK}
    assert quota.codes(ALICE) == (OK, [OK])  # it was not counted either


def test_an_unlimited_descriptor_is_not_replaced() -> None:
    limits = """\
domain: shop
descriptors:
- {key: free, rate_limit: {unlimited: true, name: free}}
- {key: vip, rate_limit: {unit: day, requests_per_unit: 1, replaces: [{name: free}]}}
"""
    response = Quota(limits).ask(request({"free": "x"}, {"vip": "x"}))
    assert [status.limit_remaining for status in response.statuses] == [MAX, 0]


def test_limits_that_replace_each_other_are_both_out() -> None:
    response = Quota().ask(request({"left": "x"}, {"right": "x"}))
    assert [MessageToDict(status) for status in response.statuses] == [{"code": OK}, {"code": OK}]


def test_shadow_mode_counts_and_passes() -> None:
    quota = Quota()
    assert [quota.codes({"trial": "x"}) for _ in range(3)] == [(OK, [OK])] * 3
    assert quota.outcomes() == {"ok": 1, "shadow": 2}


def test_shadow_mode_for_all_passes_and_tells_what_would_have_been() -> None:
    quota = Quota(shadow_mode=True)
    for _ in range(2):
        quota.codes(ALICE)
    response = quota.ask(request(ALICE, {"path": "/"}))
    assert codes_of(response) == (OK, [OVER, OK])
    assert mixer_of(response) == {"limit": "per-user", "code": OK}
    assert quota.outcomes() == {"ok": 3, "shadow": 1}


def test_quotas_refuse_only_together() -> None:
    quota = Quota()
    both = ({"q1": "x"}, {"q2": "x"})
    assert [quota.codes(*both) for _ in range(3)] == [(OK, [OK, OK]), (OK, [OVER, OK]), (OVER, [OVER, OVER])]
    assert mixer_of(quota.ask(request(*both))) == {"limit": "q1", "code": OVER}


def test_a_quota_that_refuses_is_named_though_another_limit_has_nothing_left_either() -> None:
    quota = Quota()
    quota.codes(ALICE, {"q1": "x"})
    response = quota.ask(request(ALICE, {"q1": "x"}))
    assert (codes_of(response), mixer_of(response)["limit"]) == ((OVER, [OK, OVER]), "q1")


def test_an_ordinary_limit_refuses_whatever_the_quotas_say() -> None:
    quota = Quota()
    assert quota.codes({"q1": "x"}, {"user": "none"}) == (OVER, [OK, OVER])


def test_quota_mode_for_all_makes_every_limit_a_quota() -> None:
    quota = Quota(quota_mode=True)
    assert quota.codes({"user": "none"}, {"path": "/"}) == (OK, [OVER, OK])
    assert quota.codes({"user": "none"}) == (OVER, [OVER])
    # A descriptor without a limit is a quota that is never over; an unlimited one is none.
    assert quota.codes({"user": "none"}, {"other": "x"}) == (OK, [OVER, OK])
    assert quota.codes({"user": "none"}, {"user": "admin"}) == (OVER, [OVER, OK])


def test_metadata_names_the_limit_that_fired_else_the_one_with_the_least_left() -> None:
    quota = Quota()
    assert mixer_of(quota.ask(request({"path": "/"}, ALICE, {"user": "admin"}))) == {
        "limit": "per-user",
        "code": OK,
    }
    for _ in range(2):
        quota.codes({"path": "/"})
    response = quota.ask(request(ALICE, {"path": "/"}))
    assert mixer_of(response) == {"limit": "shop.path", "code": OVER}


def test_headers_are_those_of_the_decisive_limit() -> None:
    headers = {"enabled": True, "remaining": "X-Left"}
    quota = Quota(response_headers=headers)
    quota.now = START + 20

    def names(*descriptors: dict[str, str]) -> list[tuple[str, str]]:
        response = quota.ask(request(*descriptors))
        return [(header.key, header.value) for header in response.response_headers_to_add]

    assert names({"path": "/"}, ALICE) == [
        ("RateLimit-Limit", "2"),
        ("X-Left", "1"),
        ("RateLimit-Reset", "40"),
    ]
    quota.codes(ALICE)
    assert names({"path": "/"}, ALICE) == [
        ("RateLimit-Limit", "2"),
        ("X-Left", "0"),
        ("RateLimit-Reset", "40"),
        ("Retry-After", "40"),
    ]
    assert names({"other": "x"}) == []
    assert names({"user": "admin"}) == []


def test_no_headers_unless_asked_for() -> None:
    assert not Quota().ask(request(ALICE)).response_headers_to_add


def test_metadata_of_the_request_when_asked_for() -> None:
    quota = Quota(response_dynamic_metadata=True)
    message = request({"open": "x"}, {"closed": "y"}, ALICE, hits_addend=3)
    message.descriptors[0].limit.requests_per_unit = 5
    message.descriptors[0].limit.unit = 3
    message.descriptors[1].hits_addend.value = 1
    fields = MessageToDict(quota.ask(message).dynamic_metadata)
    assert fields == {
        "mixer": {"limit": "per-user", "code": OVER},
        "domain": "shop",
        "hitsAddend": 3.0,
        "descriptors": [
            {"entries": ["open=x"], "limit": "requests_per_unit:5 unit:HOUR"},
            {"entries": ["closed=y"], "hitsAddend": 1.0},
            {"entries": ["user=alice"]},
        ],
        "metadata": {"team": "other", "nested": {"b": 2.0}},
    }


def test_metadata_of_limits_that_passed_is_merged_and_the_first_stays() -> None:
    quota = Quota(response_dynamic_metadata=True)
    for _ in range(2):  # nothing of one answer is left in the next
        fields = MessageToDict(quota.ask(request({"open": "x"}, {"closed": "y"})).dynamic_metadata)
        assert fields["metadata"] == {"team": "core", "nested": {"a": 1.0, "b": 2.0}}
    fields = MessageToDict(quota.ask(request({"closed": "y"})).dynamic_metadata)
    assert fields["metadata"] == {"team": "other", "nested": {"b": 2.0}}


def test_metadata_of_a_limit_that_is_over_is_left_out() -> None:
    fields = MessageToDict(
        Quota(response_dynamic_metadata=True)
        .ask(request({"open": "x"}, {"closed": "y"}, hits_addend=10))
        .dynamic_metadata
    )
    assert "metadata" not in fields


def test_descriptors_are_counted_by_outcome() -> None:
    quota = Quota()
    quota.codes(ALICE, {"user": "none"}, {"user": "admin"}, {"other": "x"})
    quota.ask(request(ALICE, domain="elsewhere"))
    quota.codes(ALICE)
    assert quota.outcomes() == {"ok": 2, "over_limit": 1, "unlimited": 1, "no_limit": 2}


# Statistics of a limit.


def hits_of(quota: Quota) -> dict[tuple[str, str], float]:
    """Hits by limit and outcome, as the metric has them."""
    (family,) = quota.metrics.limit_hits.collect()
    return {(s.labels["limit"], s.labels["outcome"]): s.value for s in family.samples}


def test_hits_are_counted_by_limit_and_what_became_of_them() -> None:
    quota = Quota()
    message = request({"open": "x"}, {"trial": "y"}, hits_addend=4)
    for _ in range(3):
        quota.ask(message)
    back = request({"open": "x"})
    back.descriptors[0].hits_addend.value = 2
    (descriptor,) = back.descriptors
    descriptor.MergeFromString(b"\x20\x01")
    quota.ask(back)
    assert hits_of(quota) == {
        ("shop.open", "within"): 7,  # up to 0.8 of 9
        ("shop.open", "near"): 2,
        ("shop.open", "over"): 3,
        ("shop.open", "given_back"): 2,
        ("trial", "near"): 1,
        ("trial", "shadow"): 11,
    }


def test_statistics_have_bounded_labels() -> None:
    quota = Quota(
        "domain: shop\ndescriptors: "
        "[{key: user, detailed_metric: true, rate_limit: {unit: day, requests_per_unit: 1}}]\n"
    )
    for number in range(MAX_LIMITS + 5):
        quota.codes({"user": f"u{number}"})
    override = request({"user": "u0"})
    override.descriptors[0].limit.requests_per_unit, override.descriptors[0].limit.unit = 9, 2
    quota.ask(override)
    found = hits_of(quota)
    assert len(found) == MAX_LIMITS + 2
    assert found["shop.user_u0", "near"] == 1
    assert (found["(other)", "near"], found["(other)", "within"]) == (5, 1)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.lists(st.sampled_from(("user", "path", "open", "vip")), min_size=1, max_size=3),
            st.integers(0, 3),
        ),
        max_size=8,
    )
)
def test_the_short_way_answers_as_the_long_one(calls: list[tuple[list[str], int]]) -> None:
    short, long = Quota(), Quota()
    long.service._judge._is_plain = False
    for keys, hits_addend in calls:
        message = request(*({key: "x"} for key in keys), hits_addend=hits_addend)
        assert short.ask(message) == long.ask(message)
    assert (short.outcomes(), hits_of(short)) == (long.outcomes(), hits_of(long))


# Algorithms, as a limit of a file chooses them.

OURS = """\
domain: shop
descriptors:
- {key: short, rate_limit: {window: 30s, requests_per_unit: 1}}
- {key: smooth, rate_limit: {algorithm: sliding_window, unit: minute, requests_per_unit: 2}}
- {key: bucket, rate_limit: {algorithm: token_bucket, unit: minute, requests_per_unit: 6, burst: 2}}
- key: busy
  descriptors:
  - {key: id, rate_limit: {algorithm: concurrency, requests_per_unit: 1, lease: 1m, name: busy}}
"""


def over_at(quota: Quota, *asked: tuple[float, dict[str, str]]) -> list[bool]:
    """At each of these seconds, whether a descriptor is over its limit."""
    found = []
    for seconds, descriptor in asked:
        quota.now = START + seconds
        found.append(quota.codes(descriptor)[0] == OVER)
    return found


def test_a_window_may_have_any_length() -> None:
    quota = Quota(OURS)
    assert over_at(quota, *((at, {"short": "x"}) for at in (0, 29, 30, 59.9, 60))) == [False, True] * 2 + [
        False
    ]
    (status,) = quota.ask(request({"short": "x"})).statuses
    assert MessageToDict(status.current_limit) == {"requestsPerUnit": 1}
    assert status.duration_until_reset.seconds == 30


def test_a_sliding_window_remembers_the_one_before() -> None:
    quota = Quota(OURS)
    times = (58, 59, 60, 75, 90.01, 91, 150)
    assert over_at(quota, *((at, {"smooth": "x"}) for at in times)) == [
        False, False, True, True, False, True, False,
    ]  # fmt: skip


def test_a_bucket_takes_a_burst_and_then_its_rate() -> None:
    quota = Quota(OURS)
    times = (0, 0, 0, 9.9, 10, 10, 60, 60, 60)
    assert over_at(quota, *((at, {"bucket": "x"}) for at in times)) == [
        False, False, True, True, False, True, False, False, True,
    ]  # fmt: skip


def slot(holder: str, back: bool = False) -> RateLimitRequest:
    message = request({"busy": "x", "id": holder})
    if back:
        message.descriptors[0].hits_addend.value = 1
        (descriptor,) = message.descriptors
        descriptor.MergeFromString(b"\x20\x01")
    return message


def test_slots_are_held_by_the_last_entry_s_value() -> None:
    quota = Quota(OURS)
    asked = [slot("a"), slot("b"), slot("a"), slot("b", back=True), slot("a", back=True), slot("b")]
    assert [codes_of(quota.ask(message))[0] for message in asked] == [OK, OVER, OK, OK, OK, OK]
    quota.now += 60
    assert codes_of(quota.ask(slot("c")))[0] == OK  # the lease of b is over


def test_a_request_that_is_refused_holds_no_slot() -> None:
    quota = Quota(OURS)
    quota.codes({"short": "x"})
    message = request({"busy": "x", "id": "a"}, {"short": "x"})
    assert codes_of(quota.ask(message)) == (OVER, [OK, OVER])
    assert codes_of(quota.ask(slot("b")))[0] == OK


def test_a_slot_needs_somebody_to_hold_it() -> None:
    with pytest.raises(RequestError) as caught:
        Quota(OURS).ask(slot(""))
    assert str(caught.value) == "descriptors[0].entries[1].value: expected an id of the request, got nothing"


def test_bytes_that_are_no_request_are_told_apart_from_one() -> None:
    with pytest.raises(DecodeError):
        Quota().service.should_rate_limit(b"\xff\xff", None)


WRONG = {
    "no domain": (request(ALICE, domain=""), "domain: expected the name of a domain, got nothing"),
    "no descriptors": (request(), "descriptors: expected 1 to 1000, got 0"),
    "too many descriptors": (request(*[ALICE] * 1001), "descriptors: expected 1 to 1000, got 1001"),
}


@pytest.mark.parametrize(("message", "text"), WRONG.values(), ids=WRONG)
def test_request_that_is_wrong_is_refused_by_name(message: RateLimitRequest, text: str) -> None:
    with pytest.raises(RequestError) as caught:
        Quota().ask(message)
    assert str(caught.value) == text


@pytest.mark.parametrize("unit", [0, 99])
def test_limit_of_a_request_without_a_known_unit_is_refused(unit: int) -> None:
    message = request({"path": "/"}, ALICE)
    message.descriptors[1].limit.requests_per_unit = 1
    message.descriptors[1].limit.unit = unit
    with pytest.raises(RequestError) as caught:
        Quota().ask(message)
    assert str(caught.value) == (
        f"descriptors[1].limit.unit: expected one of SECOND, MINUTE, HOUR, DAY, WEEK, MONTH, YEAR, got {unit}"
    )


def test_hits_are_given_back_and_never_below_none() -> None:
    quota = Quota()
    back = request(ALICE)
    back.descriptors[0].hits_addend.value = 5
    (descriptor,) = back.descriptors
    descriptor.MergeFromString(b"\x20\x01")  # field 4, is_negative_hits: true
    quota.codes(ALICE)
    quota.codes(ALICE)
    assert quota.ask(back).statuses[0].limit_remaining == 2
    assert [quota.codes(ALICE)[0] for _ in range(3)] == [OK, OK, OVER]
    (descriptor,) = request(ALICE).descriptors
    descriptor.hits_addend.value = 1
    descriptor.MergeFromString(b"\x20\x00\x28\x01")  # false, and a field that nobody knows
    assert len(UnknownFieldSet(descriptor)) >= 1
    message = request()
    message.domain = "shop"
    message.descriptors.append(descriptor)
    assert codes_of(quota.ask(message)) == (OVER, [OVER])


class Recording:
    """Counters that count nothing, and keep what they were asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[Sequence[Hit], int, float | None]] = []

    def hit(self, hits: Sequence[Hit], now: int, timeout: float | None = None) -> Outcomes:
        self.asked.append((hits, now, timeout))
        return [Outcome(over=False, used=0, remaining=1, reset=1, retry=0)] * len(hits)


def test_counters_get_the_rule_the_hits_and_the_times() -> None:
    counters = Recording()
    quota = Quota(counters=counters)
    quota.now = START + 61.5
    message = request(ALICE, {"user": "admin"}, {"other": "x"}, {"path": "/"}, hits_addend=3)
    message.descriptors[3].hits_addend.value = 2**64 - 1
    quota.ask(message, 0.02)
    hits = [
        Hit("shop|user=alice|", Rule(2, 60 * SECOND), 3),
        Hit("shop|path=/|", Rule(3, SECOND), 2**32),
    ]
    assert counters.asked == [(hits, START * SECOND + 61_500_000, 0.02)]


class Failing:
    """Counters that are away, for as long as they are asked to take."""

    def __init__(self, reason: str, wait: bool) -> None:
        self._reason, self._wait = reason, wait

    def hit(self, hits: Sequence[Hit], now: int, timeout: float | None = None) -> Pending[Outcomes]:
        return InTask(self._fail(timeout))

    async def _fail(self, timeout: float | None) -> Outcomes:
        if self._wait:
            assert timeout is not None
            await asyncio.sleep(timeout)
        raise CounterError(self._reason, "the store is away")


def test_counters_that_fail_are_an_error_and_logged() -> None:
    with structlog.testing.capture_logs() as logged, pytest.raises(CounterError) as caught:
        Quota(counters=Failing("unavailable", wait=False)).ask(request(ALICE), 5)
    assert not isinstance(caught.value, DeadlineError)
    assert caught.value.reason == "unavailable"
    assert [(event["event"], event["reason"]) for event in logged] == [("count_failed", "unavailable")]


def test_a_timeout_of_the_counters_within_the_caller_s_deadline_is_theirs() -> None:
    with pytest.raises(CounterError):
        Quota(counters=Failing("timeout", wait=False)).ask(request(ALICE), 5)


def test_a_timeout_at_the_caller_s_deadline_is_a_deadline() -> None:
    with pytest.raises(DeadlineError):
        Quota(counters=Failing("timeout", wait=True)).ask(request(ALICE), 0.01)


def test_requests_without_anything_to_count_need_no_counters() -> None:
    quota = Quota(counters=Failing("unavailable", wait=False))
    assert quota.codes({"user": "admin"}, {"other": "x"}) == (OK, [OK, OK])


def test_more_descriptors_than_are_remembered_are_answered_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "REMEMBERED", 3)
    monkeypatch.setattr(claims, "REMEMBERED_BYTES", 20)
    quota = Quota()
    users = ["a", "b", "c", "d", "a" * 30, "admin", "none"]
    seen = [[quota.codes({"user": user})[0] for user in users] for _ in range(3)]
    assert seen == [[OK] * 6 + [OVER], [OK] * 6 + [OVER], [OVER] * 5 + [OK, OVER]]


def test_no_more_descriptors_are_remembered_than_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "REMEMBERED", 50)
    found = claims.Claims(limits_of(LIMITS, "domain: other\n").domains, Metrics(CollectorRegistry()))
    objects = gc_objects(claims.Claim)
    for number in range(1000):
        found.of(request({"user": str(number)}, domain="shop"))
        found.of(request({"user": str(number)}, domain="other"))
    assert 0 < gc_objects(claims.Claim) - objects <= 50


def test_long_descriptors_are_not_remembered() -> None:
    found = claims.Claims(limits_of(LIMITS).domains, Metrics(CollectorRegistry()))
    objects = gc_objects(claims.Claim)
    assert found.of(request({"user": "x" * 1000})) != [None]
    assert gc_objects(claims.Claim) == objects


def gc_objects(kind: type) -> int:
    """How many of them are alive."""
    gc.collect()
    return sum(isinstance(thing, kind) for thing in gc.get_objects())

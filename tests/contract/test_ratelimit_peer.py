"""Quota decides as envoyproxy/ratelimit does: any limits file and any requests, given to both."""

import re
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from envoy.service.ratelimit.v3.rls_pb2 import RateLimitRequest, RateLimitResponse
from google.protobuf.json_format import MessageToDict
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mixer.ratelimit import shown
from mixer.ratelimit.tree import SECONDS
from tests.components.processes import Redis, wait_until
from tests.ratelimit.generated import ALL, DOMAINS, Files, Terms, Tree, files_of, odd_files, requests, trees
from tests.ratelimit.pair import Answer, Exchange, Pair, pair

Case = tuple[dict[str, Tree], list[RateLimitRequest]]

examples = settings(
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture(scope="module")
def plain(redis_server: Redis) -> Iterator[Pair]:
    with pair(redis_server) as both:
        yield both


@pytest.fixture(scope="module")
def special(redis_server: Redis) -> Iterator[Pair]:
    """With the settings that are off otherwise."""
    env = {"SHADOW_MODE": "true", "MERGE_DOMAIN_CONFIG": "true", "LOCAL_CACHE_SIZE_IN_BYTES": "1000000"}
    with pair(redis_server, env, shadow_mode=True, merge_domain_config=True, local_cache={}) as both:
        yield both


@pytest.fixture(scope="module")
def counting(redis_server: Redis) -> Iterator[Pair]:
    """With a local cache, which has statistics of its own."""
    with pair(redis_server, {"LOCAL_CACHE_SIZE_IN_BYTES": "1000000"}, local_cache={}) as both:
        yield both


def cases(terms: Terms = ALL) -> st.SearchStrategy[Case]:
    return (
        trees(terms)
        .filter(lambda found: any(tree["descriptors"] for tree in found.values()))
        .flatmap(lambda found: st.tuples(st.just(found), requests(found, terms)))
    )


def told(answer: Answer, says_more: bool = True) -> Any:
    """An answer in a form in which two can be compared. `says_more`: with headers and the request's metadata."""
    if not isinstance(answer, RateLimitResponse):
        return "error"
    found = MessageToDict(answer, preserving_proto_field_name=True)
    if not says_more:
        del found["dynamic_metadata"]
        found.pop("response_headers_to_add", None)
        return found
    # Retry-After is Mixer's own, for those over their limit.
    headers = [each for each in found.pop("response_headers_to_add", []) if each["key"] != "Retry-After"]
    found |= {"response_headers_to_add": headers} if headers else {}
    metadata = found["dynamic_metadata"]
    for name in ("mixer", "quotaModeEnabled", "quotaModeViolations"):
        metadata.pop(name, None)
    for descriptor in metadata.get("descriptors", []):
        if "limit" in descriptor:  # of which Go says that it writes it now so, now so
            descriptor["limit"] = descriptor["limit"].replace("  ", " ")
    return found


def since_mid_2026(answer: Answer, second: int, is_shadow: bool) -> Answer:
    """What the peer's next versions make of quotas: one that is over says so, and all together refuse."""
    if not isinstance(answer, RateLimitResponse):
        return answer
    quotas = [status for status in answer.statuses if status.current_limit.name.startswith("q")]
    over = [status for status in quotas if not status.HasField("duration_until_reset")]
    for status in over:
        seconds = SECONDS[status.current_limit.unit]
        status.code = RateLimitResponse.OVER_LIMIT
        status.duration_until_reset.seconds = seconds - second % seconds
    if over and len(over) == len(quotas) and not is_shadow:
        answer.overall_code = RateLimitResponse.OVER_LIMIT
    return answer


def assert_alike(exchange: Exchange, is_shadow: bool = False, says_more: bool = True) -> None:
    for request, peer, ours in zip(exchange.requests, exchange.peer, exchange.ours, strict=True):
        expected = since_mid_2026(peer, exchange.second, is_shadow)
        assert told(ours, says_more) == told(expected, says_more), request
        if isinstance(ours, RateLimitResponse):
            code = RateLimitResponse.Code.Name(ours.overall_code)
            assert MessageToDict(ours.dynamic_metadata)["mixer"]["code"] == code
        else:
            assert ours == grpc.StatusCode.INVALID_ARGUMENT


@settings(examples, max_examples=100)
@given(cases(), st.sampled_from(("mixer", "ratelimit")), st.booleans())
def test_requests_are_answered_alike(plain: Pair, case: Case, key_format: str, says_more: bool) -> None:
    files, asked = case
    exchange = plain.ask(
        files_of(files),
        asked,
        key_format=key_format,
        response_headers={"enabled": says_more},
        response_dynamic_metadata=says_more,
    )
    assert_alike(exchange, says_more=says_more)
    peer, ours = exchange.counters
    if key_format == "ratelimit":
        assert ours == peer
    else:
        assert sorted(ours.values()) == sorted(peer.values())


@settings(examples, max_examples=60)
@given(st.booleans().flatmap(lambda merged: cases(Terms(overrides=False, merged=merged))))
def test_requests_are_answered_alike_in_shadow_mode_and_from_the_local_cache(
    special: Pair, case: Case
) -> None:
    files, asked = case
    exchange = special.ask(files_of(files), asked, key_format="ratelimit")
    assert_alike(exchange, is_shadow=True)
    peer, ours = exchange.counters
    assert ours == peer


@settings(examples, max_examples=200)
@given(odd_files())
def test_files_are_taken_or_refused_alike(plain: Pair, files: Files) -> None:
    refused, limits, _ = plain.load(files)
    assert (refused.ours is None) == (refused.peer is None), refused
    if limits is not None:
        assert sorted(shown.dump(limits).splitlines()) == sorted(plain.peer.debug("/rlconfig").splitlines())


def statistic_cases() -> st.SearchStrategy[Case]:
    # Numbers beyond 2**24 it multiplies by 0.8 in 32 bits, and is off by some.
    return cases(Terms(overrides=False, key_patterns=False, large=False))


@settings(examples, max_examples=60)
@given(statistic_cases())
def test_statistics_are_alike(counting: Pair, case: Case) -> None:
    files, asked = case
    exchange = counting.ask(files_of(files), asked)
    assert_alike(exchange)
    assert our_statistics(exchange) == their_statistics(counting.statistics(exchange))


Statistics = dict[str, dict[str, int]]  # by limit, what is not 0


def our_statistics(exchange: Exchange) -> Statistics:
    """By the names that the peer has for limits and statistics."""
    full_keys = {
        limit.label: limit.full_key
        for domain in exchange.limits.domains.values()
        for limit in domain.limits()
    }
    found: Statistics = {}
    for metric in exchange.metrics.limit_hits.collect():
        for _, labels, value, *_ in metric.samples:
            label = full_keys.get(labels["limit"], labels["limit"])
            of_limit = found.setdefault(as_statistic(label), {})
            kind = labels["outcome"]
            for name in ("total_hits", *PEER_STATISTICS[kind]):
                of_limit[name] = of_limit.get(name, 0) + int(value)
    return found


def their_statistics(statistics: Statistics) -> Statistics:
    found: Statistics = {}
    for limit, kinds in statistics.items():
        of_limit = found.setdefault(as_statistic(limit), {})
        for name, value in kinds.items():
            # within_limit leaves out what passes of hits that cross the limit; ours have it. In shadow mode we do not
            # tell where it was known that a limit is over.
            left_out = {"within_limit", "over_limit_with_local_cache" if kinds.get("shadow_mode") else ""}
            if value and name not in left_out:
                of_limit[name] = of_limit.get(name, 0) + value
        if not of_limit:
            del found[as_statistic(limit)]
    return found


# Of our outcomes, in which of the peer's statistics their hits are too.
PEER_STATISTICS = {
    "within": (),
    "near": ("near_limit",),
    "over": ("over_limit",),
    "over_local": ("over_limit", "over_limit_with_local_cache"),
    "shadow": ("over_limit", "shadow_mode"),
    "given_back": (),
}


def as_statistic(label: str) -> str:
    """A limit as the peer names it in statistics; an empty value has a `_` there with detailed_metric alone."""
    label = label.replace("127.0.0.1", "127_0_0_1").replace(":", "_").replace("|", "_")
    return re.sub(r"_(?=\.|$)", "", label)


# What is known to differ, each with its reason. If one of these fails, the peer has changed.

LIMIT = "rate_limit: {unit: day, requests_per_unit: 5}"


def limit_found(answer: Answer) -> bool:
    assert isinstance(answer, RateLimitResponse)
    return answer.statuses[0].HasField("current_limit")


def asked_for(*entries: tuple[str, str]) -> RateLimitRequest:
    request = RateLimitRequest(domain=DOMAINS[0])
    descriptor = request.descriptors.add()
    for key, value in entries:
        descriptor.entries.add(key=key, value=value)
    return request


def of_text(text: str) -> Files:
    return {"d.yaml": f"domain: {DOMAINS[0]}\n{text}".encode()}


@pytest.mark.parametrize(
    ("descriptor", "entry", "by_peer", "by_us"),
    [
        # It joins key and value, so that one stands for another.
        ("key: a_b", ("a", "b"), True, False),
        ("key: a, value: b*", ("a_b", "c"), True, False),
        # It knows `*` at the end alone, and one of them; its next versions (mid-2026) know it as we do.
        ("key: a, value: '*b'", ("a", "xb"), False, True),
        ("key: a, value: 'x**'", ("a", "xy"), False, True),
        ("key: a*, value: x", ("ab", "x"), False, True),
    ],
)
def test_a_limit_that_only_one_of_them_finds(
    plain: Pair, descriptor: str, entry: tuple[str, str], by_peer: bool, by_us: bool
) -> None:
    exchange = plain.ask(of_text(f"descriptors: [{{{descriptor}, {LIMIT}}}]"), [asked_for(entry)])
    assert (limit_found(exchange.peer[0]), limit_found(exchange.ours[0])) == (by_peer, by_us)


@pytest.mark.parametrize(
    ("text", "by_peer", "by_us"),
    [
        (f"descriptors: [{{key: a_b, {LIMIT}}}, {{key: a, value: b, {LIMIT}}}]", False, True),  # joined
        (f"descriptors: [{{key: a, value: '*b', share_threshold: true, {LIMIT}}}]", False, True),  # mid-2026
        (f"descriptors: [{{key: a, metadata: {{b: 1}}, {LIMIT}}}]", False, True),  # mid-2026
        ("descriptors: [{key: a, rate_limit: {window: 5m, requests_per_unit: 5}}]", False, True),  # ours
    ],
)
def test_files_that_only_one_of_them_takes(plain: Pair, text: str, by_peer: bool, by_us: bool) -> None:
    refused, _, _ = plain.load(of_text(text))
    assert (refused.peer is None, refused.ours is None) == (by_peer, by_us)


def test_hits_beyond_64_bits_are_an_error_there_and_over_the_limit_here(plain: Pair) -> None:
    request = asked_for(("a", "x"))
    request.descriptors[0].hits_addend.value = 2**63
    exchange = plain.ask(of_text(f"descriptors: [{{key: a, {LIMIT}}}]"), [request])
    assert (told(exchange.peer[0]), exchange.ours[0].overall_code) == ("error", RateLimitResponse.OVER_LIMIT)


def test_a_limit_of_a_request_is_judged_by_itself_and_not_by_the_local_cache(special: Pair) -> None:
    """There a counter that is over one limit is over any other for the rest of its window."""
    over, own = asked_for(("a", "x")), asked_for(("a", "x"))
    over.hits_addend = 6
    own.descriptors[0].limit.requests_per_unit, own.descriptors[0].limit.unit = 100, 4
    exchange = special.ask(of_text(f"descriptors: [{{key: a, {LIMIT}}}]"), [over, own])
    codes = [answer.statuses[0].code for answer in (exchange.peer[1], exchange.ours[1])]
    assert codes == [RateLimitResponse.OVER_LIMIT, RateLimitResponse.OK]


def test_a_limit_of_a_request_without_a_unit_ends_that_server_and_is_a_clear_error_here(
    redis_server: Redis,
) -> None:
    request = asked_for(("a", "x"))
    request.descriptors[0].limit.requests_per_unit = 1
    with pair(redis_server) as both:
        exchange = both.ask(of_text(f"descriptors: [{{key: a, {LIMIT}}}]"), [request])
        assert (exchange.peer, exchange.ours) == (
            [grpc.StatusCode.UNAVAILABLE],
            [grpc.StatusCode.INVALID_ARGUMENT],
        )
        wait_until(lambda: not both.peer.running)

"""Every store does what `mixer.ratelimit.algorithms` says, for any sequence of times, hits and names."""

import asyncio
import dataclasses
import itertools
import uuid
from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from mixer import config
from mixer.metrics import Metrics
from mixer.ratelimit.cluster import ClusterCounters
from mixer.ratelimit.counters import MAX_HITS, MAX_LIMIT, SECOND, SET_BACK, Counters, Hit, Outcome, Rule
from mixer.ratelimit.memory import MemoryCounters
from mixer.ratelimit.redis import RedisCounters
from tests.components.processes import Cluster
from tests.ratelimit.counting import NOW, outcomes
from tests.ratelimit.loop import run
from tests.ratelimit.model import Model

YEAR = 365 * 86400
HOLDERS = ("r1", "r2", "r3", "r4")
Step = tuple[list[Hit], int]  # hits of one call, and when

# Few values, so that sequences meet their limits; and the extremes, where numbers stop being exact if they ever do.
SMALL = st.integers(0, 6)
LIMITS = st.one_of(SMALL, st.integers(0, MAX_LIMIT), st.just(MAX_LIMIT))
WINDOWS = st.one_of(st.sampled_from((1, 2, 60)), st.integers(1, YEAR), st.just(YEAR)).map(
    lambda seconds: seconds * SECOND
)
HITS = st.one_of(st.integers(-3, 3), st.integers(-MAX_HITS, MAX_HITS), st.sampled_from((-MAX_HITS, MAX_HITS)))


@st.composite
def rules(draw: st.DrawFn) -> Rule:
    algorithm = draw(st.sampled_from(("fixed_window", "sliding_window", "token_bucket", "concurrency")))
    limit, window, burst = draw(LIMITS), draw(WINDOWS), None
    if algorithm == "concurrency":
        limit = draw(st.integers(0, 3))
    elif algorithm == "token_bucket" and limit and draw(st.booleans()):
        burst = draw(
            st.one_of(st.integers(1, 6), st.integers(1, min(MAX_LIMIT, 2**51 // (window // limit + 1))))
        )
    return Rule(limit, window, algorithm, burst, counts_over=draw(st.booleans()))


@st.composite
def sequences(draw: st.DrawFn) -> list[list[Step]]:
    """Steps in groups: those of a group are under way at once."""
    known = draw(st.lists(rules(), min_size=1, max_size=3))
    windows = [rule.window for rule in known]
    moves = st.one_of(
        st.integers(0, 3 * SECOND),
        st.sampled_from(windows).flatmap(lambda window: st.integers(0, 2 * window + 1)),
        st.sampled_from((*windows, *(window // 2 for window in windows), SECOND, 0, 1)),
        st.integers(-2 * SECOND, 0),  # a caller whose clock is behind
    )
    hits = st.builds(Hit, st.sampled_from("ab"), st.sampled_from(known), HITS, st.sampled_from(HOLDERS))
    groups, now, latest = [], NOW, NOW
    for size in draw(st.lists(st.integers(1, 4), max_size=8)):
        group = []
        for _ in range(size):
            now = max(NOW, latest - SET_BACK, now + draw(moves))
            latest = max(latest, now)
            group.append((draw(st.lists(hits, max_size=4)), now))
        groups.append(group)
    return groups


class Stores:
    """New counters of each kind, without what may answer from elsewhere."""

    def __init__(self, url: str, cluster_url: str) -> None:
        self._url, self._cluster_url = url, cluster_url
        self._names = itertools.count()
        self._prefix = uuid.uuid4()

    def new(self) -> dict[str, Counters]:
        prefix = f"{self._prefix}{next(self._names)}:"

        def settings(url: str, mode: str) -> config.RateLimits:
            redis = {"url": url, "mode": mode, "key_prefix": prefix, "timeout": "5s", "connect_timeout": "5s"}
            return config.RateLimits.model_validate({"redis": redis, "local_cache": "off"})

        metrics = Metrics(CollectorRegistry())
        return {
            "memory": MemoryCounters(metrics, lambda: NOW / SECOND),
            "redis": RedisCounters(settings(self._url, "single"), metrics),
            "cluster": ClusterCounters(settings(self._cluster_url, "cluster"), metrics),
        }


@pytest.fixture
def stores(redis_url: str, redis_cluster: Cluster) -> Stores:
    return Stores(redis_url, redis_cluster.url)


async def done(counters: Counters, groups: Sequence[Sequence[Step]]) -> list[list[Outcome]]:
    await counters.start()
    try:
        return [
            result
            for group in groups
            for result in await asyncio.gather(*(outcomes(counters, hits, now) for hits, now in group))
        ]
    finally:
        await counters.close()


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sequences())
def test_any_sequence_has_the_outcomes_of_the_model(stores: Stores, groups: list[list[Step]]) -> None:
    model = Model()
    expected = [model.hit(hits, now) for group in groups for hits, now in group]
    for name, counters in stores.new().items():
        assert (name, run(done(counters, groups))) == (name, expected)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.builds(
        Rule,
        st.integers(1, 5),
        st.just(60 * SECOND),
        st.sampled_from(("fixed_window", "sliding_window", "token_bucket")),
        counts_over=st.booleans(),
    ),
    st.integers(1, 7),
    st.lists(
        st.tuples(st.integers(-1, 3), st.integers(-SET_BACK // 20, 50 * SECOND), st.booleans()),
        min_size=4,
        max_size=20,
    ),
)
def test_one_counter_follows_the_model_through_its_windows_and_changes_of_its_limit(
    stores: Stores, rule: Rule, other_limit: int, moves: list[tuple[int, int, bool]]
) -> None:
    rules = rule, dataclasses.replace(rule, limit=other_limit)
    times = itertools.accumulate((pause for _, pause, _ in moves), initial=NOW)
    groups = [
        [([Hit("a", rules[is_other], hits)], now)]
        for (hits, _, is_other), now in zip(moves, times, strict=False)
    ]
    model = Model()
    expected = [model.hit(hits, now) for group in groups for hits, now in group]
    for name, counters in stores.new().items():
        assert (name, run(done(counters, groups))) == (name, expected)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(
            st.sampled_from((-1, 0, 1, "release")),
            st.sampled_from(HOLDERS),
            st.sampled_from(("a", "b")),
            st.integers(0, 4 * SECOND),
        ),
        max_size=20,
    )
)
def test_slots_are_taken_given_back_and_released_as_in_the_model(
    stores: Stores, moves: list[tuple[int | str, str, str, int]]
) -> None:
    rule = Rule(2, 5 * SECOND, "concurrency")

    async def scenario(counters: Counters) -> list[tuple[object, object]]:
        model, seen, now = Model(), [], NOW
        await counters.start()
        try:
            for what, holder, name, pause in moves:
                now += pause
                if isinstance(what, int):
                    hits = [Hit(name, rule, what, holder)]
                    pair = model.hit(hits, now), await outcomes(counters, hits, now)
                else:
                    holders = [holder, "nobody"]
                    pair = model.release(holders, now), await counters.release(holders, now)
                seen.append(pair)
        finally:
            await counters.close()
        return seen

    for name, counters in stores.new().items():
        for expected, got in run(scenario(counters)):
            assert (name, got) == (name, expected)

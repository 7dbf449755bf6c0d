"""What a process answers without Redis: what is over, and what it took ahead. Always sound, and never for long."""

import asyncio
import itertools
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from mixer import config
from mixer.metrics import Metrics
from mixer.ratelimit.counters import SECOND, Hit, Outcome, Rule
from mixer.ratelimit.redis import RedisCounters
from tests.ratelimit.counting import NOW, one, outcome
from tests.ratelimit.loop import run
from tests.ratelimit.model import Model

MINUTE = 60 * SECOND


class Clients:
    """Clients of one Redis, with names that nobody had before."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._names = itertools.count()
        self._prefix = uuid.uuid4()

    @asynccontextmanager
    async def opened(self, count: int = 1, **local_cache: Any) -> AsyncIterator[list[RedisCounters]]:
        redis = {
            "url": self._url,
            "key_prefix": f"{self._prefix}{next(self._names)}:",
            "timeout": "5s",
            "connect_timeout": "5s",
        }
        chosen = config.RateLimits.model_validate({"redis": redis, "local_cache": local_cache})
        clients = [RedisCounters(chosen, Metrics(CollectorRegistry())) for _ in range(count)]
        for client in clients:
            await client.start()
        try:
            yield clients
        finally:
            for client in clients:
                await client.close()


@pytest.fixture
def clients(redis_url: str) -> Clients:
    return Clients(redis_url)


def seen(clients: Clients, *steps: tuple[int, Hit, int], **local_cache: Any) -> list[tuple[bool, bool]]:
    """Of hits of clients (by their number) at times after `NOW`: whether each is over, and answered locally."""

    async def scenario() -> list[Outcome]:
        count = 1 + max(number for number, _, _ in steps)
        async with clients.opened(count, **local_cache) as opened:
            return [await outcome(opened[number], hit, NOW + after) for number, hit, after in steps]

    return [(found.over, found.local) for found in run(scenario())]


PASSED, REFUSED, KNOWN = (False, False), (True, False), (True, True)
RULES = {
    "fixed": {"limit": 1},
    "fixed, exact": {"limit": 1, "counts_over": False},
    "sliding": {"limit": 1, "algorithm": "sliding_window", "counts_over": False},
    "bucket": {"limit": 1, "algorithm": "token_bucket", "counts_over": False},
}


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_what_is_over_is_known_until_it_can_pass_again(clients: Clients, rule: dict[str, Any]) -> None:
    hit = one("a", **rule)
    later = 2 * MINUTE
    steps = [(0, hit, 0), (0, hit, 0), (0, hit, 1), (0, hit, 30 * SECOND), (0, hit, later)]
    assert seen(clients, *steps, max_age="1h") == [PASSED, REFUSED, KNOWN, KNOWN, PASSED]


def test_a_known_answer_says_what_is_left_of_the_window(clients: Clients) -> None:
    async def scenario() -> list[Outcome]:
        async with clients.opened(max_age="1h") as (client,):
            hit = one("a", limit=1)
            return [await outcome(client, hit, NOW + after * SECOND) for after in (0, 0, 20)]

    assert run(scenario())[2] == Outcome(True, 2, 0, 40, 40, local=True)


def test_what_this_process_gives_back_passes_at_once(clients: Clients) -> None:
    hit, back = one("a", limit=1), one("a", -2, limit=1)
    steps = [(0, hit, 0), (0, hit, 0), (0, hit, 0), (0, back, 0), (0, hit, 0)]
    assert seen(clients, *steps, max_age="1h") == [PASSED, REFUSED, KNOWN, PASSED, PASSED]


def test_what_another_process_gives_back_is_seen_after_the_age_at_the_latest(clients: Clients) -> None:
    hit, back = one("a", limit=1), one("a", -2, limit=1)
    steps = [(0, hit, 0), (0, hit, 0), (1, back, 0), (0, hit, 4 * SECOND), (0, hit, 5 * SECOND)]
    assert seen(clients, *steps, max_age="5s") == [PASSED, REFUSED, PASSED, KNOWN, PASSED]


def test_a_look_and_a_smaller_hit_are_asked_of_the_store(clients: Clients) -> None:
    rule = {"limit": 3, "counts_over": False}
    steps = [
        (0, one("a", 5, **rule), 0),
        (0, one("a", 5, **rule), 0),
        (0, one("a", 0, **rule), 0),
        (0, one("a", 3, **rule), 0),
    ]
    assert seen(clients, *steps, max_age="1h") == [REFUSED, KNOWN, PASSED, PASSED]


def test_slots_are_never_answered_from_memory(clients: Clients) -> None:
    rule = {"limit": 1, "algorithm": "concurrency"}
    first, second = one("a", holder="x", **rule), one("a", holder="y", **rule)
    steps = [(0, first, 0), (0, second, 0), (0, second, 0)]
    assert seen(clients, *steps, max_age="1h") == [PASSED, REFUSED, REFUSED]


def test_no_more_is_known_than_there_is_room_for(clients: Clients) -> None:
    hits = [one(name, limit=0) for name in "abc"]
    steps = [(0, hit, 0) for hit in (*hits, *hits)]
    assert seen(clients, *steps, max_entries=2, max_age="1h") == [REFUSED] * 6
    assert seen(clients, *[(0, hit, 0) for hit in (*hits, *reversed(hits))], max_entries=2, max_age="1h")[
        3:
    ] == [
        KNOWN,
        KNOWN,
        REFUSED,
    ]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(
        [Rule(2, MINUTE, "fixed_window", counts_over=False), Rule(2, MINUTE, "fixed_window")]
        + [Rule(3, MINUTE, name, counts_over=False) for name in ("sliding_window", "token_bucket")]
    ),  # type: ignore[arg-type]
    st.lists(st.tuples(st.integers(0, 4), st.sampled_from("ab"), st.integers(0, 25 * SECOND)), max_size=25),
)
def test_nobody_is_refused_or_passed_whom_the_model_would_not(
    clients: Clients, rule: Rule, moves: list[tuple[int, str, int]]
) -> None:
    async def scenario() -> list[tuple[bool, bool]]:
        model, now, found = Model(), NOW, []
        async with clients.opened(max_age="1h") as (client,):
            for hits, name, pause in moves:
                now += pause
                hit = Hit(name, rule, hits)
                found.append((model.hit([hit], now)[0].over, (await outcome(client, hit, now)).over))
        return found

    assert all(expected == got for expected, got in run(scenario()) if expected is not None)


# Lots.


def test_hits_of_a_lot_need_one_round_trip(clients: Clients) -> None:
    hit = one("a", limit=10, lot=4)
    found = seen(clients, *[(0, hit, 0)] * 12)
    remote, local = (False, False), (False, True)
    assert found == [remote, local, local, local] * 2 + [remote, local] + [REFUSED, KNOWN]


def test_what_a_process_took_ahead_is_lost_to_others_and_never_admitted_twice(clients: Clients) -> None:
    hit = one("a", limit=6, lot=4)
    steps = [
        (0, hit, 0),
        (1, hit, 0),
        (1, hit, 0),
        (1, hit, 0),
        (0, hit, 0),
        (0, hit, 0),
        (0, hit, 0),
        (0, hit, 0),
    ]
    found = [over for over, _ in seen(clients, *steps)]
    assert found == [False, False, False, True, False, False, False, True]


def test_a_lot_ends_with_its_window(clients: Clients) -> None:
    hit = one("a", limit=4, lot=4)
    found = seen(clients, (0, hit, 0), (0, hit, 0), (0, hit, MINUTE), (0, hit, MINUTE))
    assert found == [(False, False), (False, True)] * 2


def test_calls_at_once_take_one_lot_together(clients: Clients) -> None:
    async def scenario() -> tuple[int, int]:
        async with clients.opened(2) as (first, second):
            hit = one("a", limit=100, lot=10)
            found = await asyncio.gather(*(outcome(first, hit) for _ in range(30)))
            looked = await outcome(second, one("a", 0, limit=100, lot=10))
            return sum(not each.over for each in found), looked.used

    assert run(scenario()) == (30, 39)


def test_hits_of_more_than_one_and_those_given_back_go_past_the_lot(clients: Clients) -> None:
    def hit(hits: int) -> Hit:
        return one("a", hits, limit=10, lot=4)

    found = seen(clients, (0, hit(1), 0), (0, hit(6), 0), (0, hit(7), 0), (0, hit(-6), 0), (0, hit(6), 0))
    assert [over for over, _ in found] == [False, False, True, False, False]


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mixer.ratelimit.local.MAX_LOTS", 2)


@pytest.mark.usefixtures("few")
def test_no_more_lots_are_kept_than_there_is_room_for(clients: Clients) -> None:
    steps = [(0, one(name, limit=10, lot=4), 0) for name in "abcc"]
    assert seen(clients, *steps) == [(False, False)] * 4
    steps = [
        (0, one(name, limit=10, lot=4), after)
        for name, after in (("a", 0), ("b", 0), ("c", MINUTE), ("c", MINUTE))
    ]
    assert seen(clients, *steps)[3] == (False, True)

"""Counters in memory: what they forget, and what they never hold."""

import asyncio

import pytest
from prometheus_client import CollectorRegistry

from mixer.errors import CounterError
from mixer.metrics import Metrics
from mixer.ratelimit.counters import SECOND
from mixer.ratelimit.memory import MemoryCounters
from tests.ratelimit.counting import START, counts, one, outcome


class Memory:
    """Counters with room for three, and a clock that the test sets."""

    def __init__(self) -> None:
        self.now = float(START)
        self.registry = CollectorRegistry()
        self.counters = MemoryCounters(Metrics(self.registry), lambda: self.now, max_counters=3)

    def hit(self, name: str, at: int = START, seconds: int = 60, hits: int = 1) -> int:
        (count,) = asyncio.run(counts(self.counters, [one(name, hits, seconds)], at * SECOND))
        return count

    def refused(self) -> float:
        return (
            self.registry.get_sample_value(
                "mixer_counter_errors_total", {"store": "memory", "reason": "full"}
            )
            or 0
        )


def test_a_counter_that_has_no_room_is_refused_rather_than_another_forgotten() -> None:
    memory = Memory()
    for name in "abc":
        memory.hit(name)
    with pytest.raises(CounterError) as caught:
        memory.hit("d")
    assert (caught.value.reason, memory.refused()) == ("full", 1)
    assert str(caught.value) == "3 counters in memory already; use rate_limits.counters: redis"
    assert memory.hit("a") == 2


def test_a_look_takes_no_room() -> None:
    memory = Memory()
    for name in "abcdef":
        assert memory.hit(name, hits=0) == 0
    assert [memory.hit(name) for name in "abc"] == [1, 1, 1]


def test_windows_that_are_over_make_room() -> None:
    memory = Memory()
    for name in "abc":
        memory.hit(name)
    memory.now = START + 119
    with pytest.raises(CounterError):
        memory.hit("d", START + 60)
    memory.now = START + 120
    assert [memory.hit(name, START + 120) for name in "def"] == [1, 1, 1]


def test_windows_of_all_lengths_that_are_over_make_room() -> None:
    memory = Memory()
    for seconds in (1, 60, 86400):
        memory.hit("a", seconds=seconds)
    memory.now = START + 200
    assert memory.hit("b", seconds=86400) == 1
    assert memory.hit("c", seconds=86400) == 1
    assert memory.hit("a", seconds=86400) == 2


def test_the_window_before_is_kept_for_a_clock_that_is_set_back() -> None:
    memory = Memory()
    memory.now = START + 59
    memory.hit("a")
    memory.now = START + 60
    memory.hit("a", START + 60)
    memory.now = START + 59
    assert memory.hit("a") == 2


@pytest.mark.parametrize("algorithm", ["sliding_window", "token_bucket", "concurrency"])
def test_a_clock_that_is_set_back_by_an_hour_keeps_nobody_out_for_an_hour(algorithm: str) -> None:
    memory = Memory()

    def is_over(at: int, holder: str = "") -> bool:
        hit = one("a", holder=holder, limit=2, algorithm=algorithm)
        return asyncio.run(outcome(memory.counters, hit, at * SECOND)).over

    later = START + 3600 + 70
    assert [is_over(later, holder) for holder in "abc"] == [False, False, True]
    assert is_over(later - 3600, "d")
    assert not is_over(later - 3600 + 120, "d")
    assert not is_over(later + 120, "e")


def test_windows_of_a_time_that_has_not_come_are_forgotten() -> None:
    memory = Memory()
    for name in "abc":
        memory.hit(name, START + 3600)
    assert [memory.hit(name) for name in "def"] == [1, 1, 1]

"""How long what is put into a queue will wait there."""

import pytest

from mixer.outflow import Outflow


def served(rate: float, seconds: float, lump: int = 1) -> tuple[Outflow, float]:
    """A queue that has stood for so long, from which `rate` a second were taken; and what time it is."""
    outflow = Outflow()
    now = 100.0
    outflow.put(now)
    for _ in range(round(seconds * rate / lump)):
        now += lump / rate
        outflow.took(lump, now)
    return outflow, now


@pytest.mark.parametrize("lump", [1, 10])
@pytest.mark.parametrize("seconds", [0.1, 3.0])
def test_wait_is_what_is_ahead_by_the_rate(seconds: float, lump: int) -> None:
    outflow, now = served(1000, seconds, lump)
    assert outflow.wait(200, now) == pytest.approx(0.2, rel=0.01)


def test_rate_of_long_ago_is_forgotten() -> None:
    outflow, now = served(1000, 2)
    for _ in range(200):
        now += 0.01
        outflow.took(1, now)
    assert outflow.wait(100, now) == pytest.approx(1.0, rel=0.1)


def test_nothing_is_known_of_a_queue_that_does_not_stand() -> None:
    assert Outflow().wait(1000, 100.0) == 0
    outflow, now = served(1000, 0.01)
    assert outflow.wait(1000, now) == 0
    outflow, now = served(1000, 1)
    outflow.emptied()
    outflow.put(now)
    assert outflow.wait(1000, now + 1) == 0


def test_nothing_is_known_of_a_few_lumps() -> None:
    outflow, now = served(1000, 0.3, 100)
    assert outflow.wait(1000, now) == 0
    assert not outflow.is_late(1000, 0.1, now)


def test_who_would_wait_for_more_than_half_of_its_time_is_late() -> None:
    outflow, now = served(1000, 1)
    assert not outflow.is_late(90, 0.2, now)
    assert outflow.is_late(110, 0.2, now)


def test_who_comes_where_nothing_moves_is_late_once_its_own_time_has_passed_so() -> None:
    outflow = Outflow()
    outflow.put(100.0)
    assert not outflow.is_late(1, 0.2, 100.1)
    assert outflow.is_late(1, 0.2, 100.3)
    assert not outflow.is_late(1, 0.5, 100.3)

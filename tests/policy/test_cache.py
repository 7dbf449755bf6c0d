"""The decision cache."""

import pytest
from prometheus_client import CollectorRegistry

from mixer.metrics import Metrics
from mixer.policy.cache import DecisionCache


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


def cache(registry: CollectorRegistry, max_entries: int = 10, ttl: float = 60) -> DecisionCache:
    return DecisionCache(max_entries, ttl, Metrics(registry))


def test_entry_is_there_until_its_time_is_over(registry: CollectorRegistry) -> None:
    kept = cache(registry, ttl=60)
    kept.put(b"a", "true", 100.0, None)
    assert kept.get(b"a", 159.9) == "true"
    assert kept.get(b"a", 160.0) is None
    assert kept.get(b"b", 100.0) is None


def test_entry_ends_when_the_engine_said_its_answer_does(registry: CollectorRegistry) -> None:
    kept = cache(registry, ttl=60)
    kept.put(b"a", "true", 100.0, 110.0)
    assert kept.get(b"a", 109.9) == "true"
    assert kept.get(b"a", 110.0) is None


def test_answer_that_has_ended_already_is_not_kept(registry: CollectorRegistry) -> None:
    kept = cache(registry)
    kept.put(b"a", "true", 100.0, 100.0)
    assert kept.get(b"a", 99.0) is None


def test_entry_does_not_outlive_a_clock_that_is_set_back(registry: CollectorRegistry) -> None:
    kept = cache(registry, ttl=60)
    kept.put(b"a", "true", 3700.0, None)
    assert kept.get(b"a", 100.0) is None
    assert kept.get(b"a", 3700.0) is None


def test_least_recently_used_goes_first(registry: CollectorRegistry) -> None:
    kept = cache(registry, max_entries=2)
    kept.put(b"a", "1", 0.0, None)
    kept.put(b"b", "2", 0.0, None)
    kept.get(b"a", 0.0)
    kept.put(b"c", "3", 0.0, None)
    assert [kept.get(key, 0.0) for key in (b"a", b"b", b"c")] == ["1", None, "3"]
    assert registry.get_sample_value("mixer_decision_cache_evictions_total") == 1
    assert len(kept) == 2


def test_large_entries_are_fewer(registry: CollectorRegistry) -> None:
    """Whoever calls says how long a path is."""
    kept = DecisionCache(1000, 60, Metrics(registry), max_bytes=1_000_000)
    keys = [b"%d" % number + bytes(10_000) for number in range(300)]
    for key in keys:
        kept.put(key, 5_000 * "€", 0.0, None)
        kept.get(keys[0], 0.0)
    assert 45 < len(kept) < 50
    assert kept.get(keys[0], 0.0) is not None
    assert kept.get(keys[-1], 0.0) is not None
    assert registry.get_sample_value("mixer_decision_cache_evictions_total") == 300 - len(kept)
    kept.put(bytes(1_000_000), "true", 0.0, None)
    assert kept.get(keys[0], 0.0) is not None, "one that is too large takes no other's place"
    for moment in (100.0, 200.0):  # what has ended, or is put anew, is counted no more
        for key in keys[:40]:
            assert kept.get(key, moment) is None
            kept.put(key, "x", moment, None)
            kept.put(key, 5_000 * "€", moment, None)
        assert all(kept.get(key, moment) for key in keys[:40])
    kept.clear()
    kept.put(bytes(990_000), "true", 0.0, None)
    assert len(kept) == 1


def test_hits_are_counted(registry: CollectorRegistry) -> None:
    kept = cache(registry)
    kept.get(b"a", 0.0)
    kept.put(b"a", "1", 0.0, None)
    kept.get(b"a", 0.0)
    kept.get(b"a", 0.0)
    assert registry.get_sample_value("mixer_decision_cache_lookups_total", {"outcome": "hit"}) == 2


def test_entry_may_have_a_time_of_its_own(registry: CollectorRegistry) -> None:
    kept = cache(registry, ttl=60)
    kept.put(b"long", "1", 0.0, None, ttl=100.0)
    kept.put(b"ends", "2", 0.0, 50.0, ttl=100.0)
    kept.put(b"none", "3", 0.0, None, ttl=0.0)
    assert [kept.get(key, 49.9) for key in (b"long", b"ends", b"none")] == ["1", "2", None]
    assert [kept.get(key, 99.9) for key in (b"long", b"ends")] == ["1", None]
    assert kept.get(b"long", 100.0) is None

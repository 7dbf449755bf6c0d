"""One page of several workers: its totals, also when workers end, and when series are idle."""

from collections.abc import Mapping

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Info
from prometheus_client import Histogram as ClientHistogram

from mixer.admin.merged import Merged
from mixer.exposition import Buckets, Count, Exemplar, Family, Value, dump, load, page


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def requests(**counts: Value) -> list[Family]:
    """A worker's requests by their one label."""
    return [Family("requests", "Requests.", "counter", ("host",), [((h,), n) for h, n in counts.items()])]


def totals(merged: Merged, name: str = "requests") -> Mapping[str, Value]:
    (family,) = (family for family in merged.collect() if family.name == name)
    return {",".join(values): value for values, value in family.series}


def test_counts_of_workers_are_added_up() -> None:
    merged = Merged(100)
    merged.put("0", requests(a=1, b=2))
    merged.put("1", requests(a=10))
    assert totals(merged) == {"a": 11, "b": 2}
    merged.put("0", requests(a=3, b=2))
    assert totals(merged) == {"a": 13, "b": 2}


def test_what_a_dead_worker_counted_stays() -> None:
    merged = Merged(100)
    merged.put("0.1", requests(a=5, b=1))
    merged.put("1.1", requests(a=10))
    merged.retire("0.1")
    assert totals(merged) == {"a": 15, "b": 1}
    merged.put("0.2", requests(a=1))
    assert totals(merged) == {"a": 16, "b": 1}
    merged.retire("0.2")
    merged.put("0.3", requests(a=2))
    assert totals(merged) == {"a": 18, "b": 1}


def test_totals_never_fall_while_workers_come_and_go() -> None:
    merged, seen = Merged(100), 0.0
    for life in range(20):
        for count in (1, 5, 9):
            merged.put(f"0.{life}", requests(a=count))
            merged.put("1", requests(a=life))
            total = totals(merged)["a"]
            assert isinstance(total, int)
            assert total >= seen
            seen = total
        merged.retire(f"0.{life}")
    assert seen == 20 * 9 + 19


def test_histograms_are_added_up_bucket_by_bucket_with_the_latest_exemplars() -> None:
    def latency(*counts: int, at: float) -> list[Family]:
        state = Buckets(counts, float(sum(counts)), {1: Exemplar(f"{at:032.0f}", 3.0, at)})
        return [Family("latency", "Latency.", "histogram", ("host",), [(("a",), state)], (1, 5))]

    merged = Merged(100)
    merged.put("0", latency(1, 2, 3, at=7))
    merged.put("1", latency(10, 20, 30, at=9))
    merged.retire("0")
    state = totals(merged, "latency")["a"]
    assert isinstance(state, Buckets)
    assert (state.counts, state.sum) == ([11, 22, 33], 66.0)
    assert state.exemplars[1].timestamp == 9


def test_gauges_are_of_the_living_alone() -> None:
    merged = Merged(100)
    for worker, value in (("0", 3.0), ("1", 4.0)):
        merged.put(worker, [Family("in_flight", "Calls.", "gauge", (), [((), value)])])
    assert totals(merged, "in_flight") == {"": 7.0}
    merged.retire("0")
    assert totals(merged, "in_flight") == {"": 4.0}


def test_what_all_workers_say_alike_is_said_once() -> None:
    merged = Merged(100)
    for worker in ("0", "1"):
        ends = Family("mixer_certificate_not_after_timestamp_seconds", "Ends.", "gauge", (), [((), 1.8e9)])
        merged.put(worker, [Family("mixer_build", "Version.", "info", ("version",), [(("1",), 1.0)]), ends])
    assert totals(merged, "mixer_build") == {"1": 1.0}
    assert totals(merged, "mixer_certificate_not_after_timestamp_seconds") == {"": 1.8e9}


def test_series_idle_in_one_worker_stays_in_the_sum_while_another_counts_in_it() -> None:
    merged = Merged(100, ttl=60, clock=(clock := Clock()))
    merged.put("0", requests(a=100, b=1))
    merged.put("1", requests(a=1))
    clock.now += 90
    merged.put("0", requests(b=2))
    merged.put("1", requests(a=2))
    assert totals(merged) == {"a": 102, "b": 2}
    merged.put("0", requests(a=1, b=2))
    assert totals(merged) == {"a": 103, "b": 2}


def test_series_idle_in_all_workers_goes_whole() -> None:
    merged = Merged(100, ttl=60, clock=(clock := Clock()))
    merged.put("0", requests(a=100))
    merged.retire("0")
    merged.put("1", requests(a=1, b=1))
    clock.now += 50
    merged.put("1", requests(a=1, b=1))
    clock.now += 40
    merged.put("1", requests(b=2))
    assert totals(merged) == {"b": 2}


def test_series_of_the_dead_goes_when_nobody_counts_in_it() -> None:
    merged = Merged(100, ttl=60, clock=(clock := Clock()))
    merged.put("0", requests(a=100))
    merged.retire("0")
    clock.now += 59
    merged.put("1", requests(b=1))
    assert totals(merged) == {"a": 100, "b": 1}
    clock.now += 1
    merged.put("1", requests(b=1))
    assert totals(merged) == {"b": 1}


def test_what_is_kept_of_the_dead_is_bounded_and_none_is_lost() -> None:
    merged = Merged(10)
    for life in range(100):
        merged.put(f"0.{life}", requests(**{f"h{life}-{n}": 1 for n in range(5)}))
        merged.retire(f"0.{life}")
    counted = totals(merged)
    assert len(counted) == 11
    assert counted["overflow"] == 490


def test_metric_of_another_form_begins_anew() -> None:
    merged = Merged(100)
    merged.put("0", requests(a=5))
    merged.retire("0")
    merged.put("1", [Family("requests", "Requests.", "counter", ("host", "code"), [(("a", "200"), 1)])])
    assert totals(merged) == {"a,200": 1}


def test_worker_without_series_takes_none_away() -> None:
    merged = Merged(100)
    merged.put("0", requests(a=5))
    merged.put("1", [Family("requests", "Requests.", "counter", (), [])])
    assert totals(merged) == {"a": 5}


@pytest.mark.parametrize("accept", ["text/plain", "application/openmetrics-text; version=1.0.0"])
def test_page_of_one_worker_is_its_own(accept: str) -> None:
    own = CollectorRegistry()
    Counter("calls", "Calls.", ("code",), registry=own).labels('a "b"\n\\').inc(3)
    Counter("none_yet", "None.", ("code",), registry=own)
    Gauge("waiting", "Waiting.", registry=own).set(1.5)
    Info("build", "Build.", registry=own).info({"version": "1"})
    ClientHistogram("seconds", "Time.", buckets=(0.1, 1, 2.5), registry=own).observe(1)
    merged, registry = Merged(100), CollectorRegistry()
    registry.register(merged)
    merged.put("0", load(dump(own)))
    text, _ = page(registry, accept)
    theirs, _ = page(own, accept)
    assert lines(text) == lines(theirs)


def lines(text: bytes) -> list[str]:
    """Numbers as floats, and none of what tells when a series was created."""
    made = []
    for line in text.decode().splitlines():
        if "_created" not in line:
            start, _, number = line.rpartition(" ")
            made.append(line if line.startswith("#") else f"{start} {float(number)}")
    return made


def test_counter_keeps_its_exemplar() -> None:
    merged = Merged(100)
    merged.put("0", requests(a=Count(2, Exemplar("1" * 32, 1.0, 5.0))))
    merged.put("1", requests(a=Count(3, Exemplar("2" * 32, 1.0, 6.0))))
    assert totals(merged)["a"] == Count(5, Exemplar("2" * 32, 1.0, 6.0))

"""What has changed between two looks, beside what PromQL would say."""

import pytest

from mixer.top.scrape import Change, Scrape

BUCKET = "mixer_call_duration_seconds_bucket"


def look(at: float, calls: float, buckets: tuple[float, float, float], started: float = 1.0) -> Scrape:
    """Calls so far, and how many took up to 1 s, up to 2 s, and longer."""
    bounds = zip(("1.0", "2.0", "+Inf"), buckets, strict=True)
    return Scrape(
        at,
        ("ready",),
        {
            "mixer_calls_total": {(("code", "OK"), ("method", "Check")): calls},
            BUCKET: {(("le", bound), ("method", "Check")): count for bound, count in bounds},
            "process_start_time_seconds": {(): started},
        },
    )


def test_a_rate_is_by_the_time_between_two_looks() -> None:
    change = Change(look(10, 100, (0, 0, 0)), look(14, 120, (0, 0, 0)))
    assert change.rate("mixer_calls_total") == 5
    assert change.rate("mixer_calls_total", method="Check") == 5
    assert change.rate("mixer_calls_total", method="Other") == 0
    assert change.rates("mixer_calls_total", "method", "code") == {("Check", "OK"): 5}


def test_a_mixer_that_was_restarted_counts_from_nothing() -> None:
    change = Change(look(10, 100, (0, 0, 0)), look(14, 120, (0, 0, 0), started=12.0))
    assert change.rate("mixer_calls_total") == 30


def test_what_is_not_shown_has_no_value() -> None:
    change = Change(look(1, 0, (0, 0, 0)), look(2, 0, (0, 0, 0)))
    assert change.value("mixer_report_streams") is None
    assert change.quantiles("mixer_call_duration_seconds", (0.5,)) is None


@pytest.mark.parametrize(
    ("buckets", "quantile", "seconds"),
    [
        ((4, 4, 4), 0.5, 0.5),  # evenly within the first bucket
        ((2, 4, 4), 0.75, 1.5),
        ((0, 4, 4), 0.5, 1.5),  # an empty bucket before it
        ((2, 2, 4), 0.99, 2.0),  # above all bounds: the last of them
    ],
)
def test_a_quantile_is_that_of_promql(
    buckets: tuple[float, float, float], quantile: float, seconds: float
) -> None:
    change = Change(look(1, 0, (7, 7, 7)), look(2, 0, (7 + buckets[0], 7 + buckets[1], 7 + buckets[2])))
    assert change.quantiles("mixer_call_duration_seconds", (quantile,), method="Check") == [seconds]

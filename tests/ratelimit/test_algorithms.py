"""The definitions themselves: what each algorithm promises, held against a plain statement of it."""

from fractions import Fraction

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from mixer.ratelimit import algorithms
from mixer.ratelimit.algorithms import Bucket, Sliding
from mixer.ratelimit.counters import EXACT, MAX_LIMIT, SECOND, Hit, Rule, RuleError
from tests.ratelimit.counting import NOW
from tests.ratelimit.model import Model

YEAR = 365 * 86400 * SECOND
TIMES = st.lists(st.integers(0, 30 * SECOND), min_size=1, max_size=40)


@settings(deadline=None)
@given(st.integers(1, 9), st.integers(1, 60), st.integers(1, 9), TIMES)
def test_token_bucket_is_the_generic_cell_rate_algorithm(
    limit: int, seconds: int, burst: int, pauses: list[int]
) -> None:
    """As ITU-T I.371 states it by virtual scheduling: a theoretical arrival time, a limit on how early one may be."""
    rule = Rule(limit, seconds * SECOND, "token_bucket", burst, counts_over=False)
    increment = Fraction(rule.window, limit)
    tolerance = (burst - 1) * increment
    arrival, state, now = Fraction(NOW), Bucket(), NOW
    for pause in pauses:
        now += pause
        conforms = now >= arrival - tolerance
        state, passes = algorithms.token_bucket(rule, state, 1, now)
        assert passes == conforms
        if conforms:
            arrival = max(Fraction(now), arrival) + increment


@settings(deadline=None)
@given(st.integers(1, MAX_LIMIT), st.integers(1, YEAR // SECOND), st.integers(1, MAX_LIMIT))
@example(35, 238_535, 220_270)
def test_rate_of_a_bucket_is_right_but_for_less_than_its_size_in_2_to_the_52(
    limit: int, seconds: int, burst: int
) -> None:
    assume(burst * seconds * SECOND // limit < EXACT // 4)
    rule = Rule(limit, seconds * SECOND, "token_bucket", burst)
    assert rule.size * rule.cost <= EXACT // 2
    exact = Fraction(rule.window, limit)
    assert abs(Fraction(rule.cost, rule.rate) / exact - 1) < Fraction(2 * burst, EXACT)


@settings(deadline=None)
@given(st.integers(1, 9), st.lists(st.integers(0, 40 * SECOND), min_size=1, max_size=40))
def test_sliding_window_is_the_weighted_count_of_two_windows(limit: int, pauses: list[int]) -> None:
    """Against fractions: rounding refuses at most what one slice of time and one hit make of a difference."""
    rule = Rule(limit, 60 * SECOND, "sliding_window", counts_over=False)
    state, now = Sliding(), NOW
    passed: list[int] = []
    for pause in pauses:
        now += pause
        start = algorithms.window_start(rule, now)
        here = sum(time >= start for time in passed)
        before = sum(start - rule.window <= time < start for time in passed)
        estimate = before * Fraction(start + rule.window - now, rule.window) + here
        state, passes = algorithms.sliding_window(rule, state, 1, now)
        if passes:
            assert estimate + 1 <= limit
            passed.append(now)
        else:
            assert estimate + 1 + Fraction(before * 2, algorithms.SLICES) > limit


@settings(deadline=None)
@given(
    st.sampled_from(("fixed_window", "sliding_window", "token_bucket")),
    st.integers(1, 5),
    st.lists(st.tuples(st.integers(1, 3), st.integers(0, 20 * SECOND)), min_size=1, max_size=20),
)
def test_a_refused_hit_passes_after_its_time_to_retry_and_not_before(
    algorithm: str, limit: int, moves: list[tuple[int, int]]
) -> None:
    rule = Rule(limit, 60 * SECOND, algorithm, counts_over=False)  # type: ignore[arg-type]
    model, now = Model(), NOW
    for hits, pause in moves:
        now += pause
        (outcome,) = model.hit([Hit("a", rule, hits)], now)
        if outcome.over and hits <= limit:
            early = now + (outcome.retry - 1) * SECOND - 1
            if early > now:
                assert model.hit([Hit("a", rule, hits)], early)[0].over
            now += outcome.retry * SECOND
            assert not model.hit([Hit("a", rule, hits)], now)[0].over
        else:
            assert outcome.retry == 0 or hits > limit


@pytest.mark.parametrize("algorithm", ["fixed_window", "sliding_window", "token_bucket"])
def test_what_is_counted_over_the_limit_is_owed(algorithm: str) -> None:
    model = Model()
    rule = Rule(10, 60 * SECOND, algorithm)  # type: ignore[arg-type]
    model.hit([Hit("a", rule, 25)], NOW)
    (outcome,) = model.hit([Hit("a", rule, -20)], NOW)
    assert (outcome.over, outcome.used, outcome.remaining) == (False, 5, 5)


@pytest.mark.parametrize("algorithm", ["fixed_window", "sliding_window", "token_bucket"])
@pytest.mark.parametrize(("before", "after"), [(7, 60), (60, 7), (60, 120), (7, 11), (1000, 999)])
def test_a_limit_that_is_changed_goes_on_with_the_hits_that_it_has(
    algorithm: str, before: int, after: int
) -> None:
    model = Model()
    model.hit([Hit("a", Rule(before, 60 * SECOND, algorithm), 5)], NOW)  # type: ignore[arg-type]
    (outcome,) = model.hit([Hit("a", Rule(after, 60 * SECOND, algorithm), 1)], NOW)  # type: ignore[arg-type]
    assert (outcome.used, outcome.remaining) == (6, after - 6)


WRONG = {
    "limit": ({"limit": -1}, "limit: expected 0 to 4294967295, got -1"),
    "window": ({"window": 1}, "window: expected whole seconds, 1 to 31622400, got 1e-06"),
    "lot": ({"lot": 6}, "lot: expected 1 to the limit of a fixed window, 5, got 6"),
    "burst": ({"algorithm": "token_bucket", "burst": 0}, "burst: expected 1 to 4294967295, got 0"),
}


@pytest.mark.parametrize(("terms", "message"), WRONG.values(), ids=WRONG)
def test_numbers_that_make_no_rule_are_refused(terms: dict[str, int], message: str) -> None:
    with pytest.raises(RuleError) as caught:
        Rule(**{"limit": 5, "window": 60 * SECOND, **terms})  # type: ignore[arg-type]
    assert str(caught.value) == message

"""How long a worker that ended is left alone."""

from mixer.supervision.backoff import FIRST, HEALTHY, LONGEST, Backoff


def test_pauses_double_up_to_the_longest_and_a_healthy_run_begins_anew() -> None:
    backoff = Backoff()
    pauses = [backoff.after(0.0) for _ in range(12)]
    assert pauses[:3] == [FIRST, 2 * FIRST, 4 * FIRST]
    assert pauses[-1] == LONGEST
    assert backoff.after(HEALTHY) == FIRST

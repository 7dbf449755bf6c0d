"""The benchmarks' own judgement: what counts as a figure, and when a target is met."""

import pytest

from benchmarks.harness import BenchmarkError, Row, in_turns, parse_h2load

REPORT = """\
finished in 1.50s, 20000.00 req/s, 1.11MB/s
requests: 30000 total, 30000 started, 30000 done, {done} succeeded, 0 failed, 0 errored, 0 timeout
status codes: {done} 2xx, 0 3xx, 0 4xx, 0 5xx
traffic: 1.66MB (1745696) total, 234.38KB (240000) headers (space savings 94.29%), 820.31KB ({data}) data
"""


def test_h2load_s_rate_is_read_from_its_report() -> None:
    assert parse_h2load(REPORT.format(done=30_000, data=30_000 * 28), 30_000, 23) == 20_000


def test_a_call_without_http_200_spoils_the_run() -> None:
    with pytest.raises(BenchmarkError, match="29999 of 30000 calls were answered"):
        parse_h2load(REPORT.format(done=29_999, data=30_000 * 28), 30_000, 23)


def test_grpc_errors_spoil_the_run_although_they_are_http_200() -> None:
    with pytest.raises(BenchmarkError, match="some are errors"):
        parse_h2load(REPORT.format(done=30_000, data=20_000 * 28), 30_000, 23)


def test_no_report_is_an_error_with_what_h2load_said() -> None:
    with pytest.raises(BenchmarkError, match="connection refused"):
        parse_h2load("connection refused", 1, 1)


def test_a_ratio_target_is_of_medians() -> None:
    row = Row("w", "calls/s", (100.0, 150.0, 900.0), "peer", (100.0, 1.0, 100.0), at_least=1.5)
    assert (row.ratio, row.met) == (1.5, True)
    assert Row("w", "calls/s", (149.0,), "peer", (100.0,), at_least=1.5).met is False


def test_a_time_is_to_be_no_longer_than_the_peer_s() -> None:
    assert Row("w", "µs", (100.0,), "peer", (100.0,), at_most_ratio=1.0).met is True
    assert Row("w", "µs", (101.0,), "peer", (100.0,), at_most_ratio=1.0).met is False


def test_a_bound_is_of_our_own_median() -> None:
    assert Row("w", "MiB", (119.0,), at_most=120).met is True
    assert Row("w", "MiB", (121.0,), at_most=120).met is False
    assert Row("w", "MiB", (121.0,)).met is None


def test_ours_and_the_peer_run_in_turns_and_take_turns_in_going_first() -> None:
    order: list[str] = []

    def side(name: str) -> float:
        order.append(name)
        return float(len(order))

    assert in_turns(2, lambda: side("ours"), lambda: side("peer")) == ((1.0, 4.0), (2.0, 3.0))
    assert order == ["ours", "peer", "peer", "ours"]

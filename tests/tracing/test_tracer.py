"""Which calls are traced, by W3C Trace Context, and what is kept of them."""

import pytest

from mixer.tracing.tracer import Tracer
from tests.telemetry.entries import new_metrics, value

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def tracer(share: float = 1.0, max_waiting: int = 10) -> Tracer:
    return Tracer(share, max_waiting, new_metrics())


@pytest.mark.parametrize(
    ("traceparent", "traced"),
    [
        (f"00-{TRACE}-{PARENT}-01", True),
        (f"00-{TRACE}-{PARENT}-03", True),
        (f"01-{TRACE}-{PARENT}-01-what-comes-later", True),
        (f"00-{TRACE}-{PARENT}-00", False),
        (f"00-{TRACE}-{PARENT}-01-more", False),
        (f"ff-{TRACE}-{PARENT}-01", False),
        (f"00-{'0' * 32}-{PARENT}-01", False),
        (f"00-{TRACE}-{'0' * 16}-01", False),
        (f"00-{TRACE.upper()}-{PARENT}-01", False),
        (f"00-{TRACE}-{PARENT}", False),
        ("", False),
        ("00-" * 10_000, False),
    ],
)
def test_call_is_traced_where_its_traceparent_is_valid_and_sampled(traceparent: str, traced: bool) -> None:
    span = tracer().begin("a/B", [("x", b"y"), ("traceparent", traceparent), ("tracestate", "a=1")])
    assert (span is not None) == traced
    if span is not None:
        assert (span.trace_id.hex(), span.parent.hex(), span.state) == (TRACE, PARENT, "a=1")
        assert len(span.id) == 8


def test_call_without_a_traceparent_is_not_traced() -> None:
    assert tracer().begin("a/B", []) is None


def test_share_is_of_traces_and_the_same_for_all_calls_of_one() -> None:
    quarter = tracer(0.25)

    def taken(trace: int) -> bool:
        return quarter.begin("a/B", [("traceparent", f"00-{trace:032x}-{PARENT}-01")]) is not None

    step = 2**64 // 100
    traces = [step // 2 + step * number for number in range(100)]
    assert sum(map(taken, traces)) == 25
    assert [taken(trace) for trace in traces] == [taken(trace) for trace in traces]


def test_what_waits_is_bounded_and_the_rest_is_counted() -> None:
    metrics = new_metrics()
    small = Tracer(1.0, 2, metrics)
    for _ in range(5):
        span = small.begin("a/B", [("traceparent", f"00-{TRACE}-{PARENT}-01")])
        assert span is not None
        small.end(span, b"x" * 100_000)
    assert len(small.waiting) == 2
    assert value(metrics, "mixer_spans_dropped_total", reason="buffer_full") == 3
    assert small.waiting[0].answer == b""  # too long to be kept

"""Which calls are traced, and what is kept of one until it is exported."""

import os
import re
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from mixer.metrics import Metrics

# W3C Trace Context, section 3.2: later versions may add fields.
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_SAMPLED = 1
_LONGEST_STATE = 512  # characters of a tracestate that are passed on
_KEPT = 16 * 1024  # bytes of an answer, which tells what was decided; a longer one is not kept

Metadata = Iterable[tuple[str, str | bytes]]


@dataclass(slots=True)
class Span:
    """One call. Times are Unix nanoseconds; `code`: gRPC's number, 0 for an answer."""

    method: str  # "envoy.service.auth.v3.Authorization/Check"
    trace_id: bytes
    parent: bytes
    state: str
    id: bytes
    start: int
    end: int = 0
    code: int = 0
    error: str = ""
    answer: bytes = b""


class Tracer:
    """Traces what the caller samples, a share of it. What waits for the exporter is bounded, and more is dropped and
    counted.

    The share is by trace, as OpenTelemetry's TraceIdRatioBased has it: whoever takes the same share takes the same.
    """

    def __init__(
        self, share: float, max_waiting: int, metrics: Metrics, clock: Callable[[], int] = time.time_ns
    ) -> None:
        self.waiting: deque[Span] = deque()
        self._bound = round(share * 2**64)
        self._max_waiting = max_waiting
        self._full = metrics.spans_dropped.labels("buffer_full")
        self._clock = clock

    def begin(self, method: str, metadata: Metadata) -> Span | None:
        """The span of a call with this metadata; None: it is not traced."""
        found: dict[str, str | bytes] = {
            name: value for name, value in metadata if name in ("traceparent", "tracestate")
        }
        parent = found.get("traceparent")
        if not isinstance(parent, str) or (match := _TRACEPARENT.fullmatch(parent)) is None:
            return None
        if parent.startswith("00") and match[4]:
            return None
        if not int(match[3], 16) & _SAMPLED or int(match[1][16:], 16) >= self._bound:
            return None
        trace_id, parent_id = bytes.fromhex(match[1]), bytes.fromhex(match[2])
        if not any(trace_id) or not any(parent_id):
            return None
        state = found.get("tracestate", "")
        kept = state if isinstance(state, str) and len(state) <= _LONGEST_STATE else ""
        return Span(method, trace_id, parent_id, kept, os.urandom(8), self._clock())

    def end(self, span: Span, answer: bytes | None, code: int = 0, error: str = "") -> None:
        """The call was answered, or failed with this code."""
        if len(self.waiting) >= self._max_waiting:
            self._full.inc()
            return
        span.end = self._clock()
        span.code, span.error = code, error
        if answer is not None and len(answer) <= _KEPT:
            span.answer = answer
        self.waiting.append(span)

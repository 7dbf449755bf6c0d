"""Counters that failed, told to the log and to the caller."""

import time

import structlog

from mixer.errors import CallError, CounterError, DeadlineError
from mixer.log import Throttle

_log = structlog.get_logger()


class Failures:
    def __init__(self) -> None:
        self._throttle = Throttle()

    def __call__(self, error: CounterError, end: float | None) -> CallError:
        """Log the error. What it is to the caller, whose time is over at `end` (of `time.monotonic`)."""
        if (held := self._throttle(error.reason)) is not None:
            _log.warning("count_failed", reason=error.reason, error=str(error), held_back=held)
        if error.reason == "timeout" and end is not None and time.monotonic() >= end:
            return DeadlineError("deadline", str(error))
        return error

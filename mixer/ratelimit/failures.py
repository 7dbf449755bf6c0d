"""Counters that failed, told to the log and to the caller."""

import time

import structlog

from mixer.errors import CounterError, DeadlineError
from mixer.log import Throttle

_log = structlog.get_logger()


class Failures:
    def __init__(self) -> None:
        self._throttle = Throttle()

    def __call__(self, error: CounterError, end: float | None) -> None:
        """`end`: when the caller's time is over, of `time.monotonic`. Raises `DeadlineError` if that is why."""
        if (held := self._throttle(error.reason)) is not None:
            _log.warning("count_failed", reason=error.reason, error=str(error), held_back=held)
        if error.reason == "timeout" and end is not None and time.monotonic() >= end:
            raise DeadlineError("deadline", str(error)) from error

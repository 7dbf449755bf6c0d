"""Ctrl-C and SIGTERM as a wish that is looked at between two steps, never in the middle of one.

An exception out of a signal handler could come between the start of a child and the note of its pid, or in the
middle of tidying up; a flag cannot.
"""

import contextlib
import signal
import time
from collections.abc import Iterator

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_POLL = 0.05  # seconds


class StopRequestedError(Exception):
    """Somebody asked the demo to stop."""


class StopSignal:
    """Whether a signal has come."""

    def __init__(self) -> None:
        self.requested = False

    def check(self) -> None:
        """Raise `StopRequestedError` if a signal has come."""
        if self.requested:
            raise StopRequestedError

    def sleep(self, seconds: float) -> None:
        """Sleep, and look at the signal meanwhile."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.check()
            time.sleep(min(left, _POLL))
        self.check()


@contextlib.contextmanager
def stop_signal() -> Iterator[StopSignal]:
    """Take the signals over until the end of the block; further ones while it tidies up change nothing."""
    stop = StopSignal()

    def note(_number: int, _frame: object) -> None:
        stop.requested = True

    before = {number: signal.signal(number, note) for number in _SIGNALS}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

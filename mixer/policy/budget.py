"""Evaluations that take too long, or too much memory, are cut off.

The kernel signals a process after each 10 ms of its processor time (`ITIMER_PROF`), and never while it is idle. Python
runs the signal's handler on the main thread, between two instructions; there it ends an evaluation that has had its
time. An evaluation pays for it by three stores, and nothing is asked of the clock before it takes long. Policies that
regorus runs come by Python at each turn of a loop within a loop (`policy.ticks`).
"""

import atexit
import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Final

from mixer import config

_TICK: Final = 0.01  # seconds of the process' time between two signals
_STATM: Final = Path("/proc/self/statm")
_PAGE: Final = 4096
_TO_END: Final = 0.1  # seconds, to give back what it holds
_LOADING: Final = 5  # times an evaluation's may a policy's first take, for which regorus prepares it


@dataclass(frozen=True, slots=True)
class Budget:
    """What one evaluation may take. `seconds`: of the thread's processor time, in steps of 10 ms; `memory`: bytes by
    which the process grows."""

    seconds: float
    memory: int

    def loading(self) -> "Budget":
        return Budget(_LOADING * self.seconds, _LOADING * self.memory)


def budget_of(policy: config.Policy) -> Budget:
    return Budget(policy.max_evaluation, policy.max_evaluation_memory)


class CutOffError(Exception):
    """Ends an evaluation. Its text is what it took too much of."""


class _Watch:
    """Of the evaluations of the main thread, which come one at a time."""

    __slots__ = ("_cut", "_grown", "_seen", "_since", "number", "running", "started")

    def __init__(self) -> None:
        self.number = 0  # of the evaluation
        self.running: Budget | None = None
        self.started = False
        self._cut = (0, "")  # the evaluation that was cut off last, and why
        self._seen = 0  # the evaluation that a signal met last, and what was so then
        self._since = 0.0
        self._grown = 0

    def start(self) -> bool:
        """Have the signals come from now on. False off the main thread, where they cannot reach an evaluation."""
        if threading.current_thread() is not threading.main_thread():
            return False
        if not self.started:
            self.started = True
            signal.signal(signal.SIGPROF, self._signalled)
            signal.siginterrupt(signal.SIGPROF, False)
            signal.setitimer(signal.ITIMER_PROF, _TICK, _TICK)
            atexit.register(
                signal.setitimer, signal.ITIMER_PROF, 0
            )  # at its end Python lets go of the handler
        return True

    @property
    def cut(self) -> str:
        """What the evaluation took too much of, if it was cut off."""
        number, what = self._cut
        return what if number == self.number else ""

    def _signalled(self, number: int, frame: FrameType | None) -> None:
        budget = self.running
        if budget is None:
            return
        if self._seen != self.number:
            self._seen, self._since, self._grown = self.number, time.thread_time(), _resident()
            return
        now = time.thread_time()
        if now < self._since:
            return
        if now - self._since + _TICK > budget.seconds:
            raise self.exceeded(f"takes longer than {budget.seconds:g} s (policy.max_evaluation)")
        if _resident() - self._grown > budget.memory:
            raise self.exceeded(
                f"takes more than {budget.memory} bytes of memory (policy.max_evaluation_memory)"
            )

    def exceeded(self, what: str) -> CutOffError:
        """What to raise. The evaluation has a while to end; if it does not, it is told again."""
        self._cut = self.number, what
        self._since = time.thread_time() + _TO_END
        return CutOffError(what)


WATCH = _Watch()


def tick() -> bool:
    """A place for signals in what regorus runs."""
    return True


def _resident() -> int:
    """Bytes of memory that the process holds."""
    return int(_STATM.read_bytes().split()[1]) * _PAGE

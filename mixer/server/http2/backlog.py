"""What a front does while more calls come than it can answer.

Bytes that lie in the kernel have no age: whoever evaluates call by call as he reads answers, under overload, calls that
their clients have given up, and learns of it afterwards. So once calls have had the loop for `SLICE` seconds, all that
comes is read first. Calls that are complete wait here, in turns between connections; those that their clients reset are
not begun; and who could not be answered in its time is refused as it is read, which costs a fraction of an answer.
"""

from asyncio import AbstractEventLoop
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import NamedTuple, Protocol, cast

from mixer.outflow import SHARE, Outflow
from mixer.server.answering import Received
from mixer.server.http2.requests import Route

TOGETHER = (
    16  # calls begun at once; more make a call hardly cheaper, and the first wait longer for their answer
)
SLICE = 0.004  # seconds that calls are begun before what has come meanwhile is read
# Calls, likewise: what of more of them Redis answers at once has left the caches, which costs a third of the answers.
MOST = 256
MAX_BYTES = 64 * 1024 * 1024  # of messages that wait

_FREE = SLICE / 2  # seconds before a turn is asked for, so that not every turn of the loop has one

Complete = dict[Route, tuple[list[int], list[Received]]]


class _Lot(NamedTuple):
    """Calls of one method that were read together: the numbers of their streams, and their messages."""

    arrived: float
    route: Route
    numbers: list[int]
    received: list[Received]
    size: int  # bytes

    def split(self, at: int) -> "tuple[_Lot, _Lot]":
        first = sum(len(message) for message, _ in self.received[:at])
        return (
            self._replace(numbers=self.numbers[:at], received=self.received[:at], size=first),
            self._replace(numbers=self.numbers[at:], received=self.received[at:], size=self.size - first),
        )


class Caller(Protocol):
    """The calls of one connection."""

    queue: "Queue"

    def begin(self) -> None:
        """Begin those that are complete."""

    def take(self) -> Complete:
        """Those that are complete, which are the backlog's from now on."""

    def is_wanted(self, number: int) -> bool: ...

    def begin_these(
        self, route: Route, numbers: list[int], received: list[Received], waited: float
    ) -> None: ...

    def refuse(self, route: Route, numbers: list[int], reason: str) -> None: ...

    def flush(self) -> None:
        """Write what is to be written."""


class Queue:
    """What of one connection waits."""

    __slots__ = ("calls", "is_held", "lots")

    def __init__(self) -> None:
        self.lots: deque[_Lot] = deque()
        self.calls = 0
        self.is_held = False  # the peer does not read its answers


class Backlog:
    """The calls of one front that are read and not begun. `in_flight`: how many are begun and not answered; together
    they are `max_in_flight` at most."""

    def __init__(self, loop: AbstractEventLoop, max_in_flight: int, in_flight: Callable[[], int]) -> None:
        self.is_behind = False  # what is complete waits for its turn
        self.waiting = 0  # calls
        self._loop = loop
        self._most = max_in_flight
        self._in_flight = in_flight
        self._size = 0
        self._turns: deque[Caller] = deque()
        self._spent = 0.0  # seconds that calls have had the loop since it was seen that all was read
        self._is_due = False  # a turn
        self._each = 0.0  # seconds that a call takes to begin, lately
        self._outflow = Outflow()
        self._touched: set[Caller] = set()  # what has something to be written

    def begin(self, caller: Caller) -> None:
        """Begin the complete calls of a connection, or let them wait for their turn."""
        if self.is_behind:
            self._keep(caller)
            return
        start = monotonic()
        caller.begin()
        self._spent += monotonic() - start
        if self._spent >= _FREE:
            self._have_turn()
            self.is_behind = self._spent >= SLICE

    def _have_turn(self) -> None:
        """Once what has come is read."""
        if not self._is_due:
            self._is_due = True
            self._loop.call_soon(self._turn)

    def write(self, caller: Caller) -> None:
        """Write what a connection has to say with the answers of the next turn; there is one while it is behind."""
        self._touched.add(caller)

    # Calls that wait

    def refused_below(self, caller: Caller) -> float:
        """Seconds: calls of this connection that have less left are refused, as they could not be answered in time.
        Infinite: all are."""
        if self.waiting + self._in_flight() >= self._most or self._size >= MAX_BYTES:
            return float("inf")
        # In turns with the others' it waits for as many of each as are before it on its own connection; others may come
        # to theirs meanwhile.
        in_turn = len(self._turns) + (not caller.queue.lots)
        ahead = max(caller.queue.calls * in_turn, min(self.waiting, TOGETHER * in_turn))
        return self._outflow.wait(ahead, monotonic()) / SHARE

    def _keep(self, caller: Caller) -> None:
        queue = caller.queue
        below = self.refused_below(caller)
        now = monotonic()
        for route, calls in caller.take().items():
            numbers, received = self._admit(caller, route, *calls, below) if below else calls
            if numbers:
                size = sum(len(message) for message, _ in received)
                if not queue.lots and not queue.is_held:
                    self._turns.append(caller)
                    self._outflow.put(now)
                queue.lots.append(_Lot(now, route, numbers, received, size))
                queue.calls += len(numbers)
                self.waiting += len(numbers)
                self._size += size
        self._touched.add(caller)

    def _admit(
        self, caller: Caller, route: Route, numbers: list[int], received: list[Received], below: float
    ) -> tuple[list[int], list[Received]]:
        """Those that may wait; the others are refused."""
        kept: list[int] = []
        kept_received: list[Received] = []
        refused: list[int] = []
        for number, call in zip(numbers, received, strict=True):
            if patience(call[1]) < below:
                refused.append(number)
            else:
                kept.append(number)
                kept_received.append(call)
        if refused:
            caller.refuse(route, refused, reason_of(below))
        return kept, kept_received

    def hold(self, caller: Caller) -> None:
        """Its peer does not read what is written."""
        caller.queue.is_held = True

    def release(self, caller: Caller) -> None:
        """It reads again."""
        queue = caller.queue
        if queue.is_held:
            queue.is_held = False
            if queue.lots and caller not in self._turns:
                self._turns.append(caller)
                self._fall_behind()

    def forget(self, caller: Caller) -> None:
        """The connection is no more."""
        queue = caller.queue
        self.waiting -= queue.calls
        self._size -= sum(lot.size for lot in queue.lots)
        queue.lots.clear()
        queue.calls = 0
        self._touched.discard(caller)

    def _fall_behind(self) -> None:
        if not self.is_behind:
            self.is_behind = True
            self._outflow.put(monotonic())
            self._have_turn()

    def _turn(self) -> None:
        """What has come was read; begin calls that wait, for a while."""
        self._spent, self._is_due = 0.0, False
        if not self.is_behind:
            return
        begun = 0
        try:
            begun = self._begin_for(SLICE)
        finally:
            if self._turns:
                self._outflow.took(begun, monotonic())
                self._have_turn()
            else:
                self._outflow.emptied()
                self.is_behind = False
            touched, self._touched = self._touched, set()
            for caller in touched:
                caller.flush()

    def _begin_for(self, seconds: float) -> int:
        """Answers how many were begun, `MOST` or a few more; who has left before its turn took no time."""
        turns, total = self._turns, 0
        now = monotonic()
        end = now + seconds
        while turns and total < MOST and now < end:
            caller = turns.popleft()
            queue = caller.queue
            if queue.is_held or not queue.lots:
                continue
            begun = 0
            try:
                begun = self._begin_some(caller, queue, now)
            finally:
                if queue.lots:
                    turns.append(caller)
            before, now = now, monotonic()
            if begun:
                total += begun
                self._each += ((now - before) / begun - self._each) / 4
        return total

    def _begin_some(self, caller: Caller, queue: Queue, now: float) -> int:
        """Begin the next calls of a connection, as many as fit into a slice; answers how many."""
        together = TOGETHER if self._each * TOGETHER <= SLICE else max(1, int(SLICE / self._each))
        least = max(SLICE, 2 * self._each)  # seconds; who has less left would hardly get its answer
        lots = queue.lots
        route, arrived = lots[0].route, lots[0].arrived
        numbers: list[int] = []
        received: list[Received] = []
        late: list[int] = []
        taken = gone = 0
        while lots and lots[0].route is route and len(numbers) < together:
            lot = lots.popleft()
            if len(lot.numbers) > (room := together - len(numbers)):
                lot, rest = lot.split(room)
                lots.appendleft(rest)
            waited = now - lot.arrived
            taken += len(lot.numbers)
            self._size -= lot.size
            for number, (message, timeout) in zip(lot.numbers, lot.received, strict=True):
                if not caller.is_wanted(number):
                    gone += 1
                elif timeout is None:
                    numbers.append(number)
                    received.append((message, None))
                elif timeout - waited < least:
                    late.append(number)
                else:
                    numbers.append(number)
                    received.append((message, timeout - waited))
        queue.calls -= taken
        self.waiting -= taken
        self._touched.add(caller)
        if gone:
            cast(Callable[[int], None], route.gave_up)(gone)
        if late:
            caller.refuse(route, late, "late")
        if numbers:
            caller.begin_these(route, numbers, received, now - arrived)
        return len(numbers)


_PATIENT = 1e9  # seconds that a call has without a deadline


def patience(timeout: float | None) -> float:
    return _PATIENT if timeout is None else timeout


def reason_of(below: float) -> str:
    """Why calls are refused that have less time left."""
    return "full" if below > _PATIENT else "late"

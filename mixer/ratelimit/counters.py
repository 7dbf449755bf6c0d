"""The seam of the counters: what the service asks of a store, and what every store promises."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol


class FixedWindow(NamedTuple):
    """Hits on the counter of one name in one window of time; with 0 hits it is only read."""

    name: str
    seconds: int  # the window's length
    start: int  # seconds since the epoch, a multiple of `seconds`
    hits: int


# What a store can be asked to do. Another algorithm is another kind of hit beside this one.
Hit = FixedWindow


class Counters(Protocol):
    """Counts hits, exactly, for all who share the store.

    Time comes with the hit (`start`), so that the answer's window is the one that was counted in. One object
    belongs to one event loop and to the runtime that made it.
    """

    async def start(self) -> None:
        """Make ready. Called once, before the first hit; a store that is away is logged and not an error."""

    def ready(self) -> str | None:
        """Why no count can be had now, in a few words; None if it can. Returns at once."""

    async def hit(self, hits: Sequence[Hit], timeout: float | None = None) -> list[int]:
        """Add each hit to its counter and return, in the same order, the count after it.

        Exact: over all callers, processes and hits of one call that name the same counter and window, the
        counts are those of some one-after-the-other order. So of any interleaving exactly the first N hits
        of size 1 get a count of at most N. A hit counts also when it crosses a limit; counters know none.
        Counts beyond 2**53 may be rounded, and never come down below it.

        Waits for the store without holding up the loop, `timeout` seconds at most (None: the store's own
        bound), and never hangs. A call that is cancelled or fails may or may not have been counted; it
        disturbs no other call. It is never tried twice.

        Raises:
            CounterError: with the reason `unavailable` (no store, or the connection broke), `timeout`,
                `overload` (too many calls wait already) or `full` (no room for another counter), or
                `script` (the store refused the operation).
        """
        ...

    async def close(self) -> None:
        """Give up connections and memory. Calls that still wait fail with `unavailable`."""

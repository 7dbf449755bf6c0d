"""The seam between Check and the limits: what an allowed request is counted against, and what came of it."""

from collections.abc import Awaitable, Callable
from typing import NamedTuple, Protocol

from mixer.errors import DecisionError
from mixer.server.front import Pending


class IllegalLimitError(DecisionError):
    """A policy asks for a limit that is none. The message names the field; no value of the policy's but numbers."""

    def __init__(self, message: str) -> None:
        super().__init__("illegal", message)


class Counted(NamedTuple):
    """What came of it."""

    over: bool
    limit: str  # the one that decided: that fired, or has the least left; "" where none applied
    headers: tuple[tuple[str, str], ...] = ()  # for the client
    on_error: str = ""  # what stood in for counters that are away: allow, deny, local; several by commas
    holds: bool = False  # whether it has slots, under the holder's id, which somebody must give back
    status: int = 0  # HTTP; this and `body` only where it is over
    body: str = ""


Limits = object
"""Limits that a decision asks for, as `Limiter.read` answers them; nobody else looks into them."""


class Limiter(Protocol):
    """Counts what decisions ask for."""

    @property
    def paths(self) -> frozenset[tuple[str, ...]] | None:
        """What the rule of limits can read of the input of Check, another one where the policies have changed; None
        where there is no such rule."""

    def read(self, given: object) -> Limits:
        """The `rate_limits` of a decision. Raises `IllegalLimitError`."""

    def count(
        self,
        limits: Limits,
        make: Callable[[], tuple[bytes, object]] | None,
        holder: str,
        timeout: float | None,
    ) -> Counted | Pending[Counted] | Awaitable[Counted]:
        """Count a request against what its decision asks for, and what the rule says over the input that `make` makes
        of its paths (JSON, and what it was made from): at once, or as something to wait for. `holder`: an id of the
        request, for its slots.

        A call that is cancelled gives its slots back, and so does a request that is over any limit.

        Raises, at once or when it is waited for:
            DecisionError: the rule failed, or what it says is illegal.
            CounterError: the counters cannot answer.
            DeadlineError: they did not within `timeout` seconds.
        """

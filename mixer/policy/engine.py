"""The seam of policy engines."""

from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Protocol

from mixer.errors import MixerError

Path = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class References:
    """What a decision can read, so what its input must hold and what a cache key must cover.

    `paths`: input paths, `("attributes", "request", "http", "method")`; the empty path is the whole input.
    `uncacheable`: why an equal input may get another answer, "time.now_ns (authz.rego:12)"; empty if it cannot.
    """

    paths: frozenset[Path]
    uncacheable: tuple[str, ...] = ()


WHOLE_INPUT = frozenset({()})


class OutdatedError(MixerError):
    """The input was built by references that are the engine's no longer; it must be built again."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A decision as its JSON text, and until when an equal input gets the same one (Unix seconds; None: no end)."""

    decision: str
    valid_until: float | None = None


class PolicyEngine(Protocol):
    """Evaluates one decision over one input.

    An engine is started and used on one event loop. `evaluate` may compute on the loop (embedded) or wait for
    a server; it answers the decision as it is, of whatever shape, and raises
    `DecisionError` — reason `undefined`: no rule gave a value; `evaluation`: the policy failed;
    `unavailable`, `timeout`: the engine's server did not answer. It never answers for an evaluation that failed.

    `references` is another object once the policies may have changed. A document is built by the present ones; where
    they change before it is evaluated, what `evaluate` gave to wait for raises `OutdatedError`.
    """

    name: str
    decision: str

    @property
    def revision(self) -> str:
        """Of policies and data: 12 hex digits, or a bundle's own; "" where the engine's server has its own."""

    @property
    def references(self) -> References:
        """What the decision can read."""

    async def start(self) -> None:
        """Load or connect. Raises `PolicyError` for policies that cannot be used, `StartError` for a server away."""

    def of(self, decision: str) -> "PolicyEngine":
        """An engine for another decision, one of `policy.decisions`, with the same policies and data (or server), which
        are not loaded (or connected to) again. This one is started before, and closed for both."""

    def evaluate(
        self, document: bytes, timeout: float | None, value: object = None
    ) -> Evaluation | Awaitable[Evaluation]:
        """Evaluate over `document` (JSON) within `timeout` seconds: at once, or as something to wait for. `value`: what
        it was made from, where that is at hand: an engine of this process need not read it again."""

    async def ready(self) -> str | None:
        """Why the engine cannot decide now, or None."""

    async def close(self) -> None:
        """Give back connections."""

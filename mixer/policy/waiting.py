"""The engine of a service whose policies have not come yet."""

from mixer.errors import DecisionError
from mixer.policy.engine import Evaluation, References

_REASON = "no policy yet: its bundles have not come"


class WaitingEngine:
    """See `PolicyEngine`. Every evaluation fails, so that Envoy's failure mode decides."""

    name = "embedded"

    def __init__(self, decision: str) -> None:
        self.decision = decision
        self.revision = ""
        self.references = References(frozenset(), (_REASON,))

    async def start(self) -> None:
        pass

    def of(self, decision: str) -> "WaitingEngine":
        return WaitingEngine(decision)

    def evaluate(self, document: bytes, timeout: float | None, value: object = None) -> Evaluation:
        raise DecisionError("unavailable", _REASON)

    async def ready(self) -> str | None:
        return _REASON

    async def close(self) -> None:
        pass

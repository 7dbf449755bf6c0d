"""Decisions as Check tells of them, and the events that are made of them."""

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from envoy.service.auth.v3.external_auth_pb2 import CheckRequest
from prometheus_client import CollectorRegistry

from mixer import config
from mixer.authz.decided import Decided, Shadowed
from mixer.authz.input import WholeInput
from mixer.decisions.event import DecisionRecord
from mixer.decisions.log import DecisionLog
from mixer.decisions.policy import LogPolicy
from mixer.metrics import Metrics
from mixer.policy import sources

NONE = object()  # no decision, where None is the decision null


def decided(
    document: object = None,
    result: object = True,
    *,
    decision_id: str = "2066a1ca-45d0-4e53-8b1e-64bb6b11af08",
    request: CheckRequest | None = None,
    error: str | None = None,
    reason: str | None = None,
    allowed: bool | None = True,
    shadow: Shadowed | None = None,
) -> Decided:
    return Decided(
        decision_id=decision_id,
        path="p/allow",
        revision="0123456789ab",
        request=request or CheckRequest(),
        document=None if document is None else json.dumps(document).encode(),
        result=None if result is NONE else json.dumps(result),
        error=error,
        reason=reason,
        cache="miss",
        timestamp=1_790_000_000.25,
        seconds=0.0000125,
        allowed=allowed,
        shadow=shadow,
    )


class Written:
    """A sink that keeps what it is given."""

    name = "written"

    def __init__(self) -> None:
        self.records: list[DecisionRecord] = []
        self.closed = False

    async def start(self) -> None:
        pass

    def write(self, records: Sequence[DecisionRecord]) -> None:
        self.records += records

    async def room(self) -> None:
        """It never blocks."""

    async def accepted(self) -> None:
        """Memory is all there is."""

    def status(self) -> str:
        return "ok"

    async def close(self, timeout: float) -> None:
        self.closed = True

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(record.to_json()) for record in self.records]


class Log:
    """A decision log over policies, and what it writes and counts."""

    def __init__(self, policies: Path | None = None, *, whole: bool = False, **settings: Any) -> None:
        self.written = Written()
        self.registry = CollectorRegistry()
        self.settings = config.DecisionLog.model_validate({"sinks": [{"type": "file"}], **settings})
        self.policy = LogPolicy(sources.load([policies])) if policies is not None else None
        self.whole = whole

    def make(self) -> DecisionLog:
        return DecisionLog(
            self.settings,
            [self.written],
            {**self.settings.labels, "id": "one", "version": "0"},
            Metrics(self.registry),
            policy=self.policy,
            build=WholeInput().build if self.whole else None,
        )

    def __call__(self, *decisions: Decided) -> list[dict[str, Any]]:
        """Observe them, close, and answer the events."""

        async def run() -> None:
            log = self.make()
            await log.start()
            for one in decisions:
                log.observe(one)
            await log.close(10)

        asyncio.run(run())
        return self.written.events

    def dropped(self, reason: str) -> float:
        return self.registry.get_sample_value("mixer_decision_log_dropped_total", {"reason": reason}) or 0.0

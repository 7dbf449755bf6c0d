"""A CheckService that a real OPA decides for, and requests to it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from envoy.service.auth.v3.external_auth_pb2 import CheckRequest, CheckResponse
from prometheus_client import CollectorRegistry

from mixer import config
from mixer.authz.service import CheckService
from mixer.backends import ENGINES
from mixer.errors import DecisionError
from mixer.metrics import Metrics
from mixer.policy.cache import DecisionCache
from mixer.policy.engine import PolicyEngine
from tests.components.processes import Opa


class Checks:
    """`engine` decides, with a cache of a minute. `clock` is the cache's."""

    def __init__(self, engine: PolicyEngine) -> None:
        self.engine = engine
        self.registry = CollectorRegistry()
        metrics = Metrics(self.registry)
        self.service = CheckService(engine, DecisionCache(1000, 60.0, metrics), metrics, clock=lambda: 1000.0)

    async def __call__(self, method: str = "GET", path: str = "/", timeout: float | None = None) -> Any:
        """Whether it is allowed, or the reason why there is no decision."""
        request = CheckRequest()
        request.attributes.request.http.method = method
        request.attributes.request.http.path = path
        try:
            answer = self.service.check(request, timeout)
            told = answer if isinstance(answer, bytes) else await answer
        except DecisionError as error:
            return error.reason
        return CheckResponse.FromString(told).status.code == 0

    async def until(self, expected: Any, *asked: str) -> None:
        """Ask until it is as expected."""
        async with asyncio.timeout(20):
            while await self(*asked) != expected:
                await asyncio.sleep(0.01)

    def count(self, outcome: str) -> float:
        """Lookups of the decision cache."""
        labels = {"outcome": outcome}
        return self.registry.get_sample_value("mixer_decision_cache_lookups_total", labels) or 0.0


def settings(server: Opa, *paths: Path, **opa: Any) -> config.Policy:
    given = {"url": server.url, "timeout": "5s", **opa}
    return config.Policy(
        engine="opa", opa=config.Opa.model_validate(given), paths=paths, decision="envoy/authz/allow"
    )


@asynccontextmanager
async def checks(server: Opa, *paths: Path, **opa: Any) -> AsyncIterator[Checks]:
    """With `paths`, they are pushed."""
    engine = ENGINES["opa"](settings(server, *paths, push=bool(paths), **opa))
    try:
        await engine.start()
        yield Checks(engine)
    finally:
        await engine.close()

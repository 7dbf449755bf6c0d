"""Limits that a real OPA's rule gives, whenever that rule changes."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
from envoy.service.ratelimit.v3.rls_pb2 import RateLimitRequest, RateLimitResponse
from prometheus_client import CollectorRegistry

from mixer import config
from mixer.metrics import Metrics
from mixer.policy.cache import DecisionCache
from mixer.policy.opa import OpaEngine
from mixer.ratelimit.memory import MemoryCounters
from mixer.ratelimit.quota import Quotas
from mixer.ratelimit.service import QuotaService
from tests.components import processes
from tests.components.processes import Opa
from tests.loop import on_loop
from tests.ratelimit.files import limits_of

# Reads nothing of the input.
SAME = """package p

allow := true

limits := [{"key": "all", "requests_per_unit": 1, "unit": "day", "name": "all"}]
"""
BY_USER = """package p

allow := true

limits contains {"key": ["user", entry.value], "requests_per_unit": 2, "unit": "day", "name": "by-user"} if {
	some descriptor in input.descriptors
	some entry in descriptor
}
"""


@pytest.fixture
def server() -> Iterator[Opa]:
    with processes.opa() as running:
        yield running


@asynccontextmanager
async def quota(server: Opa) -> AsyncIterator[QuotaService]:
    metrics = Metrics(CollectorRegistry())
    settings = config.Policy.model_validate(
        {"engine": "opa", "decision": "p/allow", "opa": {"url": server.url, "timeout": "10s"}}
    )
    engine = OpaEngine(settings)
    await engine.start()
    counters = MemoryCounters(metrics)
    files = limits_of("domain: none\n")
    quotas = Quotas(files, counters, config.RateLimits(), metrics, local=MemoryCounters(metrics))
    quotas.by_rule(engine.of("p/limits"), DecisionCache(100, 60.0, metrics))
    try:
        yield quotas.service
    finally:
        await engine.close()


async def ask(service: QuotaService, user: str) -> tuple[str, int]:
    """Name of the limit that decided, and the overall code."""
    request = RateLimitRequest(domain="shop")
    request.descriptors.add().entries.add(key="user", value=user)
    answered = service.should_rate_limit(request.SerializeToString(), None)
    answer = RateLimitResponse.FromString(answered if isinstance(answered, bytes) else await answered)
    return answer.dynamic_metadata["mixer"]["limit"], answer.overall_code


@on_loop
async def test_limits_are_those_of_the_rule_as_it_is_now(server: Opa) -> None:
    assert server.call("PUT", "/v1/policies/p", SAME)[0] == 200
    async with quota(server) as service:
        assert [await ask(service, user) for user in "ab"] == [("all", 1), ("all", 2)]
        assert server.call("PUT", "/v1/policies/p", BY_USER)[0] == 200
        assert [await ask(service, user) for user in "abaa"] == [
            ("by-user", 1), ("by-user", 1), ("by-user", 1), ("by-user", 2),
        ]  # fmt: skip
        assert server.call("PUT", "/v1/policies/p", SAME)[0] == 200
        assert await ask(service, "c") == ("all", 2)


@on_loop
async def test_calls_during_changes_are_each_limited_by_one_rule_or_the_other(server: Opa) -> None:
    assert server.call("PUT", "/v1/policies/p", SAME)[0] == 200
    async with quota(server) as service:
        changing = asyncio.create_task(asyncio.to_thread(_change, server))
        told = set()
        number = 0
        while not changing.done():
            answers = await asyncio.gather(*(ask(service, f"u{number + n}") for n in range(8)))
            told |= {name for name, _ in answers}
            number += 8
        await changing
        assert told == {"all", "by-user"}
        assert await ask(service, "x") == ("by-user", 1)


def _change(server: Opa) -> None:
    for _ in range(15):
        for policy in (SAME, BY_USER):
            assert server.call("PUT", "/v1/policies/p", policy)[0] == 200

"""What limits answer while Redis is away, and what of it can be seen."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from envoy.service.ratelimit.v3.rls_pb2 import RateLimitRequest, RateLimitResponse
from prometheus_client import CollectorRegistry

from mixer import config
from mixer.errors import CounterError
from mixer.metrics import Metrics
from mixer.ratelimit.counters import SECOND, Rule
from mixer.ratelimit.memory import MemoryCounters
from mixer.ratelimit.on_error import share
from mixer.ratelimit.redis import RedisCounters
from mixer.ratelimit.service import QuotaService
from tests.components.processes import Redis
from tests.ratelimit.counting import START
from tests.ratelimit.files import limits_of
from tests.ratelimit.loop import run

LIMITS = """\
domain: shop
descriptors:
- {key: plain, rate_limit: {unit: hour, requests_per_unit: 9}}
- {key: strict, rate_limit: {unit: hour, requests_per_unit: 9, on_error: error}}
- {key: open, rate_limit: {unit: hour, requests_per_unit: 9, name: opened, on_error: allow}}
- {key: closed, rate_limit: {unit: hour, requests_per_unit: 9, on_error: deny}}
- {key: shared, rate_limit: {unit: hour, requests_per_unit: 10, on_error: local}}
- {key: one, rate_limit: {unit: hour, requests_per_unit: 1, on_error: local}}
- {key: bucket, rate_limit: {unit: hour, requests_per_unit: 10, algorithm: token_bucket, burst: 4, on_error: local}}
"""


class Quota:
    def __init__(self, url: str, **settings: Any) -> None:
        chosen = config.RateLimits.model_validate(
            {"redis": {"url": url, "timeout": "300ms"}, "instances": 3, **settings}
        )
        self.registry = CollectorRegistry()
        metrics = Metrics(self.registry)
        self.counters = RedisCounters(chosen, metrics)
        clock = lambda: float(START)  # noqa: E731
        self.service = QuotaService(
            limits_of(LIMITS, has_shares=True),
            self.counters,
            chosen,
            metrics,
            local=MemoryCounters(metrics, clock),
            clock=clock,
        )

    async def ask(self, *keys: str, hits: int = 0) -> RateLimitResponse:
        request = RateLimitRequest(domain="shop", hits_addend=hits)
        for key in keys:
            request.descriptors.add().entries.add(key=key, value="a")
        answer = self.service.should_rate_limit(request.SerializeToString(), None)
        if isinstance(answer, bytes):
            return RateLimitResponse.FromString(answer)
        done: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

        def end(result: bytes | BaseException) -> None:
            done.set_exception(result) if isinstance(result, BaseException) else done.set_result(result)

        answer.then(end)
        return RateLimitResponse.FromString(await done)

    def counted(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(f"mixer_{name}", labels) or 0


@asynccontextmanager
async def started(url: str, **settings: Any) -> AsyncIterator[Quota]:
    quota = Quota(url, **settings)
    await quota.counters.start()
    try:
        yield quota
    finally:
        await quota.counters.close()


Scenario = Callable[[Quota], Awaitable[Any]]


def without_redis(server: Redis, scenario: Scenario, **settings: Any) -> Any:
    """Ask while a Redis that answered before is gone."""

    async def main() -> Any:
        async with started(server.url, **settings) as quota:
            await quota.ask("plain")
            server.kill()
            while quota.counters.ready() is None:
                await asyncio.sleep(0.01)
            return await scenario(quota)

    return run(main())


def code(response: RateLimitResponse) -> str:
    return RateLimitResponse.Code.Name(response.overall_code)


def told(response: RateLimitResponse) -> dict[str, Any]:
    return dict(response.dynamic_metadata["mixer"])


@pytest.fixture
def server(start_redis: Callable[..., Redis]) -> Redis:
    return start_redis()


@pytest.mark.parametrize("key", ["plain", "strict"])
def test_a_limit_fails_the_call_unless_told_otherwise(server: Redis, key: str) -> None:
    async def scenario(quota: Quota) -> None:
        with pytest.raises(CounterError) as caught:
            await quota.ask(key)
        assert caught.value.reason == "unavailable"
        assert quota.counted("counter_on_error_total", on_error="error") == 1

    without_redis(server, scenario)


def test_a_limit_that_allows_lets_pass_and_says_why(server: Redis) -> None:
    async def scenario(quota: Quota) -> None:
        response = await quota.ask("open", hits=100)
        assert code(response) == "OK"
        assert told(response) == {"limit": "opened", "code": "OK", "on_error": "allow"}
        assert response.statuses[0].current_limit.requests_per_unit == 9
        assert quota.counted("counter_on_error_total", on_error="allow") == 1
        assert quota.counted("limit_hits_total", limit="opened", outcome="within") == 0

    without_redis(server, scenario)


def test_a_limit_that_denies_refuses_and_says_why(server: Redis) -> None:
    async def scenario(quota: Quota) -> None:
        response = await quota.ask("closed")
        assert code(response) == "OVER_LIMIT"
        assert told(response)["on_error"] == "deny"
        assert quota.counted("limit_hits_total", limit="shop.closed", outcome="over") == 0

    without_redis(server, scenario)


def test_the_settings_say_it_for_limits_that_do_not(server: Redis) -> None:
    async def scenario(quota: Quota) -> list[str]:
        return [code(await quota.ask("plain")), code(await quota.ask("closed"))]

    assert without_redis(server, scenario, on_error="allow") == ["OK", "OVER_LIMIT"]


def test_one_of_three_processes_admits_a_third_rounded_down(server: Redis) -> None:
    async def scenario(quota: Quota) -> None:
        responses = [await quota.ask("shared") for _ in range(5)]
        assert [code(response) for response in responses] == ["OK"] * 3 + ["OVER_LIMIT"] * 2
        assert [response.statuses[0].limit_remaining for response in responses] == [2, 1, 0, 0, 0]
        assert told(responses[-1])["on_error"] == "local"
        outcomes = {
            outcome: quota.counted("limit_hits_total", limit="shop.shared", outcome=outcome)
            for outcome in ("within", "near", "over")
        }
        assert outcomes == {"within": 2, "near": 1, "over": 2}

    without_redis(server, scenario)


def test_a_share_of_less_than_one_admits_nothing(server: Redis) -> None:
    async def scenario(quota: Quota) -> str:
        return code(await quota.ask("one"))

    assert without_redis(server, scenario) == "OVER_LIMIT"


def test_a_share_has_a_share_of_the_burst(server: Redis) -> None:
    async def scenario(quota: Quota) -> list[str]:
        return [code(await quota.ask("bucket")) for _ in range(2)]

    assert without_redis(server, scenario) == ["OK", "OVER_LIMIT"]


@pytest.mark.parametrize(
    "rule",
    [
        Rule(2, SECOND, "token_bucket", burst=30),
        Rule(30, SECOND, "token_bucket", burst=2),
        Rule(2, SECOND, lot=2),
        Rule(0, SECOND, "sliding_window"),
        Rule(2, SECOND, "concurrency"),
    ],
)
def test_a_share_of_nothing_is_a_rule_that_admits_nothing(rule: Rule) -> None:
    assert share(rule, 3).size == 0


def test_one_limit_that_fails_fails_the_call(server: Redis) -> None:
    async def scenario(quota: Quota) -> None:
        with pytest.raises(CounterError):
            await quota.ask("open", "plain")

    without_redis(server, scenario)


def test_several_limits_each_answer_for_themselves(server: Redis) -> None:
    async def scenario(quota: Quota) -> None:
        response = await quota.ask("open", "closed", "shared")
        codes = [RateLimitResponse.Code.Name(status.code) for status in response.statuses]
        assert codes == ["OK", "OVER_LIMIT", "OK"]
        assert told(response) == {
            "limit": "shop.closed",
            "code": "OVER_LIMIT",
            "on_error": "allow,deny,local",
        }

    without_redis(server, scenario)


def test_what_is_known_to_be_over_stays_so_while_redis_is_away(server: Redis) -> None:
    async def main() -> None:
        async with started(server.url, local_cache={"max_age": "1m"}) as quota:
            assert code(await quota.ask("open", hits=10)) == "OVER_LIMIT"
            server.kill()
            while quota.counters.ready() is None:
                await asyncio.sleep(0.01)
            response = await quota.ask("closed", "open")
            assert code(response) == "OVER_LIMIT"
            assert [status.code for status in response.statuses] == [RateLimitResponse.OVER_LIMIT] * 2
            assert quota.counted("counter_on_error_total", on_error="allow") == 0
            assert quota.counted("counter_on_error_total", on_error="deny") == 1

    run(main())


def test_redis_counts_again_when_it_is_back(server: Redis) -> None:
    async def scenario(quota: Quota) -> None:
        assert told(await quota.ask("open"))["on_error"] == "allow"
        server.start()
        while quota.counters.ready() is not None:
            await asyncio.sleep(0.01)
        response = await quota.ask("open")
        assert told(response) == {"limit": "opened", "code": "OK"}
        assert response.statuses[0].limit_remaining == 8

    without_redis(server, scenario)


def test_a_paused_redis_is_stood_in_for_and_not_waited_for_once_it_is_known(server: Redis) -> None:
    async def main() -> None:
        async with started(server.url) as quota:
            await quota.ask("open")
            server.pause()
            try:
                assert told(await quota.ask("open"))["on_error"] == "allow"  # after the timeout
                while quota.counters.ready() is None or "no connection" not in quota.counters.ready():
                    await asyncio.sleep(0.01)
                start = asyncio.get_running_loop().time()
                for _ in range(20):
                    assert told(await quota.ask("open"))["on_error"] == "allow"
                assert asyncio.get_running_loop().time() - start < 2  # a timeout each would be 6
            finally:
                server.resume()
            while quota.counters.ready() is not None:
                await asyncio.sleep(0.01)
            assert "on_error" not in told(await quota.ask("open"))

    run(main())

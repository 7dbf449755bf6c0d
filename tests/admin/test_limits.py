"""The pages on rate limits, over real HTTP."""

import contextlib
import io
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from prometheus_client import CollectorRegistry

from mixer import config
from mixer.admin.limits import LimitPages
from mixer.admin.near import is_near
from mixer.admin.server import AdminServer
from mixer.errors import CounterError
from mixer.metrics import Metrics
from mixer.ratelimit.counters import Counters, Hit
from mixer.ratelimit.desk import Desk
from mixer.ratelimit.memory import MemoryCounters
from mixer.ratelimit.service import QuotaService
from tests.loop import on_loop
from tests.ratelimit.files import limits_of

LIMITS = """\
domain: shop
descriptors:
- {key: user, shadow_mode: false, rate_limit: {unit: day, requests_per_unit: 1, name: per-user}}
- {key: free, rate_limit: {unlimited: true}}
- {key: job, rate_limit: {algorithm: concurrency, lease: 1m, requests_per_unit: 3}}
- {key: tenant, descriptors: [{key: user, value: a*, quota_mode: true, rate_limit: {unit: week}}]}
"""
ALICE = {"domain": "shop", "descriptors": [{"entries": [{"key": "user", "value": "alice"}]}]}


class Failing:
    """Counters that are away."""

    def hit(self, hits: list[Hit], now: int, timeout: float | None = None) -> Any:
        raise CounterError("unavailable", "Redis is away")


class Page:
    """The listener's pages, and how they are asked."""

    def __init__(self, counters: Counters | None = None) -> None:
        metrics, limits = Metrics(CollectorRegistry()), limits_of(LIMITS)
        counters = counters or MemoryCounters(metrics)
        quota = QuotaService(limits, counters, config.RateLimits(), metrics, local=MemoryCounters(metrics))
        self._pages = LimitPages(Desk(limits, counters), quota.should_rate_limit)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["Page"]:
        async def not_ready() -> list[str]:
            return []

        self.server = AdminServer(
            "127.0.0.1:0", CollectorRegistry(), not_ready, list, pages=self._pages.routes
        )
        await self.server.start()
        try:
            yield self
        finally:
            await self.server.close()

    async def post(self, path: str, body: object, **headers: str) -> tuple[int, Any]:
        """Status, and the answer, decoded if it is JSON."""
        data = io.BytesIO(body if isinstance(body, bytes) else json.dumps(body).encode())
        headers = {"content-type": "application/json", **headers}
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"http://{self.server.address}{path}", data=data, headers=headers) as answer,
        ):
            text = await answer.text()
            return answer.status, json.loads(text) if answer.content_type == "application/json" else text


@on_loop
async def test_json_is_judged_and_counted() -> None:
    async with Page().running() as page:
        assert [(await page.post("/json", ALICE))[0] for _ in range(3)] == [200, 429, 429]
        _, answer = await page.post("/json", ALICE)
        assert answer["overallCode"] == "OVER_LIMIT"
        assert answer["statuses"][0]["currentLimit"] == {
            "name": "per-user",
            "requestsPerUnit": 1,
            "unit": "DAY",
        }


@on_loop
async def test_json_takes_what_curl_sends_by_default() -> None:
    async with Page().running() as page:
        headers = {"content-type": "application/x-www-form-urlencoded"}
        assert (await page.post("/json", ALICE, **headers))[0] == 200


WRONG: dict[str, tuple[bytes, str]] = {
    "no JSON": (b"{", "expected a RateLimitRequest as JSON"),
    "nothing": (b"", "expected a RateLimitRequest as JSON"),
    "no text": (b"\xff", "expected a RateLimitRequest as JSON"),
    "unknown field": (b'{"domian": "x"}', 'no field named "domian"'),
    "deep": (b"[" * 100_000, "expected a RateLimitRequest as JSON"),
    "no domain": (b"{}", "domain: expected the name of a domain, got nothing"),
}


@pytest.mark.parametrize(("body", "message"), WRONG.values(), ids=WRONG)
def test_json_that_is_wrong_is_refused(body: bytes, message: str) -> None:
    @on_loop
    async def scenario() -> None:
        async with Page().running() as page:
            status, text = await page.post("/json", body)
            assert status == 400
            assert message in text

    scenario()


@on_loop
async def test_a_body_beyond_a_mebibyte_is_refused() -> None:
    async with Page().running() as page:
        assert (await page.post("/json", b" " * (1024**2 + 1)))[0] == 413


@on_loop
async def test_counters_that_fail_are_the_server_s_fault() -> None:
    async with Page(Failing()).running() as page:  # type: ignore[arg-type]
        for path in ("/json", "/limits/peek", "/limits/reset"):
            assert await page.post(path, ALICE) == (500, "Redis is away\n")


@on_loop
async def test_rlconfig_is_that_of_envoyproxy_ratelimit_and_says_more_of_what_that_has_not() -> None:
    async with (
        Page().running() as page,
        aiohttp.ClientSession() as session,
        session.get(f"http://{page.server.address}/rlconfig") as answer,
    ):
        assert (await answer.text()).splitlines() == [
            "shop.user: unit=DAY requests_per_unit=1, shadow_mode: false, quota_mode: false",
            "shop.free: unit=UNKNOWN requests_per_unit=0, shadow_mode: false, quota_mode: false",
            "shop.job: unit=UNKNOWN requests_per_unit=3, shadow_mode: false, quota_mode: false, "
            "algorithm: concurrency, seconds: 60",
            "shop.tenant.user_a*: unit=WEEK requests_per_unit=0, shadow_mode: false, quota_mode: true",
        ]


@on_loop
async def test_peek_looks_and_reset_sets_back() -> None:
    async with Page().running() as page:
        for _ in range(2):
            await page.post("/json", ALICE)
        for path, used in (("/limits/peek", 2), ("/limits/peek", 2), ("/limits/reset", 0)):
            status, (seen,) = await page.post(path, ALICE)
            assert (status, seen["used"], seen["limit"]["name"]) == (200, used, "per-user")
        assert seen["removed"] == 2
        assert (await page.post("/json", ALICE))[0] == 200


@on_loop
async def test_what_is_not_there_is_refused() -> None:
    async with Page().running() as page:
        for body, message in (
            ({**ALICE, "domain": "x"}, 'no limits for the domain "x"; domains: shop\n'),
            ({"domain": "shop"}, "descriptors: expected at least one, got none\n"),
        ):
            for path in ("/limits/peek", "/limits/reset"):
                assert await page.post(path, body) == (400, message)


@on_loop
async def test_no_page_of_another_site_can_reset() -> None:
    async with Page().running() as page:
        headers = {"content-type": "text/plain"}  # which a browser sends without asking first
        assert (await page.post("/limits/reset", ALICE, **headers))[0] == 400


@pytest.mark.parametrize(
    ("remote", "near"),
    [
        *(("127.0.0.1", True), ("127.1.2.3", True), ("::1", True), ("::ffff:127.0.0.1", True)),
        *(("10.0.0.1", False), ("::ffff:10.0.0.1", False), ("fe80::1", False), ("", False), (None, False)),
    ],
)
def test_only_callers_on_the_same_machine_are_near(remote: str | None, near: bool) -> None:
    assert is_near(remote) is near


@on_loop
async def test_callers_from_elsewhere_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mixer.admin.near.is_near", lambda remote: remote != "127.0.0.1")
    async with Page().running() as page:
        for path in ("/json", "/limits/peek", "/limits/reset"):
            assert (await page.post(path, ALICE))[0] == 403

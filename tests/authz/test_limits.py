"""Limits on Check: what is counted, what is answered, and what becomes of slots. The engine is the embedded one."""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest
from envoy.service.auth.v3.external_auth_pb2 import CheckRequest, CheckResponse
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from mixer import config
from mixer.authz.decided import Decided
from mixer.authz.service import CheckService
from mixer.decisions.event import event_of
from mixer.errors import CounterError, DecisionError
from mixer.metrics import Metrics
from mixer.policy.cache import DecisionCache
from mixer.policy.regorus import EmbeddedEngine
from mixer.ratelimit.counters import Counters
from mixer.ratelimit.memory import MemoryCounters
from mixer.ratelimit.quota import Quotas
from mixer.ratelimit.redis import RedisCounters
from mixer.server.front import Pending
from tests.authz.test_service import metadata, request
from tests.ratelimit.files import limits_of
from tests.ratelimit.loop import run

POLICY = """package p

user := input.attributes.request.http.headers["x-user"]

allow := {
	"allowed": true,
	"headers": {"x-user": user},
	"dynamic_metadata": {"reason": "ok"},
	"rate_limits": [{"key": ["user", user], "requests_per_unit": 2, "unit": "hour", "name": "per-user"}],
} if input.attributes.request.http.method == "GET"

allow := {"allowed": false, "rate_limits": "not looked at"} if input.attributes.request.http.method == "PUT"

allow if input.attributes.request.http.method == "HEAD"

limits contains {"key": ["all"], "requests_per_unit": 3, "unit": "hour"} if {
	not input.attributes.request.http.headers["x-free"]
}
"""
SLOTS = """package p

allow := {"allowed": true, "rate_limits": [
	{"key": ["busy"], "algorithm": "concurrency", "requests_per_unit": 1, "lease": "5m"},
	{"key": ["user", input.attributes.request.http.path], "requests_per_unit": 1, "unit": "hour"},
]}
"""
FILE = """\
domain: shop
descriptors:
- {key: user, rate_limit: {unit: hour, requests_per_unit: 2, name: of-file}}
"""
NOW = 1_800_000_000.0  # where a minute, an hour and a day begin


class Limited:
    """A service that counts, and what it tells."""

    def __init__(
        self,
        folder: Path,
        policy: str = POLICY,
        *,
        rule: bool = False,
        cache: bool = False,
        dry_run: bool = False,
        counters: Callable[[Metrics], Counters] | None = None,
        **settings: Any,
    ) -> None:
        (folder / "p.rego").write_text(policy)
        self.registry = CollectorRegistry()
        metrics = Metrics(self.registry)
        self.engine = EmbeddedEngine(
            config.Policy(paths=(folder,), decision="p/allow"), others=("p/limits",) if rule else ()
        )
        asyncio.run(self.engine.start())
        self.counters = MemoryCounters(metrics, lambda: NOW) if counters is None else counters(metrics)
        limits = config.RateLimits.model_validate(settings)
        quotas = Quotas(
            limits_of(FILE), self.counters, limits, metrics, local=MemoryCounters(metrics), clock=lambda: NOW
        )
        kept = DecisionCache(100, 60.0, metrics) if cache else None
        limiter = quotas.by_rule(self.engine.of("p/limits"), kept) if rule else quotas.limiter()
        self.told: list[Decided] = []
        self.service = CheckService(
            self.engine,
            DecisionCache(100, 60.0, metrics) if cache else None,
            metrics,
            clock=lambda: NOW,
            observer=self.told.append,
            dry_run=dry_run,
            limiter=limiter,
        )

    def __call__(self, method: str = "GET", path: str = "/", **headers: str) -> CheckResponse:
        answer = self.service.check(request(method, path, **headers), None)
        assert isinstance(answer, bytes), "counters in memory need no task"
        return CheckResponse.FromString(answer)

    def codes(self, *users: str) -> list[int]:
        return [self(x_user=user).status.code for user in users]

    def count(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(f"mixer_{name}", labels) or 0.0


def given(answer: CheckResponse) -> dict[str, str]:
    """Headers for the client."""
    options = (*answer.denied_response.headers, *answer.ok_response.response_headers_to_add)
    return {option.header.key: option.header.value for option in options}


def test_allowed_request_is_counted_against_what_its_decision_asks_for(tmp_path: Path) -> None:
    limited = Limited(tmp_path)
    assert limited.codes("a", "a", "a", "b") == [0, 0, 8, 0]
    assert limited.count("decisions_total", decision="p/allow", outcome="allowed") == 3
    assert limited.count("decisions_total", decision="p/allow", outcome="over_limit") == 1
    assert limited.count("limit_hits_total", limit="per-user", outcome="over") == 1
    assert limited.count("quota_descriptors_total", outcome="over_limit") == 1


def test_answer_over_the_limit(tmp_path: Path) -> None:
    limited = Limited(tmp_path)
    allowed, _, refused = (limited(x_user="a") for _ in range(3))
    assert allowed.ok_response.headers[0].header.value == "a"
    assert given(allowed) == {}
    assert refused.denied_response.status.code == 429
    assert given(refused) == {
        "Retry-After": "3600",
        "RateLimit-Limit": "2",
        "RateLimit-Remaining": "0",
        "RateLimit-Reset": "3600",
    }
    assert not refused.HasField("ok_response")
    told = metadata(refused)
    assert told["reason"] == "ok"
    assert told["mixer"] == metadata(allowed)["mixer"] | {"code": "OVER_LIMIT"}
    assert told["mixer"]["limit"] == "per-user"
    assert told["mixer"]["policy"] == "p/allow"
    assert told["decision_id"] == limited.told[-1].decision_id


def test_headers_go_to_allowed_clients_when_asked_for(tmp_path: Path) -> None:
    headers = {"enabled": True, "remaining": "X-Left", "draft": True}
    limited = Limited(tmp_path, rule=True, response_headers=headers)
    told = given(limited(x_user="a"))
    assert told["RateLimit-Limit"] == "2"
    assert told["X-Left"] == "1"
    assert told["RateLimit-Policy"] == '"per-user";q=2;w=3600, "all";q=3;w=3600'
    assert told["RateLimit"].startswith('"per-user";r=1;t=')


def test_denied_request_is_not_counted(tmp_path: Path) -> None:
    limited = Limited(tmp_path, rule=True)
    for _ in range(5):
        assert limited("PUT", x_user="a").status.code == 7
    assert limited.count("limit_hits_total", limit="all", outcome="within") == 0
    assert limited.codes("a") == [0]


def test_decision_from_the_cache_is_counted_all_the_same(tmp_path: Path) -> None:
    limited = Limited(tmp_path, rule=True, cache=True)
    answers = [limited(x_user="a") for _ in range(3)]
    assert [metadata(answer)["mixer"]["cache"] for answer in answers] == ["miss", "hit", "hit"]
    assert [answer.status.code for answer in answers] == [0, 0, 8]
    assert limited.count("evaluation_duration_seconds_count", engine="embedded") == 2


def test_rule_limits_decisions_of_any_shape(tmp_path: Path) -> None:
    limited = Limited(tmp_path, rule=True)
    assert [limited("HEAD").status.code for _ in range(4)] == [0, 0, 0, 8]
    assert limited("HEAD", x_free="1").status.code == 0
    assert "limit" not in metadata(limited("HEAD", x_free="1"))["mixer"]


def test_rule_and_decision_are_counted_together(tmp_path: Path) -> None:
    limited = Limited(tmp_path, rule=True)
    assert limited.codes("a", "a", "b", "c") == [0, 0, 0, 8]
    assert metadata(limited(x_user="c"))["mixer"]["limit"] == "all"


def test_rule_that_reads_no_input_is_evaluated_once(tmp_path: Path) -> None:
    constant = 'package p\nallow := true\nlimits := [{"key": "all", "requests_per_unit": 1, "unit": "hour"}]'
    limited = Limited(tmp_path, constant, rule=True)
    assert limited.codes("a", "a", "a") == [0, 8, 8]
    assert limited.count("evaluation_duration_seconds_count", engine="embedded") == 3 + 1


def test_limit_of_a_file_by_its_descriptors(tmp_path: Path) -> None:
    policy = """package p
allow := {"allowed": true, "rate_limits": [{"domain": "shop", "descriptors": [[{"key": "user", "value": "a"}]]}]}
"""
    limited = Limited(tmp_path, policy)
    answers = [limited() for _ in range(3)]
    assert [answer.status.code for answer in answers] == [0, 0, 8]
    assert metadata(answers[2])["mixer"]["limit"] == "of-file"


def test_dry_run_counts_and_lets_pass(tmp_path: Path) -> None:
    limited = Limited(tmp_path, dry_run=True)
    with capture_logs() as logs:
        answers = [limited(x_user="a") for _ in range(3)]
    assert [answer.status.code for answer in answers] == [0, 0, 0]
    assert answers[2].ok_response.headers[0].header.value == "a"
    assert metadata(answers[2])["mixer"]["code"] == "OVER_LIMIT"
    assert limited.count("dry_run_passed_total") == 1
    assert [each["event"] for each in logs] == ["dry_run_let_pass"]
    assert limited("PUT").status.code == 0
    assert limited.count("quota_descriptors_total", outcome="ok") == 2


def test_shadow_mode_counts_and_lets_pass(tmp_path: Path) -> None:
    limited = Limited(tmp_path, shadow_mode=True)
    assert limited.codes("a", "a", "a") == [0, 0, 0]
    assert limited.count("limit_hits_total", limit="per-user", outcome="shadow") == 1


@pytest.mark.parametrize(
    ("limits", "mistake"),
    [
        ('[{"key": ["k"], "requests_per_unit": 1, "unit": "eon"}]', "rate_limits[0].unit: expected second, minute"),
        ('{"key": ["k"]}', "rate_limits: expected an array or a set of objects, got an object"),
    ],
)  # fmt: skip
def test_illegal_limit_of_a_decision_is_an_error(tmp_path: Path, limits: str, mistake: str) -> None:
    limited = Limited(tmp_path, f'package p\nallow := {{"allowed": true, "rate_limits": {limits}}}')
    with capture_logs() as logs, pytest.raises(DecisionError) as raised:
        limited()
    assert f"illegal limit: {mistake}" in str(raised.value)
    assert logs[0]["event"] == "decision_failed"
    assert limited.count("engine_errors_total", engine="embedded", reason="illegal") == 1


def test_illegal_limit_of_the_rule_is_an_error_that_names_it(tmp_path: Path) -> None:
    policy = (
        'package p\nallow := true\nlimits contains {"key": ["k"], "requests_per_unit": "5", "unit": "hour"}'
    )
    limited = Limited(tmp_path, policy, rule=True)
    with pytest.raises(
        DecisionError, match=r"illegal limit: p/limits\[0\].requests_per_unit: expected a whole"
    ):
        limited()
    assert limited.count("engine_errors_total", engine="embedded", reason="illegal") == 1
    assert (limited.told[0].reason, limited.told[0].allowed) == ("illegal", None)


def test_limits_without_anything_to_count_them_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "p.rego").write_text(POLICY)
    engine = EmbeddedEngine(config.Policy(paths=(tmp_path,), decision="p/allow"))
    asyncio.run(engine.start())
    service = CheckService(engine, None, Metrics(CollectorRegistry()))
    with pytest.raises(DecisionError, match="rate_limits need the section rate_limits"):
        service.check(request(x_user="a"), None)


def test_decision_log_says_which_limit_fired(tmp_path: Path) -> None:
    limited = Limited(tmp_path)
    limited.codes("a", "a", "a")
    passed, _, refused = (event_of(decided, {}, {}, 1.0, {}) for decided in limited.told)
    assert passed["custom"]["limit"] == {"name": "per-user", "code": "OK"}
    assert refused["custom"] == {
        "outcome": "denied",
        "cache": "off",
        "limit": {"name": "per-user", "code": "OVER_LIMIT"},
    }
    assert refused["result"]["allowed"] is True


class Failing(MemoryCounters):
    def hit(self, *_: object, **__: object) -> Any:
        raise CounterError("unavailable", "away")


def test_counters_that_fail_are_an_error(tmp_path: Path) -> None:
    limited = Limited(tmp_path, counters=Failing)
    with capture_logs() as logs, pytest.raises(CounterError, match="away"):
        limited(x_user="a")
    assert [each["event"] for each in logs] == ["count_failed"]
    (told,) = limited.told
    assert (told.reason, told.error, told.allowed) == ("unavailable", "away", None)
    assert orjson.loads(told.result or "")["allowed"] is True
    assert limited.count("engine_errors_total", engine="embedded", reason="unavailable") == 0


ON_ERROR = """\
package p

allow := {"allowed": true, "rate_limits": [object.union(
	{"key": "all", "requests_per_unit": 2, "unit": "minute", "name": "all"},
	{k: v | some k, v in {"on_error": input.attributes.request.http.headers["x-on-error"]}},
)]}
"""


@pytest.mark.parametrize(
    ("on_error", "codes"), [("allow", [0, 0, 0]), ("deny", [8, 8, 8]), ("local", [0, 0, 8])]
)
def test_limits_say_what_is_answered_while_their_counters_are_away(
    tmp_path: Path, on_error: str, codes: list[int]
) -> None:
    limited = Limited(tmp_path, ON_ERROR, counters=Failing, instances=1)
    answers = [limited(x_on_error=on_error) for _ in range(3)]
    assert [answer.status.code for answer in answers] == codes
    assert {metadata(answer)["mixer"]["on_error"] for answer in answers} == {on_error}
    assert limited.count("counter_on_error_total", on_error=on_error) == 3
    assert all("Retry-After" in given(answer) for answer in answers if answer.status.code)


def test_limits_that_say_nothing_go_by_the_settings_while_their_counters_are_away(tmp_path: Path) -> None:
    assert Limited(tmp_path, counters=Failing, on_error="allow").codes("a", "a", "a") == [0, 0, 0]


def test_share_of_a_limit_needs_to_know_how_many_share_it(tmp_path: Path) -> None:
    limited = Limited(tmp_path, ON_ERROR)
    with capture_logs(), pytest.raises(DecisionError, match=r"on_error: local needs rate_limits\.instances"):
        limited(x_on_error="local")


def test_request_with_a_slot_says_so_in_its_metadata(tmp_path: Path) -> None:
    limited = Limited(tmp_path, SLOTS)
    assert metadata(limited())["mixer"]["holds"] is True
    refused = limited(path="/other")
    assert refused.status.code == 8
    assert given(refused)["Retry-After"] == "1"
    assert "holds" not in metadata(refused)["mixer"]


def test_slot_goes_back_with_its_decisions_id(tmp_path: Path) -> None:
    limited = Limited(tmp_path, SLOTS)
    holder = metadata(limited())["decision_id"]
    assert limited(path="/other").status.code == 8
    assert asyncio.run(limited.counters.release([holder], int(NOW * 1e6))) == 1
    assert limited(path="/another").status.code == 0


def test_request_over_another_limit_keeps_no_slot(tmp_path: Path) -> None:
    limited = Limited(tmp_path, SLOTS)

    holder = metadata(limited())["decision_id"]
    asyncio.run(limited.counters.release([holder], int(NOW * 1e6)))
    assert limited().status.code == 8  # over the limit of its path
    assert limited(path="/other").status.code == 0


class Redis:
    """A service on Redis within a loop."""

    def __init__(self, folder: Path, url: str, policy: str = POLICY, **settings: Any) -> None:
        (folder / "p.rego").write_text(policy)
        self._policy = config.Policy(paths=(folder,), decision="p/allow")
        self._settings = config.RateLimits.model_validate(
            {"redis": {"url": url, "timeout": "10s", "connect_timeout": "10s"}, **settings}
        )
        self.registry = CollectorRegistry()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[CheckService]:
        metrics = Metrics(self.registry)
        engine = EmbeddedEngine(self._policy)
        await engine.start()
        self.counters = RedisCounters(self._settings, metrics)
        await self.counters.start()
        quotas = Quotas(
            limits_of(FILE), self.counters, self._settings, metrics, local=MemoryCounters(metrics)
        )
        try:
            yield CheckService(engine, None, metrics, limiter=quotas.limiter())
        finally:
            await self.counters.close()

    def count(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(f"mixer_{name}", labels) or 0.0


async def answers(found: Sequence[bytes | Awaitable[bytes] | Exception]) -> list[CheckResponse]:
    done = [
        each if isinstance(each, bytes) else await each for each in found if not isinstance(each, Exception)
    ]
    return [CheckResponse.FromString(each) for each in done]


def test_calls_that_arrive_together_share_a_round_trip(tmp_path: Path, redis_url: str) -> None:
    redis = Redis(tmp_path, redis_url)

    async def main() -> None:
        async with redis.running() as service:
            requests: list[tuple[CheckRequest, float | None]] = [(request(x_user="a"), 5.0)] * 16
            codes = [answer.status.code for answer in await answers(service.check_all(requests))]
            assert sorted(codes) == [0] * 2 + [8] * 14
            assert redis.count("counter_batch_size_count", store="redis") == 1
            # What is known to be over is answered at once, without a task.
            (late,) = service.check_all(requests[:1])
            assert isinstance(late, bytes)

    run(main())


def test_slot_of_a_call_that_is_cancelled_comes_back(tmp_path: Path, redis_url: str) -> None:
    redis = Redis(tmp_path, redis_url, SLOTS)

    async def main() -> None:
        async with redis.running() as service:
            waiting = service.check(request(path="/1"), 5.0)
            assert isinstance(waiting, Pending)
            told: list[bytes | BaseException] = []
            waiting.then(told.append)
            await asyncio.sleep(0)  # its hits are on their way to Redis
            waiting.cancel()
            async with asyncio.timeout(20):  # the slot itself is leased for five minutes
                for path in map(str, itertools.count()):
                    (answer,) = await answers([service.check(request(path=path), 5.0)])
                    if answer.status.code == 0:
                        break
            assert isinstance(told[0], asyncio.CancelledError)

    run(main())

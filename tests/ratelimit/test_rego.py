"""Limits from Rego on Quota. The engine is the embedded one, counters are in memory, the clock is the test's."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from envoy.service.ratelimit.v3.rls_pb2 import RateLimitRequest, RateLimitResponse
from google.protobuf.json_format import MessageToDict
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from mixer import config
from mixer.errors import DecisionError, LimitsError
from mixer.metrics import Metrics
from mixer.policy.cache import DecisionCache
from mixer.policy.regorus import EmbeddedEngine
from mixer.ratelimit.memory import MemoryCounters
from mixer.ratelimit.quota import Quotas
from mixer.runtime import Runtime
from tests.ratelimit.files import limits_of
from tests.ratelimit.test_service import codes_of, mixer_of, request

POLICY = """package r

limits contains {
	"name": "plan",
	"key": ["plan", entry.value],
	"requests_per_unit": data.plans[entry.value],
	"unit": "minute",
	"over_limit": {"headers": {"x-why": "plan"}, "body": "late"},
} if {
	some descriptor in input.descriptors
	some entry in descriptor
	entry.key == "user"
}

limits contains {"name": "domain", "key": ["domain", input.domain], "requests_per_unit": 6, "unit": "minute"}

limits contains {"key": "big", "requests_per_unit": 9, "unit": "minute", "hits": input.hits_addend} if {
	input.hits_addend > 3
}

plans := {"unused": 1}
"""
FILE = """\
domain: shop
descriptors:
- {key: path, rate_limit: {unit: minute, requests_per_unit: 2, name: of-file}}
"""
NOW = 1_800_000_000.0
OK, OVER = "OK", "OVER_LIMIT"
ALICE = {"user": "alice"}


class Quota:
    """A service with a rule, and what it tells."""

    def __init__(self, folder: Path, policy: str = POLICY, *, cache: bool = False, **settings: Any) -> None:
        (folder / "r.rego").write_text(policy)
        (folder / "plans").mkdir()
        (folder / "plans" / "data.json").write_text('{"alice": 2, "bob": 3}')
        self.registry = CollectorRegistry()
        metrics = Metrics(self.registry)
        engine = EmbeddedEngine(config.Policy(paths=(folder,), decision="r/limits"))
        asyncio.run(engine.start())
        counters = MemoryCounters(metrics, lambda: NOW)
        limits = config.RateLimits.model_validate(settings)
        quotas = Quotas(
            limits_of(FILE), counters, limits, metrics, local=MemoryCounters(metrics), clock=lambda: NOW
        )
        quotas.by_rule(engine, DecisionCache(100, 60.0, metrics) if cache else None)
        self.service = quotas.service

    def ask(self, message: RateLimitRequest) -> RateLimitResponse:
        answer = self.service.should_rate_limit(message.SerializeToString(), None)
        assert isinstance(answer, bytes)
        return RateLimitResponse.FromString(answer)

    def count(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(f"mixer_{name}", labels) or 0.0


def test_rule_limits_by_the_descriptors_it_sees(tmp_path: Path) -> None:
    quota = Quota(tmp_path)
    answers = [quota.ask(request(ALICE)) for _ in range(3)]
    assert [codes_of(answer)[0] for answer in answers] == [OK, OK, OVER]
    assert mixer_of(answers[2]) == {"limit": "plan", "code": OVER}
    assert codes_of(quota.ask(request({"user": "bob"})))[0] == OK


def test_statuses_of_descriptors_come_first_and_in_their_order(tmp_path: Path) -> None:
    answer = Quota(tmp_path).ask(request({"other": "x"}, {"path": "/"}, ALICE))
    names = [MessageToDict(status).get("currentLimit", {}).get("name", "") for status in answer.statuses]
    assert names == ["", "of-file", "", "domain", "plan"]


def test_files_and_rule_limit_together(tmp_path: Path) -> None:
    quota = Quota(tmp_path)
    answers = [quota.ask(request({"path": "/"})) for _ in range(3)]
    assert [mixer_of(answer)["code"] for answer in answers] == [OK, OK, OVER]
    assert mixer_of(answers[2])["limit"] == "of-file"


def test_hits_of_the_request_are_those_of_limits_that_name_none(tmp_path: Path) -> None:
    quota = Quota(tmp_path)
    assert codes_of(quota.ask(request({"a": "b"}, hits_addend=4)))[0] == OK
    assert quota.count("limit_hits_total", limit="domain", outcome="within") == 4
    assert quota.count("limit_hits_total", limit="big", outcome="within") == 4
    assert mixer_of(quota.ask(request({"a": "b"}, hits_addend=3))) == {"limit": "domain", "code": OVER}


def test_client_over_the_limit_is_told_what_the_policy_says(tmp_path: Path) -> None:
    quota = Quota(tmp_path)
    first, _, last = (quota.ask(request(ALICE)) for _ in range(3))
    assert not first.response_headers_to_add
    assert [(header.key, header.value) for header in last.response_headers_to_add] == [("x-why", "plan")]
    assert last.raw_body == b"late"


def test_client_over_the_limit_is_told_beside_ordinary_limits_too(tmp_path: Path) -> None:
    policy = """package r
limits := [{"key": "all", "requests_per_unit": 1, "unit": "hour", "over_limit": {"body": "late"}}]
"""
    quota = Quota(tmp_path, policy)
    assert [quota.ask(request({"path": "/"})).raw_body for _ in range(2)] == [b"", b"late"]


def test_client_over_the_limit_is_told_when_to_come_back_where_headers_are_asked_for(tmp_path: Path) -> None:
    quota = Quota(tmp_path, response_headers={"enabled": True})
    for _ in range(3):
        answer = quota.ask(request(ALICE))
    headers = {header.key: header.value for header in answer.response_headers_to_add}
    assert headers["Retry-After"] == headers["RateLimit-Reset"]
    assert headers["x-why"] == "plan"


def test_equal_descriptors_are_evaluated_once(tmp_path: Path) -> None:
    quota = Quota(tmp_path, cache=True)
    for _ in range(3):
        quota.ask(request({"user": "bob"}))
    assert quota.count("evaluation_duration_seconds_count", engine="embedded") == 1
    assert quota.count("decision_cache_lookups_total", outcome="hit") == 2
    quota.ask(request(ALICE))
    assert quota.count("evaluation_duration_seconds_count", engine="embedded") == 2


def test_rule_that_reads_nothing_is_evaluated_once_without_a_cache(tmp_path: Path) -> None:
    quota = Quota(tmp_path, 'package r\nlimits := [{"key": "all", "requests_per_unit": 1, "unit": "hour"}]')
    assert [codes_of(quota.ask(request({"n": str(n)})))[0] for n in range(3)] == [OK, OVER, OVER]
    assert quota.count("evaluation_duration_seconds_count", engine="embedded") == 1


@pytest.mark.parametrize(
    ("policy", "reason", "message"),
    [
        (
            'package r\nlimits contains {"key": "a", "unit": "day"}',
            "illegal",
            "r/limits[0].requests_per_unit",
        ),
        (
            "package r\nlimits := 7",
            "illegal",
            "r/limits: expected an array or a set of objects, got the number 7",
        ),
        ('package r\nlimits := [] if input.domain == "other"', "undefined", "r/limits is undefined"),
    ],
)
def test_rule_that_fails_is_an_error_that_is_logged_and_counted(
    tmp_path: Path, policy: str, reason: str, message: str
) -> None:
    quota = Quota(tmp_path, policy)
    with capture_logs() as logs, pytest.raises(DecisionError) as raised:
        quota.ask(request(ALICE))
    assert message in str(raised.value)
    assert (logs[0]["event"], logs[0]["reason"]) == ("limits_failed", reason)
    assert quota.count("engine_errors_total", engine="embedded", reason=reason) == 1


def test_slot_is_taken_under_an_id_that_the_access_log_has(tmp_path: Path) -> None:
    policy = """package r
limits := [{"key": "busy", "algorithm": "concurrency", "requests_per_unit": 1, "lease": "5m"}]
"""
    quota = Quota(tmp_path, policy)
    answer = quota.ask(request(ALICE))
    (holder,) = MessageToDict(answer.dynamic_metadata)["mixer"]["holders"]
    assert mixer_of(quota.ask(request(ALICE))) == {"limit": "busy", "code": OVER}
    counters: Any = quota.service._counters
    assert asyncio.run(counters.release([holder], int(NOW * 1e6))) == 1


SLOTS = """\
domain: shop
descriptors:
- {key: busy, rate_limit: {algorithm: concurrency, requests_per_unit: 2, lease: 1m}}
"""


def settings_with(folder: Path, counters: str) -> config.Config:
    (folder / "limits.yaml").write_text(SLOTS)
    address = {"address": "127.0.0.1:0"}
    return config.Config.model_validate(
        {
            "listeners": {"check": address, "report": address, "admin": address},
            "rate_limits": {"paths": [folder / "limits.yaml"], "counters": counters},
        }
    )


def test_slots_in_memory_that_no_access_log_gives_back_are_refused(tmp_path: Path) -> None:
    async def start(role: Any) -> None:
        runtime = Runtime.build(settings_with(tmp_path, "memory"), role, "")
        try:
            await runtime.start()
        finally:
            await runtime.close(1)

    with pytest.raises(
        LimitsError, match=r"shop.busy: algorithm: concurrency with counters: memory and --role check"
    ):
        asyncio.run(start("check"))
    asyncio.run(start("all"))

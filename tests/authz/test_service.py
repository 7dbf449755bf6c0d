"""Check, from the request to the answer: the engine is the embedded one, the clock is the test's."""

import asyncio
import contextlib
import inspect
import json
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import jwt
import pytest
from envoy.service.auth.v3.external_auth_pb2 import CheckRequest, CheckResponse
from google.protobuf.json_format import MessageToDict
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from mixer import config
from mixer.authz.decided import Decided
from mixer.authz.service import CheckService
from mixer.errors import DecisionError
from mixer.metrics import Metrics
from mixer.policy.cache import DecisionCache
from mixer.policy.engine import Evaluation, PolicyEngine
from mixer.policy.regorus import EmbeddedEngine

POLICY = """package p

default allow := {"allowed": false, "dynamic_metadata": {"reason": "no"}}

allow := {"allowed": true, "headers": {"x-user": input.attributes.request.http.headers["x-user"]}} if {
	input.attributes.request.http.method == "GET"
}
"""


class Checks:
    """A service over a policy, and what it counts."""

    def __init__(self, folder: Path, policy: str = POLICY, *, cache: bool = True, entries: int = 100) -> None:
        (folder / "p.rego").write_text(policy)
        # Nothing here leads back to this object: an engine must go as soon as the test does, on the test's thread.
        self._now = now = [1000.0]
        self.registry = CollectorRegistry()
        metrics = Metrics(self.registry)
        engine = EmbeddedEngine(config.Policy(paths=(folder,), decision="p/allow"), clock=lambda: now[0])
        asyncio.run(engine.start())
        kept = DecisionCache(entries, 60.0, metrics) if cache else None
        self.told: list[Decided] = []
        self.service = CheckService(engine, kept, metrics, clock=lambda: now[0], observer=self.told.append)

    @property
    def now(self) -> float:
        """What the clock says, in Unix seconds."""
        return self._now[0]

    @now.setter
    def now(self, seconds: float) -> None:
        self._now[0] = seconds

    def __call__(self, method: str = "GET", path: str = "/", **headers: str) -> CheckResponse:
        answer = self.service.check(request(method, path, **headers), None)
        assert isinstance(answer, bytes), "the embedded engine answers at once"
        return CheckResponse.FromString(answer)

    def count(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(f"mixer_{name}", labels) or 0.0


def request(method: str = "GET", path: str = "/", **headers: str) -> CheckRequest:
    message = CheckRequest()
    http = message.attributes.request.http
    http.method, http.path = method, path
    for name, value in headers.items():
        http.headers[name.replace("_", "-")] = value
    return message


def metadata(answer: CheckResponse) -> dict[str, Any]:
    return MessageToDict(answer.dynamic_metadata)


def test_answer_says_which_policy_decided(tmp_path: Path) -> None:
    checks = Checks(tmp_path)
    answer = checks("PUT")
    assert answer.status.code == 7
    told = metadata(answer)
    assert told["reason"] == "no"
    assert told["mixer"]["policy"] == "p/allow"
    assert len(told["mixer"]["revision"]) == 12
    assert len(told["decision_id"]) == 36


def test_equal_requests_are_decided_once(tmp_path: Path) -> None:
    checks = Checks(tmp_path)
    answers = [
        checks(x_user="a"),
        checks(x_user="a", x_request_id="7"),
        checks(x_user="b"),
        checks("PUT", x_user="a"),
    ]
    assert [metadata(answer)["mixer"]["cache"] for answer in answers] == ["miss", "hit", "miss", "miss"]
    assert [answer.ok_response.headers[0].header.value for answer in answers[:3]] == ["a", "a", "b"]
    assert answers[3].status.code == 7
    assert len({metadata(answer)["decision_id"] for answer in answers}) == 4
    assert checks.count("evaluation_duration_seconds_count", engine="embedded") == 3
    assert checks.count("decision_cache_lookups_total", outcome="hit") == 1
    assert checks.count("decision_cache_lookups_total", outcome="miss") == 3
    assert checks.count("decisions_total", decision="p/allow", outcome="allowed") == 3
    assert checks.count("decisions_total", decision="p/allow", outcome="denied") == 1


def test_kept_decision_ends_with_its_time(tmp_path: Path) -> None:
    checks = Checks(tmp_path)
    checks(x_user="a")
    checks.now += 59.9
    assert metadata(checks(x_user="a"))["mixer"]["cache"] == "hit"
    checks.now += 0.2
    assert metadata(checks(x_user="a"))["mixer"]["cache"] == "miss"


def test_without_a_cache_every_request_is_decided(tmp_path: Path) -> None:
    checks = Checks(tmp_path, cache=False)
    assert [metadata(checks(x_user="a"))["mixer"]["cache"] for _ in range(2)] == ["off", "off"]
    assert checks.count("decision_cache_lookups_total", outcome="bypass") == 2
    assert checks.count("evaluation_duration_seconds_count", engine="embedded") == 2


@pytest.mark.parametrize(
    ("policy", "reason"),
    [
        ("package p\n\nallow := true if input.attributes.nope", "undefined"),
        ("package p\n\nallow := 5", "illegal"),
        ('package p\n\nallow := {"allowed": "yes"}', "illegal"),
        ("package p\n\nallow := 1 if input.attributes\nallow := 2 if input.parsed_path", "evaluation"),
    ],
)
def test_failed_decision_is_raised_counted_logged_and_not_kept(
    tmp_path: Path, policy: str, reason: str
) -> None:
    checks = Checks(tmp_path, policy)
    with capture_logs() as logs:
        for _ in range(3):
            with pytest.raises(DecisionError) as caught:
                checks()
            assert caught.value.reason == reason
    assert checks.count("engine_errors_total", engine="embedded", reason=reason) == 3
    assert checks.count("decision_cache_lookups_total", outcome="miss") == 3, "a failure is not kept"
    assert checks.count("decisions_total", decision="p/allow", outcome="allowed") == 0
    [event] = logs  # the others are held back
    assert event["event"] == "decision_failed"
    assert event["reason"] == reason
    assert len(event["decision_id"]) == 36


def test_request_that_cannot_be_read_is_denied_without_the_policy(tmp_path: Path) -> None:
    checks = Checks(tmp_path, "package p\n\nallow := true\n")
    answer = checks(path="/%zz")
    assert answer.status.code == 7
    assert answer.denied_response.status.code == 400
    assert metadata(answer)["reason"] == "request_malformed"
    assert checks.count("engine_errors_total", engine="embedded", reason="request_malformed") == 1
    assert checks.count("decisions_total", decision="p/allow", outcome="denied") == 1
    assert checks.count("evaluation_duration_seconds_count", engine="embedded") == 0


class Slow:
    """An engine that is waited for, as one behind a network is."""

    name, decision, revision = "opa", "p/allow", ""

    def __init__(self, checked: PolicyEngine, outcome: Evaluation | DecisionError) -> None:
        self.references = checked.references
        self._outcome = outcome

    def evaluate(self, document: bytes, timeout: float | None, value: object = None) -> Awaitable[Evaluation]:
        async def wait() -> Evaluation:
            await asyncio.sleep(0)
            if isinstance(self._outcome, DecisionError):
                raise self._outcome
            return self._outcome

        return wait()


@pytest.mark.parametrize("outcome", [Evaluation("true"), Evaluation("5"), DecisionError("timeout", "late")])
def test_engine_that_is_waited_for_is_answered_and_counted_alike(
    tmp_path: Path, outcome: Evaluation | DecisionError
) -> None:
    checks = Checks(tmp_path)
    metrics = Metrics(CollectorRegistry())
    slow: Any = Slow(checks.service._engine, outcome)
    answer = CheckService(slow, None, metrics).check(request(), None)
    assert inspect.isawaitable(answer)

    async def wait() -> bytes:
        return await answer

    def count(name: str, **labels: str) -> float | None:
        return metrics.registry.get_sample_value(name, labels)

    if outcome == Evaluation("true"):
        assert CheckResponse.FromString(asyncio.run(wait())).status.code == 0
        assert count("mixer_decisions_total", decision="p/allow", outcome="allowed") == 1
    else:
        with pytest.raises(DecisionError) as caught:
            asyncio.run(wait())
        assert count("mixer_engine_errors_total", engine="opa", reason=caught.value.reason) == 1


def test_decision_by_a_token_is_not_kept_longer_than_the_token(tmp_path: Path) -> None:
    secret = 32 * "k"
    text = jwt.encode({"exp": 1030}, secret, "HS256")
    call = f'io.jwt.decode_verify(input.attributes.request.http.headers["x-t"], {{"secret": "{secret}"}})[0]'
    policy = f"package p\n\nallow := {call}\n"
    checks = Checks(tmp_path, policy)
    seen = []
    for step in (0, 29, 2):
        checks.now += step
        answer = checks(x_t=text)
        seen.append((answer.status.code, metadata(answer)["mixer"]["cache"]))
    assert seen == [(0, "miss"), (0, "hit"), (7, "miss")]


def test_observer_is_told_of_every_decision(tmp_path: Path) -> None:
    checks = Checks(tmp_path)
    ids = [metadata(checks(x_user="a", x_other="b"))["decision_id"] for _ in range(2)]
    ids.append(metadata(checks("PUT"))["decision_id"])
    first, again, denied = checks.told
    assert [decided.decision_id for decided in checks.told] == ids
    assert (first.path, len(first.revision), first.timestamp) == ("p/allow", 12, 1000.0)
    assert first.document is not None
    assert json.loads(first.document)["attributes"]["request"]["http"]["headers"] == {"x-user": "a"}
    assert first.request.attributes.request.http.headers["x-other"] == "b"
    assert json.loads(first.result or "")["headers"] == {"x-user": "a"}
    assert (first.allowed, first.cache, again.allowed, again.cache) == (True, "miss", True, "hit")
    assert first.seconds is not None
    assert again.seconds is None
    assert (denied.allowed, denied.error, denied.reason) == (False, None, None)


@pytest.mark.parametrize(
    ("policy", "reason", "result"),
    [
        ("package p\n\nallow := true if input.attributes.nope", "undefined", None),
        ("package p\n\nallow := 5", "illegal", "5"),
    ],
)
def test_observer_is_told_of_failures(tmp_path: Path, policy: str, reason: str, result: str | None) -> None:
    checks = Checks(tmp_path, policy)
    with pytest.raises(DecisionError) as caught:
        checks()
    [decided] = checks.told
    assert (decided.reason, decided.error, decided.result) == (reason, str(caught.value), result)
    assert (decided.allowed, decided.cache) == (None, "miss")


def test_observer_is_told_of_requests_that_cannot_be_read(tmp_path: Path) -> None:
    checks = Checks(tmp_path)
    checks(path="/%zz")
    [decided] = checks.told
    assert (decided.reason, decided.document, decided.allowed) == ("request_malformed", None, False)


@pytest.mark.parametrize("outcome", [Evaluation("true"), Evaluation("5"), DecisionError("timeout", "late")])
def test_observer_is_told_of_what_was_waited_for(tmp_path: Path, outcome: Evaluation | DecisionError) -> None:
    told: list[Decided] = []
    slow: Any = Slow(Checks(tmp_path).service._engine, outcome)
    service = CheckService(slow, None, Metrics(CollectorRegistry()), observer=told.append)

    async def wait() -> None:
        answer = service.check(request(), None)
        assert inspect.isawaitable(answer)
        with contextlib.suppress(DecisionError):
            await answer

    asyncio.run(wait())
    [decided] = told
    assert (decided.allowed, decided.cache) == (True if outcome == Evaluation("true") else None, "off")


def test_requests_that_come_together_are_each_decided(tmp_path: Path) -> None:
    checks = Checks(tmp_path)
    together = [
        request(x_user="a"),
        request(path="/%zz"),
        request(x_user="a"),
        request("PUT"),
        request(),  # x-user is not there, so that allow is its default
    ]
    answers = checks.service.check_all([(message, None) for message in together])
    found = [CheckResponse.FromString(answer) for answer in answers if isinstance(answer, bytes)]
    assert [answer.status.code for answer in found] == [0, 7, 0, 7, 7]
    assert [metadata(answer)["mixer"]["cache"] for answer in found] == ["miss", "off", "hit", "miss", "miss"]
    assert [told.decision_id for told in checks.told] == [metadata(answer)["decision_id"] for answer in found]
    assert checks.count("decisions_total", decision="p/allow", outcome="denied") == 3


def test_failure_among_requests_is_its_own(tmp_path: Path) -> None:
    checks = Checks(tmp_path, 'package p\n\nallow if input.attributes.request.http.method == "GET"\n')
    good, failed, other = checks.service.check_all([(request(verb), None) for verb in ("GET", "PUT", "GET")])
    assert isinstance(good, bytes)
    assert isinstance(other, bytes)
    assert isinstance(failed, DecisionError)
    assert failed.reason == "undefined"

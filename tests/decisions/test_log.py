"""The decision log between Check and the sinks: sampling, secrets, bounds, drain."""

import asyncio
import json
import uuid
from pathlib import Path

import pytest
from envoy.service.auth.v3.external_auth_pb2 import CheckRequest
from structlog.testing import capture_logs

from mixer.authz.decided import Decided, Shadowed
from mixer.decisions.policy import LogPolicy
from mixer.policy import sources
from tests.decisions.decided import NONE, Log, decided

HTTP = ("attributes", "request", "http")


def ids(count: int) -> list[str]:
    return [str(uuid.uuid4()) for _ in range(count)]


def with_headers(**headers: str) -> CheckRequest:
    request = CheckRequest()
    http = request.attributes.request.http
    http.method, http.path = "GET", "/a/b?c=d"
    for name, value in headers.items():
        http.headers[name.replace("_", "-")] = value
    return request


def test_whole_input_is_logged_though_the_policy_reads_little() -> None:
    request = with_headers(accept="x")
    [event] = Log(whole=True)(decided({}, request=request))
    assert event["input"]["attributes"]["request"]["http"]["headers"] == {"accept": "x"}
    assert event["input"]["parsed_path"] == ["a", "b"]
    assert event["input"]["version"] == {"ext_authz": "v3", "encoding": "protojson"}
    [event] = Log(whole=False)(decided({"parsed_path": ["a", "b"]}, request=request))
    assert event["input"] == {"parsed_path": ["a", "b"]}


def test_secret_headers_are_erased_without_any_mask() -> None:
    request = with_headers(authorization="Bearer t", cookie="c", accept="x")
    decision = {
        "allowed": True,
        "headers": [{"Authorization": "internal", "x": "y"}, {"x-api-key": "k"}],
        "response_headers_to_add": {"set-cookie": ["c"], "z": "z"},
    }
    [event] = Log(whole=True)(decided({}, decision, request=request))
    assert event["input"]["attributes"]["request"]["http"]["headers"] == {"accept": "x"}
    assert event["result"]["headers"] == [{"x": "y"}, {}]
    assert event["result"]["response_headers_to_add"] == {"z": "z"}
    assert set(event["erased"]) == {
        "/input/attributes/request/http/headers/authorization",
        "/input/attributes/request/http/headers/cookie",
        "/result/headers/0/Authorization",
        "/result/headers/1/x-api-key",
        "/result/response_headers_to_add/set-cookie",
    }


def test_secret_headers_in_a_header_map_are_erased() -> None:
    request = with_headers()
    headers = request.attributes.request.http.header_map.headers
    headers.add(key="Authorization", raw_value=b"Bearer t")
    headers.add(key="accept", raw_value=b"x")
    headers.add(key="cookie", value="c")
    [event] = Log(whole=True)(decided({}, request=request))
    http = event["input"]["attributes"]["request"]["http"]
    assert http["headerMap"]["headers"] == [
        {"key": "Authorization"},
        {"key": "accept", "rawValue": "eA=="},
        {"key": "cookie"},
    ]
    assert "Bearer" not in json.dumps(event)


def test_secret_headers_are_the_operators_to_name() -> None:
    request = with_headers(authorization="Bearer t", x_mine="m")
    [event] = Log(whole=True, secret_headers=["X-Mine"])(decided({}, request=request))
    assert event["input"]["attributes"]["request"]["http"]["headers"] == {"authorization": "Bearer t"}


def test_what_a_mask_put_in_the_place_of_a_secret_stays(tmp_path: Path) -> None:
    (tmp_path / "log.rego").write_text(
        """package system.log

at := "/input/attributes/request/http/headers"

mask contains {"op": "upsert", "path": concat("/", [at, "authorization"]), "value": kind} if {
	kind := split(input.input.attributes.request.http.headers.authorization, " ")[0]
}
"""
    )
    request = with_headers(authorization="Bearer t", cookie="c")
    [event] = Log(tmp_path, whole=True)(decided({}, request=request))
    assert event["input"]["attributes"]["request"]["http"]["headers"] == {"authorization": "Bearer"}
    assert event["masked"] == ["/input/attributes/request/http/headers/authorization"]
    assert event["erased"] == ["/input/attributes/request/http/headers/cookie"]


def test_sampling_keeps_failures_and_a_share_of_the_rest() -> None:
    log = Log(sample={"allowed": 0.25, "denied": 0.5})
    decisions = [decided({}, True, decision_id=name) for name in ids(1000)]
    decisions += [decided({}, False, decision_id=name, allowed=False) for name in ids(1000)]
    decisions += [
        decided({}, NONE, decision_id=name, error="e", reason="undefined", allowed=None) for name in ids(100)
    ]
    events = log(*decisions)
    count = dict.fromkeys(("allowed", "denied", "error"), 0)
    for event in events:
        count[event["custom"]["outcome"]] += 1
    assert 170 < count["allowed"] < 330
    assert 400 < count["denied"] < 600
    assert count["error"] == 100
    assert log.dropped("sampled") == 2100 - len(events)
    assert {event["custom"]["outcome"]: event["custom"].get("sample") for event in events} == {
        "allowed": 0.25,
        "denied": 0.5,
        "error": None,
    }


def test_decisions_that_a_shadow_would_make_otherwise_are_all_logged() -> None:
    shadows = [Shadowed("p/next", "", outcome) for outcome in ("agree", "would_allow", "would_deny", "error")]
    events = Log(sample={"allowed": 0, "denied": 0})(*[decided({}, shadow=shadow) for shadow in shadows])
    assert [event["custom"]["shadow"]["outcome"] for event in events] == [
        "would_allow",
        "would_deny",
        "error",
    ]
    assert all("sample" not in event["custom"] for event in events)


def test_sample_of_nothing_and_of_all() -> None:
    log = Log(sample={"allowed": 0, "denied": 1})
    chosen = log(decided({}, decision_id="0" * 36), decided({}, False, decision_id="f" * 36, allowed=False))
    assert [event["custom"]["outcome"] for event in chosen] == ["denied"]


@pytest.mark.parametrize("bound", [{"max_records": 3}, {"max_bytes": 3 * 1000 + 500}])
def test_queue_is_bounded_and_what_does_not_fit_is_counted(bound: dict[str, int]) -> None:
    log = Log(buffer=bound)
    document = {"a": "x" * (1000 - len('{"a": ""}') - len("true"))}
    with capture_logs() as logs:
        assert len(log(*[decided(document, decision_id=name) for name in ids(10)])) == 3
    assert log.dropped("buffer_full") == 7
    assert [(event["event"], event["reason"]) for event in logs] == [("decision_not_logged", "buffer_full")]


def test_nothing_is_made_before_the_answer_is_out() -> None:
    log = Log()

    async def run() -> None:
        running = log.make()
        await running.start()
        running.observe(decided({}))
        await asyncio.sleep(0)
        assert log.written.records == []
        while not log.written.records:
            await asyncio.sleep(0.001)
        running.observe(decided({}))
        while len(log.written.records) < 2:
            await asyncio.sleep(0.001)
        await running.close(1)

    asyncio.run(asyncio.wait_for(run(), 30))
    assert log.written.closed


def test_sink_that_blocks_lets_decisions_wait_in_the_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    log, asked, room = Log(), asyncio.Event(), asyncio.Event()

    async def blocked() -> None:
        asked.set()
        await room.wait()

    monkeypatch.setattr(log.written, "room", blocked)

    async def run() -> None:
        running = log.make()
        await running.start()
        running.observe(decided({}))
        await asked.wait()
        assert log.registry.get_sample_value("mixer_decision_log_waiting") == 1
        assert log.written.records == []
        room.set()
        while not log.written.records:
            await asyncio.sleep(0.001)
        await running.close(1)

    asyncio.run(asyncio.wait_for(run(), 30))


def test_close_counts_what_there_is_no_time_for() -> None:
    log = Log()

    async def run() -> None:
        running = log.make()
        await running.start()
        for name in ids(5):
            running.observe(decided({}, decision_id=name))
        await running.close(0)
        running.observe(decided({}))

    asyncio.run(run())
    assert log.dropped("shutdown") == 6
    assert log.written.closed


def test_event_that_cannot_be_made_does_not_end_the_log() -> None:
    broken: Decided = decided({}, decision_id="broken")
    object.__setattr__(broken, "result", "{")
    log = Log()
    with capture_logs() as logs:
        events = log(broken, decided({}))
    assert len(events) == 1
    assert log.dropped("failed") == 1
    assert logs[0]["decision_id"] == "broken"


def test_mask_that_fails_is_told_without_the_value(tmp_path: Path) -> None:
    (tmp_path / "log.rego").write_text("package system.log\n\nmask := input.input.secret\n")
    log = Log(tmp_path)
    with capture_logs() as logs:
        assert log(decided({"secret": "s3cret"})) == []
    assert log.dropped("mask_failed") == 1
    assert "s3cret" not in json.dumps(logs)
    assert logs[0]["error"] == "expected a set or an array of masks"


def test_decision_is_masked_by_the_policies_that_it_was_made_under(tmp_path: Path) -> None:
    policies = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "log.rego").write_text(f'package system.log\n\nmask := ["/input/{name}"]\n')
        policies.append(LogPolicy(sources.load([tmp_path / name])))
    log = Log()

    async def run() -> None:
        running = log.make()
        await running.start()
        for policy in (*policies, None):
            running.policy = policy
            running.observe(decided({"a": 1, "b": 2}))
        await running.close(10)

    asyncio.run(run())
    assert [event["input"] for event in log.written.events] == [{"b": 2}, {"a": 1}, {"a": 1, "b": 2}]

"""Events in OPA's shape, held to those of a real OPA."""

import json
import re
from pathlib import Path
from typing import Any

import grpc
import orjson
import pytest
from envoy.service.auth.v3.external_auth_pb2 import CheckRequest

from mixer.authz.decided import Shadowed
from mixer.decisions.event import DecisionRecord, accessor, rfc3339
from tests.components import processes
from tests.components.processes import wait_until
from tests.decisions.decided import NONE, Log, decided
from tests.decisions.opa import logging_opa
from tests.policy.bundles import built

POLICY = """package p

allow := {"allowed": input.ok}

conflict := 1 if input.ok

conflict := 2 if input.ok
"""
MASK = """package system.log

mask contains "/input/secret"

mask contains {"op": "upsert", "path": "/input/name", "value": "***"}
"""


def kinds(value: Any) -> Any:
    """Names and types, without the values."""
    return {name: kinds(item) for name, item in value.items()} if isinstance(value, dict) else type(value)


@pytest.fixture
def policies(tmp_path: Path) -> Path:
    (tmp_path / "p.rego").write_text(POLICY)
    (tmp_path / "log.rego").write_text(MASK)
    return tmp_path


def test_event_has_the_shape_of_opas(policies: Path) -> None:
    document = {"ok": True, "secret": "s", "name": "n"}
    with logging_opa(policies) as opa:
        opas = opa.event(document)
    assert opas is not None
    [ours] = Log(policies, labels={"a": "b"})(decided(document, {"allowed": True}))
    assert ours.keys() - opas.keys() == {"revision", "custom"}, (
        "fields of EventV1 that this OPA has no use for"
    )
    assert opas.keys() - ours.keys() == set()
    for name in ("path", "input", "result", "erased", "masked", "type"):
        assert ours[name] == opas[name], name
    assert kinds(ours["labels"]) == kinds(opas["labels"])
    assert ours["labels"]["a"] == "b"
    assert len(ours["decision_id"]) == len(opas["decision_id"])
    rfc3339_nanos = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{1,9}Z"
    assert re.fullmatch(rfc3339_nanos, ours["timestamp"])
    assert re.fullmatch(rfc3339_nanos, opas["timestamp"])
    assert ours["metrics"] == {"timer_rego_query_eval_ns": 12500}
    assert kinds(ours["metrics"]).items() <= kinds(opas["metrics"]).items()
    assert ours["custom"] == {"outcome": "allowed", "cache": "miss"}


def test_bundles_are_named_as_opa_names_them(tmp_path: Path) -> None:
    file = built(tmp_path, {"p.rego": POLICY, ".manifest": '{"revision": "v7"}'})
    with logging_opa("-b", file) as opa:
        opas = opa.event({"ok": True})
    assert opas is not None
    log = tmp_path / "log"
    listeners = {name: {"address": "127.0.0.1:0"} for name in ("check", "report", "admin")}
    settings = {
        "listeners": listeners,
        "policy": {"paths": [file], "decision": "p/allow"},
        "decision_log": {"sinks": [{"type": "file", "path": log}]},
    }
    with processes.mixer(settings) as mixer, grpc.insecure_channel(mixer.check) as channel:
        call = channel.unary_unary("/envoy.service.auth.v3.Authorization/Check")
        with pytest.raises(grpc.RpcError):
            call(CheckRequest().SerializeToString(), timeout=30)  # undefined, and logged
        wait_until(lambda: log.exists() and log.read_text().endswith("\n"))
    [event] = map(orjson.loads, log.read_text().splitlines())
    assert event["bundles"] == opas["bundles"] == {str(file): {"revision": "v7"}}
    assert event["revision"] == "v7"


def test_failed_decision_has_an_error_and_no_result(policies: Path) -> None:
    document = {"ok": True}
    with logging_opa(policies) as opa:
        opas = opa.event(document, "p/conflict")
    failed = decided(document, NONE, error="two values", reason="evaluation", allowed=None)
    [ours] = Log(policies)(failed)
    assert opas is not None
    assert opas["error"]
    assert "result" not in opas
    assert "result" not in ours
    # As OPA sends events to a server; its console shows the text alone.
    assert ours["error"] == {"code": "evaluation", "message": "two values"}
    assert ours["custom"]["outcome"] == "error"


TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize(
    ("sent", "shown"),
    [
        (f"00-{TRACE}-{SPAN}-01", (TRACE, SPAN)),
        (f"00-{'0' * 32}-{SPAN}-01", (None, None)),
        (f"00-{TRACE}-{'0' * 16}-01", (None, None)),
        (f"00-{TRACE}-{SPAN}-01\n", (None, None)),
        (f"00-{TRACE.upper()}-{SPAN}-01", (None, None)),
        ("", (None, None)),
    ],
)
def test_event_names_the_trace_of_the_request(
    sent: str, shown: tuple[str | None, str | None], raw: bool
) -> None:
    request = CheckRequest()
    http = request.attributes.request.http
    if raw:
        http.header_map.headers.add(key="traceparent", raw_value=sent.encode())
    else:
        http.headers["traceparent"] = sent
    [event] = Log()(decided({}, request=request))
    assert (event.get("trace_id"), event.get("span_id")) == shown


def test_request_that_could_not_be_read_has_no_input() -> None:
    [event] = Log()(decided(None, NONE, error="bad path", reason="request_malformed", allowed=False))
    assert "input" not in event
    assert event["custom"]["outcome"] == "error"


def test_policy_of_the_log_reads_the_event_as_opas_does(tmp_path: Path) -> None:
    """All of it but the fields of this service's own: labels, path, result, error, metrics."""
    (tmp_path / "p.rego").write_text(POLICY)
    (tmp_path / "log.rego").write_text(
        """package system.log

fields := {name | input[name]} - {"revision", "custom"}

mask contains {"op": "upsert", "path": "/input/seen", "value": seen} if {
	input.metrics.timer_rego_query_eval_ns > 0
	time.parse_rfc3339_ns(input.timestamp) > 0
	seen := [sort(fields), input.path, input.labels.a, object.get(input, "result", null)]
}
"""
    )
    document = {"ok": True}
    with logging_opa(tmp_path) as opa:
        opas = opa.event(document)
    assert opas is not None
    [ours] = Log(tmp_path, labels={"a": "b"})(decided(document, {"allowed": True}))
    assert ours["input"] == opas["input"]
    assert ours["input"]["seen"][1:] == ["p/allow", "b", {"allowed": True}]


def test_shadow_is_masked_as_the_decision(tmp_path: Path) -> None:
    (tmp_path / "log.rego").write_text('package system.log\n\nmask := ["/result/body", "/input/a"]\n')
    candidate = '{"allowed": false, "body": "b", "headers": {"Set-Cookie": "c", "x": "y"}}'
    shadow = Shadowed("p/next", "ab", "would_deny", candidate)
    [event] = Log(tmp_path)(decided({"a": 1}, {"body": "a"}, shadow=shadow))
    assert (event["input"], event["result"], event["erased"]) == ({}, {}, ["/result/body", "/input/a"])
    assert event["custom"]["shadow"] == {
        "path": "p/next",
        "revision": "ab",
        "outcome": "would_deny",
        "result": {"allowed": False, "headers": {"x": "y"}},
        "erased": ["/result/body", "/result/headers/Set-Cookie"],
        "diff": ["/result/allowed", "/result/headers"],
    }


@pytest.mark.parametrize(
    ("live", "candidate", "diff"),
    [
        (True, True, []),
        (True, False, ["/result/allowed"]),
        (True, {"allowed": True}, []),
        (True, {"allowed": True, "headers": {"x": "1"}}, ["/result/headers"]),
        ({"headers": {"a": "1", "b": "2"}}, {"headers": {"a": "1", "b": "3", "c/d": "4"}}, ["b", "c%2Fd"]),
        ({"headers": [{"a": "1"}, {"b": "1"}]}, {"headers": [{"a": "1"}, {"b": "2"}]}, ["1/b"]),
        ({"headers": [{"a": "1"}]}, {"headers": [{"a": "1"}, {"b": "2"}]}, ["/result/headers"]),
        ({"headers": {"x": 1}}, {"headers": {"x": True}}, ["x"]),
        ({"headers": {"x": 1}}, {"headers": {"x": 1.0}}, []),
        ({"headers": {str(n): n for n in range(100, 150)}}, {"headers": {}}, [str(n) for n in range(100, 132)]),
        (7, [7], ["/result"]),
    ],
)  # fmt: skip
def test_differences_of_the_candidate_are_named(live: object, candidate: object, diff: list[str]) -> None:
    shadow = Shadowed("p/next", "ab", "agree", json.dumps(candidate))
    [event] = Log()(decided({}, live, shadow=shadow))
    named = [path if path.startswith("/") else f"/result/headers/{path}" for path in diff]
    assert event["custom"]["shadow"]["diff"] == named


def test_what_the_policy_took_away_shows_in_no_difference(tmp_path: Path) -> None:
    (tmp_path / "log.rego").write_text('package system.log\n\nmask := ["/result"]\n')
    shadow = Shadowed("p/next", "ab", "would_deny", '{"allowed": false, "headers": {"hunter2": "x"}}')
    [event] = Log(tmp_path)(decided({}, {"allowed": True, "headers": {}}, shadow=shadow))
    assert "hunter2" not in json.dumps(event)


@pytest.mark.parametrize(
    ("timestamp", "text"),
    [
        (0.0, "1970-01-01T00:00:00.000000000Z"),
        (1_790_000_000.25, "2026-09-21T14:13:20.250000000Z"),
        (1_790_000_000.9999998, "2026-09-21T14:13:20.999999762Z"),
    ],
)
def test_timestamps(timestamp: float, text: str) -> None:
    assert rfc3339(timestamp) == text


def test_fields_as_keys_of_messages() -> None:
    record = DecisionRecord({"decision_id": "a", "path": "p", "input": {"n": 1, "list": [1], "ok": True}})
    assert record.event_id == b"a"
    assert orjson.loads(record.to_json())["path"] == "p"
    values = [
        accessor(name)(record)
        for name in ("path", "input.n", "input.ok", "input.list", "input.x.y", "result")
    ]
    assert values == ["p", 1, True, None, None, None]
    with pytest.raises(KeyError):
        accessor("inputs.n")

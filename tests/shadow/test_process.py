"""The candidate's process beside a real `mixer serve`."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from envoy.service.auth.v3.external_auth_pb2 import CheckRequest, CheckResponse

from mixer.demo.findings import Series
from tests.components import processes
from tests.components.processes import Mixer, Opa, wait_until

LIVE = """package p

allow := input.attributes.request.http.method == "GET"

admin := false

plain := true

alone := true
"""
CANDIDATE = """package p

strict if input.attributes.request.http.method == "DELETE"

default strict := false

plain if input.attributes.request.http.method == "GET"

allow := input.attributes.request.http.path != "/forever"

allow if {
	input.attributes.request.http.path == "/forever"
	count([1 | some x in numbers.range(1, 40000); some y in numbers.range(1, 40000); x == y * 7]) == 0
}
"""

Check = Callable[..., int]


@pytest.fixture(params=["embedded", "opa"])
def mixer(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Mixer]:
    for name, text in (("live", LIVE), ("next", CANDIDATE)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "p.rego").write_text(text)
    policy: dict[str, Any] = {
        "decision": "p/allow",
        "max_evaluation": "60s",  # of the candidate too
        "decisions": {"admin": "p/admin", "plain": "p/plain", "alone": "p/alone"},
        "shadow": {
            "paths": [tmp_path / "next"],
            "decisions": {"admin": "p/strict"},
            "timeout": "60s",
            "buffer": {"max_records": 50},
        },
    }
    if request.param == "embedded":
        policy["paths"] = [tmp_path / "live"]
    else:
        server: Opa = request.getfixturevalue("opa_server")
        assert server.call("PUT", "/v1/policies/p", LIVE)[0] == 200
        policy |= {"engine": "opa", "opa": {"url": server.url, "timeout": "10s"}}
    listeners = {name: {"address": "127.0.0.1:0"} for name in ("check", "report", "admin")}
    log = {"sinks": [{"type": "file", "path": tmp_path / "decisions.jsonl"}]}
    with processes.mixer({"listeners": listeners, "policy": policy, "decision_log": log}) as running:
        yield running


@pytest.fixture
def check(mixer: Mixer) -> Iterator[Check]:
    with grpc.insecure_channel(mixer.check) as channel:
        call = channel.unary_unary(
            "/envoy.service.auth.v3.Authorization/Check",
            CheckRequest.SerializeToString,
            CheckResponse.FromString,
        )

        def check(method: str, path: str, decision: str | None = None) -> int:
            request = CheckRequest()
            if decision is not None:
                request.attributes.context_extensions["mixer_decision"] = decision
            request.attributes.request.http.method = method
            request.attributes.request.http.path = path
            return call(request, timeout=30).status.code

        yield check


def outcome(mixer: Mixer, name: str, decision: str = "p/allow") -> float:
    series = Series(mixer.call("/metrics")[1])
    return series.total("mixer_shadow_decisions_total", outcome=name, decision=decision)


def skipped(mixer: Mixer) -> dict[str, float]:
    series = Series(mixer.call("/metrics")[1])
    reasons = ("sampled", "overload", "undecided", "unavailable", "shutdown")
    counts = {reason: series.total("mixer_shadow_skipped_total", reason=reason) for reason in reasons}
    return {reason: count for reason, count in counts.items() if count}


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_candidate_is_compared_with_what_was_answered(mixer: Mixer, check: Check) -> None:
    assert [check("GET", "/"), check("PUT", "/"), check("PUT", "/2")] == [0, 7, 7]
    wait_until(lambda: outcome(mixer, "agree") == 1 and outcome(mixer, "would_allow") == 2)
    assert mixer.call("/readyz") == (200, "ready\n")


def test_decision_log_has_both_results(mixer: Mixer, check: Check, tmp_path: Path) -> None:
    check("PUT", "/")
    log = tmp_path / "decisions.jsonl"
    wait_until(lambda: log.exists() and log.read_text().endswith("\n"))
    [event] = map(json.loads, log.read_text().splitlines())
    shadow = event["custom"]["shadow"]
    assert (event["path"], event["result"]) == ("p/allow", False)
    assert (shadow["path"], shadow["outcome"], shadow["result"]) == ("p/allow", "would_allow", True)
    assert len(shadow["revision"]) == 12


def test_each_decision_is_compared_with_its_own_candidate(mixer: Mixer, check: Check, tmp_path: Path) -> None:
    assert [check("DELETE", "/", "admin"), check("GET", "/", "admin")] == [7, 7]
    assert [check("GET", "/", "plain"), check("PUT", "/", "plain")] == [0, 0]  # undefined there
    assert [check("GET", "/", "alone"), check("GET", "/")] == [0, 0]  # the candidate has no such decision
    log = tmp_path / "decisions.jsonl"
    wait_until(lambda: log.exists() and log.read_text().count("\n") == 6)
    for name, decision in (
        ("would_allow", "p/admin"), ("agree", "p/admin"), ("agree", "p/plain"), ("error", "p/plain"),
        ("agree", "p/allow"),
    ):  # fmt: skip
        assert outcome(mixer, name, decision) == 1, (name, decision)
    events = [json.loads(line) for line in log.read_text().splitlines()]
    shadows = sorted(
        (event["path"], event["custom"].get("shadow", {}).get("path", ""), event["custom"]["outcome"])
        for event in events
    )
    assert shadows == [
        ("p/admin", "p/strict", "denied"), ("p/admin", "p/strict", "denied"), ("p/allow", "p/allow", "allowed"),
        ("p/alone", "", "allowed"), ("p/plain", "p/plain", "allowed"), ("p/plain", "p/plain", "allowed"),
    ]  # fmt: skip
    assert skipped(mixer) == {}
    shadowed = [line for line in mixer.call("/metrics")[1].splitlines() if line.startswith("mixer_shadow_")]
    assert shadowed
    assert not [line for line in shadowed if 'decision="p/alone"' in line]


def test_overload_changes_delays_and_fails_no_answer_and_is_counted(mixer: Mixer, check: Check) -> None:
    """The candidate is stuck with its first request, and far more come than may wait for it."""
    assert check("GET", "/forever") == 0
    answers = [
        check(method, "/", name) for _ in range(100) for method, name in (("GET", None), ("PUT", "admin"))
    ]
    assert answers == [0, 7] * 100
    assert outcome(mixer, "agree") == outcome(mixer, "agree", "p/admin") == 0, "it is stuck still"
    assert skipped(mixer) == {"overload": 1 + 200 - 50}
    assert mixer.call("/readyz") == (200, "ready\n")


def test_candidate_gives_way_to_the_answers_and_never_outlives_them(mixer: Mixer, check: Check) -> None:
    [candidate] = children(mixer.pid)
    assert os.getpriority(os.PRIO_PROCESS, candidate) == 19
    assert check("GET", "/forever") == 0  # the candidate evaluates now, and for long
    assert check("GET", "/") == 0
    assert outcome(mixer, "agree") == 0
    mixer.kill()
    wait_until(lambda: not Path(f"/proc/{candidate}").exists())


def test_end_of_mixer_does_not_wait_for_the_candidate(mixer: Mixer, check: Check) -> None:
    [candidate] = children(mixer.pid)
    check("GET", "/forever")
    mixer.stop()
    assert not Path(f"/proc/{candidate}").exists()

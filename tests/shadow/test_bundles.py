"""A candidate that comes in bundles of an HTTP server."""

import json
import sys
from pathlib import Path

import pytest

from tests.loop import on_loop
from tests.policy.test_polling import POLL, Service, Shelf, policy, until

LIVE = "package envoy.authz\n\nallow := true\n\nother := true\n"
OTHER = "package envoy.authz\n\nallow := true\n\nother := false\n"
DENY = "package envoy.authz\n\nallow := false\n"


def shadowed(folder: Path, shelf: Shelf) -> Service:
    (folder / "p.rego").write_text(LIVE)
    return Service(
        {"sinks": [{"type": "file", "path": str(folder / "log")}]},
        paths=[folder / "p.rego"],
        decisions={"other": "envoy/authz/other"},
        shadow={"bundles": [{"name": "next", "url": f"{shelf.url}/next", "poll": POLL}]},
    )


def outcomes(service: Service, decision: str = "envoy/authz/allow") -> dict[str, float]:
    names = ("agree", "would_allow", "would_deny", "error")
    counts = {
        name: service.count("shadow_decisions_total", decision=decision, outcome=name) for name in names
    }
    return {name: count for name, count in counts.items() if count}


def skipped(service: Service) -> float:
    reasons = ("sampled", "overload", "undecided", "unavailable", "shutdown")
    return sum(
        service.count("shadow_skipped_total", decision="envoy/authz/allow", reason=reason)
        for reason in reasons
    )


@on_loop
async def test_candidate_is_that_of_the_latest_bundle_that_can_be_used(tmp_path: Path) -> None:
    async with Shelf({"/next": policy("n1", DENY)}).open() as shelf, shadowed(tmp_path, shelf) as service:
        assert (await service.check())["code"] == 0
        await until(lambda: outcomes(service) == {"would_deny": 1}, "the first comparison")
        assert outcomes(service, "envoy/authz/other") == {}
        shelf.files["/next"] = policy("n2", OTHER)
        await until(lambda: service.polls("activated", "next") == 2, "n2")
        assert (await service.check())["code"] == 0
        await until(lambda: outcomes(service) == {"would_deny": 1, "agree": 1}, "the second comparison")
        shelf.files["/next"] = policy("n3", "package envoy.authz\n\nallow := )\n")
        await until(lambda: service.polls("activation", "next") == 1, "the refusal of n3")
        [problem] = service.runtime.degraded()
        assert problem.startswith("shadow: bundle next: serving revision n2: ")
        assert await service.runtime.not_ready() == []
        assert (await service.check())["code"] == 0
        await until(lambda: outcomes(service) == {"would_deny": 1, "agree": 2}, "the third comparison")
    events = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert [event["custom"]["shadow"]["revision"] for event in events] == ["n1", "n2", "n2"]


@on_loop
async def test_answers_do_not_wait_for_a_candidate_that_has_not_come(tmp_path: Path) -> None:
    async with Shelf(status=503).open() as shelf, shadowed(tmp_path, shelf) as service:
        assert (await service.check())["code"] == 0
        assert await service.runtime.not_ready() == []
        assert service.runtime.degraded() == [
            "shadow: the candidate has no policies yet",
            f"shadow: bundle next: next: {shelf.url}/next: HTTP 503, expected 200",
        ]
        shelf.files["/next"], shelf.status = policy("n1"), 200
        await until(lambda: not service.runtime.degraded(), "the candidate")
        await service.check()
        await until(lambda: outcomes(service) == {"agree": 1}, "the comparison")


@on_loop
async def test_candidate_that_cannot_be_started_now_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Shelf({"/next": policy("n1")}).open() as shelf, shadowed(tmp_path, shelf) as service:
        with monkeypatch.context() as broken:
            broken.setattr(sys, "executable", "/bin/false")
            shelf.files["/next"] = policy("n2")
            await until(lambda: service.polls("activation", "next") >= 1, "a start that fails")
            [problem] = service.runtime.degraded()
            assert "the process of the shadow policy does not start" in problem
        await until(lambda: service.polls("activated", "next") == 2, "n2, which is still the same file")
        assert service.runtime.degraded() == []


@on_loop
async def test_no_answer_fails_and_no_decision_goes_uncounted_while_candidates_are_exchanged(
    tmp_path: Path,
) -> None:
    async with Shelf({"/next": policy("n0")}).open() as shelf, shadowed(tmp_path, shelf) as service:
        asked = 0
        for version in range(1, 4):
            shelf.files["/next"] = policy(f"n{version}")
            while service.polls("activated", "next") <= version:
                assert (await service.check(f"/{asked}"))["code"] == 0
                asked += 1
        await until(
            lambda: outcomes(service)["agree"] + skipped(service) == asked, "the count of all that was asked"
        )
        assert outcomes(service).keys() == {"agree"}

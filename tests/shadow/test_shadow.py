"""Shadow policies, with the candidate's real process: what is compared, counted and told, and what harms no answer."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Callable
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
from mixer.errors import DecisionError, PolicyError
from mixer.metrics import Metrics
from mixer.policy.cache import DecisionCache
from mixer.policy.regorus import EmbeddedEngine
from mixer.shadow import shadow as shadow_module
from mixer.shadow.candidate import Candidate, GoneError
from mixer.shadow.shadow import Shadow
from tests.loop import on_loop

LIVE = """package p

default allow := false

allow if input.attributes.request.http.method == "GET"

allow := 5 if input.attributes.request.http.method == "ILLEGAL"
"""
# Decides otherwise by fields of its own, which the live policy does not read.
CANDIDATE = """package p

default allow := false

allow := {"allowed": true, "headers": {"x-v": "2"}} if input.parsed_path[0] == "open"

allow := {"allowed": false, "error_response": {"http_status": 503}} if input.parsed_path[0] == "failure"

allow := 7 if input.parsed_path[0] == "illegal"

allow := count([1 | some x in numbers.range(1, 40000); some y in numbers.range(1, 40000); x == y * 7]) if {
	input.parsed_path[0] == "forever"
}
"""


def wait_limit(condition: Callable[[], bool]) -> Any:
    async def wait() -> None:
        async with asyncio.timeout(30):
            while not condition():
                await asyncio.sleep(0.01)

    return wait()


class Shadowed:
    """A live service with its shadow, what is told of each decision, and what is counted."""

    def __init__(self, folder: Path, candidate: str, cache: bool, **settings: Any) -> None:
        for name, text in (("live", LIVE), ("candidate", candidate)):
            (folder / name).mkdir()
            (folder / name / "p.rego").write_text(text)
        chosen = config.Shadow(paths=(folder / "candidate",), **settings)
        policy = config.Policy(
            paths=(folder / "live",), decision="p/allow", shadow=chosen, max_evaluation="60s"
        )
        self.told: list[Decided] = []
        self.registry = CollectorRegistry()
        self._metrics = Metrics(self.registry)
        self._engine = EmbeddedEngine(policy)
        self._cache = DecisionCache(100, 60.0, self._metrics) if cache else None
        of_candidate = policy.candidate()
        assert of_candidate is not None
        self.candidate = Candidate(of_candidate, policy.compared(), config.Logging())
        self.shadow = Shadow(chosen, self.candidate, self._metrics, self.told.append)

    async def start(self) -> None:
        await self._engine.start()
        await self.shadow.start()
        self.service = CheckService(self._engine, self._cache, self._metrics, observer=self.shadow.observe)

    def check(self, method: str = "GET", path: str = "/open") -> int:
        """The answer's status, at once."""
        message = CheckRequest()
        http = message.attributes.request.http
        http.method, http.path = method, path
        answer = self.service.check(message, None)
        assert isinstance(answer, bytes)
        return CheckResponse.FromString(answer).status.code

    def count(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(f"mixer_shadow_{name}", labels) or 0.0

    def outcomes(self) -> dict[str, float]:
        return self._counts("decisions", "outcome", ("agree", "would_allow", "would_deny", "error"))

    def skipped(self) -> dict[str, float]:
        reasons = ("sampled", "overload", "undecided", "unavailable", "shutdown")
        return self._counts("skipped", "reason", reasons)

    def _counts(self, name: str, label: str, values: tuple[str, ...]) -> dict[str, float]:
        counts = {
            value: self.count(f"{name}_total", **{"decision": "p/allow", label: value}) for value in values
        }
        return {value: count for value, count in counts.items() if count}

    @property
    def process(self) -> asyncio.subprocess.Process:
        assert self.candidate._process is not None
        return self.candidate._process


@contextlib.asynccontextmanager
async def shadowed(
    folder: Path, candidate: str = CANDIDATE, cache: bool = True, **settings: Any
) -> AsyncIterator[Shadowed]:
    running = Shadowed(folder, candidate, cache, **settings)
    try:
        await running.start()
        yield running
    finally:
        await running.shadow.close()


@on_loop
async def test_decisions_are_compared_and_told_with_both_results(tmp_path: Path) -> None:
    async with shadowed(tmp_path) as live:
        codes = [live.check("GET", "/open"), live.check("PUT", "/open"), live.check("GET", "/shut")]
        codes += [live.check("PUT", "/shut"), live.check("GET", "/illegal"), live.check("GET", "/open/again")]
        assert codes == [0, 7, 0, 7, 0, 0], "the live policy decides"
        await wait_limit(lambda: len(live.told) == 6)
        assert live.outcomes() == {"agree": 3, "would_allow": 1, "would_deny": 1, "error": 1}
        assert live.skipped() == {}
        assert live.count("waiting") == 0
        shadows = [decided.shadow for decided in live.told]
        assert [shadow and shadow.outcome for shadow in shadows] == [
            "agree", "would_allow", "would_deny", "agree", "error", "agree",
        ]  # fmt: skip
        second, third, fifth = shadows[1], shadows[2], shadows[4]
        assert second is not None
        assert third is not None
        assert fifth is not None
        assert live.told[1].result == "false"
        assert second.path == "p/allow"
        assert len(second.revision) == 12
        assert second.revision != live.told[1].revision
        assert orjson.loads(second.result or "") == {"allowed": True, "headers": {"x-v": "2"}}
        assert (third.result, third.error) == ("false", None)
        assert (fifth.result, fifth.error) == (
            "7",
            "illegal decision: decision must be a boolean or an object, not the number 7",
        )


@on_loop
async def test_candidate_that_leaves_a_request_to_the_failure_mode_has_not_decided(tmp_path: Path) -> None:
    async with shadowed(tmp_path) as live:
        live.check("PUT", "/failure")
        await wait_limit(lambda: len(live.told) == 1)
        assert live.outcomes() == {"error": 1}
        shadow = live.told[0].shadow
        assert shadow is not None
        assert shadow.error == "the candidate leaves the request to the failure mode"


@on_loop
async def test_cached_decisions_are_compared_too(tmp_path: Path) -> None:
    async with shadowed(tmp_path) as live:
        assert [live.check("GET", f"/shut/{n}") for n in range(5)] == [0] * 5
        await wait_limit(lambda: len(live.told) == 5)
        assert [decided.cache for decided in live.told] == ["miss", "hit", "hit", "hit", "hit"]
        assert live.outcomes() == {"would_deny": 5}


@on_loop
async def test_decision_that_failed_is_not_compared(tmp_path: Path) -> None:
    async with shadowed(tmp_path) as live:
        with pytest.raises(DecisionError):
            live.check("ILLEGAL")
        assert live.skipped() == {"undecided": 1}
        [told] = live.told
        assert (told.reason, told.shadow) == ("illegal", None)


@on_loop
async def test_sample_is_a_share_of_the_decisions_and_the_rest_is_counted(tmp_path: Path) -> None:
    async with shadowed(tmp_path, sample=0.25) as live:
        for _ in range(400):
            live.check()
        await wait_limit(lambda: len(live.told) == 400)
        compared, skipped = live.outcomes()["agree"], live.skipped()["sampled"]
        assert compared + skipped == 400
        assert 40 < compared < 160
        assert sum(decided.shadow is not None for decided in live.told) == compared


@on_loop
async def test_candidate_that_is_slow_delays_no_answer(tmp_path: Path) -> None:
    async with shadowed(tmp_path, timeout="60s") as live:
        live.check("GET", "/forever")
        await wait_limit(lambda: len(live.shadow._judged) == 1)  # the candidate has it
        for _ in range(200):
            assert live.check() == 0
            await asyncio.sleep(0)
        assert live.told == []
        assert live.count("waiting") == 201, "all are answered while the candidate still evaluates the first"


@on_loop
async def test_overload_is_skipped_counted_and_told_at_once(tmp_path: Path) -> None:
    async with shadowed(tmp_path, timeout="60s", buffer=config.Buffer(max_records=3)) as live:
        live.check("GET", "/forever")
        await wait_limit(lambda: len(live.shadow._judged) == 1)
        assert [live.check() for _ in range(10)] == [0] * 10
        assert live.skipped() == {"overload": 8}
        assert [decided.shadow for decided in live.told] == [None] * 8


@on_loop
async def test_large_requests_fill_the_buffer_by_their_bytes(tmp_path: Path) -> None:
    buffer = config.Buffer(max_bytes=1000)
    async with shadowed(tmp_path, buffer=buffer) as live:
        assert live.check("GET", "/open/" + 1000 * "x") == 0
        assert live.skipped() == {"overload": 1}


@on_loop
async def test_evaluation_that_takes_too_long_is_an_error_and_the_next_are_compared_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shadow_module, "FIRST_WAIT", 0.01)
    async with shadowed(tmp_path, timeout="500ms") as live:
        first = live.process
        live.check("GET", "/forever")
        live.check("GET", "/open")
        await wait_limit(lambda: len(live.told) == 2)
        assert live.outcomes() == {"error": 1}
        assert live.skipped() == {"unavailable": 1}, "what waited behind it"
        shadow = live.told[0].shadow
        assert shadow is not None
        assert shadow.error == "the evaluation took longer than 0.5 s, and was ended"
        assert live.shadow.status() != "ok"
        await wait_limit(lambda: live.shadow.status() == "ok")
        assert first.returncode == -signal.SIGKILL
        assert live.check() == 0
        await wait_limit(lambda: live.outcomes() == {"error": 1, "agree": 1})


@on_loop
async def test_candidate_that_breaks_down_is_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shadow_module, "FIRST_WAIT", 0.01)
    async with shadowed(tmp_path) as live:
        broken = live.process
        os.kill(broken.pid, signal.SIGKILL)
        await broken.wait()
        (tmp_path / "candidate" / "p.rego").write_text("package p\n\nallow := )\n")
        with capture_logs() as logs:
            assert live.check() == 0
            await wait_limit(lambda: any(event["event"] == "shadow_away" for event in logs))
        assert live.skipped() == {"unavailable": 1}
        assert live.outcomes() == {}
        (tmp_path / "candidate" / "p.rego").write_text("package p\n\nallow := false\n")
        await wait_limit(lambda: live.shadow.status() == "ok")
        live.check()
        await wait_limit(lambda: live.outcomes() == {"would_deny": 1})


@on_loop
async def test_candidate_that_takes_nothing_any_more_has_gone(tmp_path: Path) -> None:
    async with shadowed(tmp_path) as live:
        assert live.process.stdin is not None
        live.process.stdin.close()
        await live.process.stdin.wait_closed()
        with pytest.raises(GoneError):
            live.candidate.send([b"anything"])


@on_loop
async def test_mistakes_of_the_candidate_are_named_at_start(tmp_path: Path) -> None:
    with pytest.raises(PolicyError) as caught:
        async with shadowed(tmp_path, "package p\n\nallow := nothing.there(1)\n"):
            pass
    assert str(caught.value) == f"{tmp_path}/candidate/p.rego: line 3: there is no function nothing.there"


@on_loop
async def test_end_tells_what_waited_and_ends_the_process(tmp_path: Path) -> None:
    async with shadowed(tmp_path, timeout="60s") as live:
        process = live.process
        live.check("GET", "/forever")
        live.check()
    assert live.skipped() == {"shutdown": 2}
    assert len(live.told) == 2
    assert process.returncode == -signal.SIGKILL

"""What Check keeps, for how long, and that it never answers what a fresh evaluation would not."""

import asyncio
import copy
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jwt
import pytest
from envoy.service.auth.v3.external_auth_pb2 import CheckResponse
from hypothesis import example, given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from mixer.authz.service import CheckService
from mixer.errors import DecisionError
from mixer.metrics import Metrics
from mixer.policy.cache import DecisionCache
from mixer.policy.engine import WHOLE_INPUT, Evaluation, References
from mixer.policy.engine import Path as InputPath
from mixer.policy.program import Program
from mixer.policy.sources import Module, Sources
from tests.authz.test_service import Checks, metadata, request
from tests.loop import on_loop

METHOD: frozenset[InputPath] = frozenset({("attributes", "request", "http", "method")})


def seen(checks: Checks, *steps: float) -> list[str]:
    """What the cache said at each of some moments, in seconds after each other."""
    found = []
    for step in steps:
        checks.now += step
        found.append(metadata(checks())["mixer"]["cache"])
    return found


@pytest.mark.parametrize("ttl", ["10", '"10s"', '"10000ms"', "1e1"])
def test_decision_shortens_its_own_time(tmp_path: Path, ttl: str) -> None:
    checks = Checks(tmp_path, f'package p\n\nallow := {{"allowed": true, "cache_ttl": {ttl}}}\n')
    assert seen(checks, 0, 9.9, 0.1, 9) == ["miss", "hit", "miss", "hit"]


def test_decision_cannot_lengthen_its_time(tmp_path: Path) -> None:
    checks = Checks(tmp_path, 'package p\n\nallow := {"allowed": true, "cache_ttl": "1h"}\n')
    assert seen(checks, 0, 59.9, 0.1) == ["miss", "hit", "miss"]


def test_decision_of_no_time_is_not_kept(tmp_path: Path) -> None:
    checks = Checks(tmp_path, 'package p\n\nallow := {"allowed": true, "cache_ttl": 0}\n')
    assert seen(checks, 0, 0) == ["miss", "miss"]


def test_clock_is_read_each_time_unless_the_decision_says_how_long_it_holds(tmp_path: Path) -> None:
    clock = "time.now_ns() > 0"
    checks = Checks(tmp_path, f"package p\n\nallow if {clock}\n")
    assert seen(checks, 0, 0) == ["off", "off"]
    assert checks.count("decision_cache_lookups_total", outcome="bypass") == 2
    checks = Checks(tmp_path, f'package p\n\nallow := {{"allowed": false, "cache_ttl": "90s"}} if {clock}\n')
    assert seen(checks, 0, 89.9, 0.2) == ["miss", "hit", "miss"]
    assert checks.count("decision_cache_lookups_total", outcome="hit") == 1
    assert checks.count("decisions_total", decision="p/allow", outcome="denied") == 3


@pytest.mark.parametrize("ttl", ['"soon"', '"10"', "-1", "true", "null", "[1]", '""'])
@pytest.mark.parametrize("allowed", ["true", "false"])
def test_illegal_cache_ttl_is_an_illegal_decision(tmp_path: Path, ttl: str, allowed: str) -> None:
    checks = Checks(tmp_path, f'package p\n\nallow := {{"allowed": {allowed}, "cache_ttl": {ttl}}}\n')
    with pytest.raises(DecisionError, match="cache_ttl must be a number of seconds") as caught:
        checks()
    assert caught.value.reason == "illegal"


@dataclass
class Remote:
    """An engine that is waited for; each evaluation ends when the test says so."""

    references: References
    outcome: Callable[[int], Evaluation | DecisionError] = lambda _: Evaluation("true")
    name, decision, revision = "opa", "p/allow", ""
    documents: list[bytes] = field(default_factory=list)
    answer_now: asyncio.Event = field(default_factory=asyncio.Event)

    def evaluate(self, document: bytes, timeout: float | None, value: object = None) -> Awaitable[Evaluation]:
        self.documents.append(document)
        return self._wait(len(self.documents))

    async def _wait(self, number: int) -> Evaluation:
        await self.answer_now.wait()
        outcome = self.outcome(number)
        if isinstance(outcome, DecisionError):
            raise outcome
        return outcome


class RemoteChecks:
    def __init__(self, engine: Remote) -> None:
        self.registry = CollectorRegistry()
        metrics = Metrics(self.registry)
        given: Any = engine
        self.service = CheckService(given, DecisionCache(10, 60.0, metrics), metrics, clock=lambda: 1000.0)

    def start(self, method: str = "GET", timeout: float | None = None) -> "asyncio.Task[bytes]":
        answer = self.service.check(request(method), timeout)

        async def wait() -> bytes:
            return answer if isinstance(answer, bytes) else await answer

        return asyncio.ensure_future(wait())

    def count(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(f"mixer_{name}", labels) or 0.0


def allowed(answer: bytes) -> bool:
    return bool(CheckResponse.FromString(answer).status.code == 0)


@on_loop
async def test_equal_inputs_that_wait_are_evaluated_once() -> None:
    engine = Remote(References(METHOD))
    checks = RemoteChecks(engine)
    calls = [checks.start() for _ in range(5)] + [checks.start("PUT")]
    await asyncio.sleep(0)
    engine.answer_now.set()
    answers = await asyncio.gather(*calls)
    assert all(map(allowed, answers))
    assert len(engine.documents) == 2
    assert len({CheckResponse.FromString(answer).dynamic_metadata["decision_id"] for answer in answers}) == 6
    assert checks.count("evaluation_duration_seconds_count", engine="opa") == 2
    assert checks.count("decision_cache_lookups_total", outcome="miss") == 2
    assert checks.count("decision_cache_lookups_total", outcome="joined") == 4
    await checks.start()
    assert checks.count("decision_cache_lookups_total", outcome="hit") == 1


@on_loop
async def test_evaluation_goes_on_for_the_others_where_the_first_call_is_cancelled() -> None:
    engine = Remote(References(METHOD))
    checks = RemoteChecks(engine)
    first, second = checks.start(), checks.start()
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    engine.answer_now.set()
    assert allowed(await second)
    assert len(engine.documents) == 1


@pytest.mark.parametrize(("reason", "evaluated"), [("timeout", 2), ("unavailable", 2), ("undefined", 1)])
def test_failure_is_shared_only_where_it_is_one_of_the_decision(reason: str, evaluated: int) -> None:
    @on_loop
    async def test() -> None:
        first = DecisionError(reason, "as it is")
        engine = Remote(References(METHOD), lambda number: first if number == 1 else Evaluation("true"))
        checks = RemoteChecks(engine)
        calls = [checks.start() for _ in range(4)]
        await asyncio.sleep(0)
        engine.answer_now.set()
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert len(engine.documents) == evaluated
        assert isinstance(answers[0], DecisionError)
        if evaluated == 1:
            assert all(isinstance(answer, DecisionError) for answer in answers)
        else:
            assert all(isinstance(answer, bytes) and allowed(answer) for answer in answers[1:])

    test()


@on_loop
async def test_call_that_waits_for_another_keeps_its_own_deadline() -> None:
    engine = Remote(References(METHOD))
    checks = RemoteChecks(engine)
    first, second = checks.start(), checks.start(timeout=0.01)
    with pytest.raises(DecisionError) as caught:
        await second
    assert caught.value.reason == "timeout"
    engine.answer_now.set()
    assert allowed(await first)


@on_loop
async def test_what_is_unstable_is_shared_only_while_decisions_say_how_long_they_hold() -> None:
    outcomes = ['{"allowed": true}', '{"allowed": true, "cache_ttl": 60}']
    engine = Remote(References(METHOD, ("rand.intn (p.rego:1)",)), lambda _: Evaluation(outcomes[0]))
    checks = RemoteChecks(engine)
    engine.answer_now.set()
    await asyncio.gather(*(checks.start() for _ in range(3)))
    assert len(engine.documents) == 3
    outcomes.reverse()
    await checks.start("PUT")
    await asyncio.gather(*(checks.start("POST") for _ in range(3)))
    assert len(engine.documents) == 5
    outcomes.reverse()
    await asyncio.gather(*(checks.start("HEAD") for _ in range(3)))
    assert len(engine.documents) == 8, "a decision that does not say so is nobody else's"


# Random policies, data, inputs and moments: what is kept is what would be decided.

SECRET = 32 * "k"
TOKENS = tuple(
    jwt.encode(claims, SECRET, "HS256")
    for claims in ({"exp": 1010, "sub": "a"}, {"nbf": 1005, "exp": 1040}, {"sub": "b"}, {"nbf": 1020})
)
HTTP = "input.attributes.request.http"
VERIFIED = f'io.jwt.decode_verify({HTTP}.headers["x-token"], {{"secret": "{SECRET}"}})'
PARTS = (
    f"{HTTP}.method",
    f"{HTTP}.path",
    f'{HTTP}.headers["x-user"]',
    "input.parsed_path[0]",
    "input.parsed_path",
    "input.parsed_query.q",
    "headers.x_user",
    'h["x-user"]',
    "h",
    "data.k",
    "data.roles[data.k]",
    f"data.roles[{HTTP}.method]",
    '"GET"',
    "true",
    f"f({HTTP}.path)",
    "inner",
    f"{VERIFIED}[0]",
    f"{VERIFIED}[2].sub",
    "user",
)
CONDITIONS = (
    "{0} == {1}",
    "{0} != {1}",
    "not {0}",
    "{0}",
    "[1 | some z in {0}; z == {1}] != []",
    "inner == {0}",
    "not h.nope",
)

part = st.one_of(st.sampled_from(PARTS), st.sampled_from([part for part in PARTS if "io.jwt" in part]))
condition = st.tuples(st.sampled_from(CONDITIONS), part, part).map(lambda given: given[0].format(*given[1:]))


def outside(text: str) -> str:
    """A part where the locals of `allow` are not known, and no rule needs itself."""
    return "data.k" if re.match(r"(inner|user|headers|h)\b", text) else text


def policy(
    condition: str, test: str, shown: str, inner: str, user: str, unstable: bool, ttl: int | None
) -> str:
    """A decision that shows what it depends on."""
    kept = "" if ttl is None else f', "cache_ttl": {ttl}'
    inner, user = outside(inner), outside(user)
    return (
        "package p\n\n"
        f'default allow := {{"allowed": false, "dynamic_metadata": {{"reason": "none"}}{kept}}}\n\n'
        f'allow := {{"allowed": allowed, "dynamic_metadata": {{"shown": shown}}{kept}}} if {{\n'
        f"\th := {HTTP}.headers\n\t{condition}\n\t{'time.now_ns() > 0' if unstable else 'true'}\n"
        f"\tallowed := [1 | {test}] != []\n\tshown := [x | x := {shown}]\n}}\n\n"
        f'headers.x_user := {HTTP}.headers["x-user"]\n\n'
        f"inner := {inner}\n\nuser := x if x := {user}\n\nf(x) := [x, data.k]\n"
    )


policies = st.builds(
    policy,
    st.one_of(st.just("true"), condition),
    condition,
    part,
    part,
    part,
    st.sampled_from([False, False, True]),
    st.sampled_from([None, None, 5, 20]),
)
requests = st.fixed_dictionaries(
    {
        "method": st.sampled_from(["GET", "PUT"]),
        "path": st.sampled_from(["/", "/a", "/a?q=1", "/GET"]),
        "x_other": st.sampled_from(["1", "2"]),
        "x_token": st.sampled_from([*TOKENS, "garbage"]),
    },
    optional={"x_user": st.sampled_from(["a", "GET"])},
)
DATA: tuple[dict[str, Any], ...] = ({}, {"k": "GET"}, {"k": "a", "roles": {"a": "a", "GET": True}})
revisions = st.one_of(*[st.none()] * 7, st.sampled_from(DATA))
steps = st.lists(requests, min_size=2, max_size=3).flatmap(
    lambda some: st.lists(
        st.tuples(st.sampled_from(some), st.sampled_from([0.0, 1.0, 4.0, 6.0, 30.0]), revisions),
        min_size=8,
        max_size=20,
    )
)


class Embedded:
    """The embedded engine over sources that are given, not read."""

    name, decision = "embedded", "p/allow"

    def __init__(self, text: str, data: dict[str, Any], clock: Callable[[], float]) -> None:
        self.revision = str(data)
        self._program = Program(Sources((Module("p.rego", text),), data, ""), "p/allow", clock=clock)
        self.references = self._program.references

    def evaluate(self, document: bytes, timeout: float | None, value: object = None) -> Evaluation:
        decision = self._program.evaluate(document)
        if decision is None:
            raise DecisionError("undefined", "no decision")
        return Evaluation(decision, self._program.valid_until)


EXPIRES = {"method": "GET", "path": "/", "x_token": TOKENS[0]}


@settings(max_examples=40)
@example(
    policy("true", f"{VERIFIED}[0]", f"{VERIFIED}[2]", "1", "1", False, None),
    [(EXPIRES, 0.0, None), (EXPIRES, 9.0, None), (EXPIRES, 2.0, None)],
    {},
)
@given(policies, steps, st.sampled_from(DATA))
def test_kept_decision_is_never_one_that_a_fresh_evaluation_would_not_give(
    text: str, steps: list[tuple[dict[str, str], float, dict[str, Any] | None]], data: dict[str, Any]
) -> None:
    now = 1000.0

    def services(data: dict[str, Any]) -> tuple[CheckService, CheckService]:
        """With a cache, and without one over the whole input."""
        metrics = Metrics(CollectorRegistry())
        engine: Any = Embedded(text, data, lambda: now)
        keeping = CheckService(engine, DecisionCache(2, 60.0, metrics), metrics, clock=lambda: now)
        whole = copy.copy(engine)
        whole.references = References(WHOLE_INPUT)
        return keeping, CheckService(whole, None, metrics, clock=lambda: now)

    def answer(checks: CheckService, asked: dict[str, str]) -> tuple[str, Any]:
        """What the cache said, and the answer without what is of one call."""
        try:
            raw = checks.check(request(**asked), None)
        except DecisionError as error:
            return "off", error.reason
        assert isinstance(raw, bytes)
        told = CheckResponse.FromString(raw)
        said = told.dynamic_metadata["mixer"]["cache"]
        told.dynamic_metadata.fields.pop("mixer")
        told.dynamic_metadata.fields.pop("decision_id")
        return said, told

    keeping, fresh = services(data)
    evaluated: list[tuple[float, Any]] = []
    unstable, ttl = "now_ns" in text, next((int(n) for n in ("20", "5") if f'"cache_ttl": {n}' in text), None)
    for asked, step, revision in steps:
        now += step
        if revision is not None:
            (keeping, fresh), evaluated = services(revision), []
        said, kept = answer(keeping, asked)
        _, right = answer(fresh, asked)
        evaluated.append((now, right))
        if unstable and ttl is None:
            assert said == "off"
        if unstable and ttl is not None:  # as long as the decision says, and not beyond
            assert any(kept == answered for moment, answered in evaluated if now - moment < ttl)
        else:
            assert kept == right

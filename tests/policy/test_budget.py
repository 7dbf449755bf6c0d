"""Policies that loop or explode are cut off, whatever runs them, and the next evaluation is as if nothing had been."""

# ruff: noqa: E501 (policies of one line)

import asyncio
import threading
import time
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest

from mixer import config
from mixer.decisions.policy import LogPolicy
from mixer.errors import DecisionError, PolicyError
from mixer.policy import sources
from mixer.policy.budget import Budget
from mixer.policy.builtins import supplied
from mixer.policy.engine import Evaluation
from mixer.policy.program import Program
from mixer.policy.regorus import EmbeddedEngine
from mixer.policy.sources import Module, Sources
from mixer.policy.ticks import ticked
from mixer.telemetry.masking import RecordMask
from tests.telemetry.entries import http_entry, new_metrics, record, value

BUDGET = Budget(0.05, 64 * 1024 * 1024)
LATEST = 1.0  # seconds of processor time, on a machine that does other work too
LARGE = orjson.dumps(
    {"a": list(range(2000)), "s": "a" * 1000, "m": {str(at): [1, 2, 3] for at in range(3000)}}
)
SMALL = b'{"a": [1], "s": "a", "m": {"b": 1}}'
# `walk`, and no rule with it is compiled.
INTERPRETED = "walk(input.m, _)"


def program(rules: str, budget: Budget | None = BUDGET) -> Program:
    return Program(Sources((Module("p.rego", f"package p\n\n{rules}\n"),), {}, ""), "p/x", budget=budget)


def chain(first: str, following: Callable[[int], str]) -> str:
    return "\n".join([first, *map(following, range(1, 60)), ""])


def loaded_or_refused(rules: str) -> Program | str:
    try:
        return program(rules)
    except PolicyError as error:
        return str(error)


EXPLOSIVE = {
    "compiled: three loops": "x := count([1 | some i in input.a; some j in input.a; some k in input.a; i + j == k])",
    "three loops": "x := count([1 | some i in input.a; some j in input.a; some k in input.a; i + j == k; INTERPRETED])",
    "indices": "x := count([1 | input.a[i]; input.a[j]; input.a[k]; i + j == k; INTERPRETED])",
    "one expression": "x if { input.a[_] + input.a[_] == -1; INTERPRETED }\nx := 1 if count(input.a) == 1",
    "comprehensions": "x := [z | some i in input.a; z := [1 | some j in input.a; q := [1 | some k in input.a; INTERPRETED]]]",
    "every": "x if { INTERPRETED; every i in input.a { every j in input.a { every k in input.a { i + j + k >= 0 } } } }",
    "partial set": "x contains [i, j] if { some i in input.a; some j in input.a; INTERPRETED }",
    "partial object": "x[i] := 1 if { some i in input.a; some j in input.a; some k in input.a; INTERPRETED }",
    "a function's loop": "f(y) := [z | some z in input.a; z < y; INTERPRETED]\nx := [z | some y in input.a; z := f(y)]",
    "a head's loop": "f(y) := [z | some z in input.a; INTERPRETED]\nx := [f(y) | some y in input.a]",
    "with in a loop": "y if { INTERPRETED; some z in input.a; z == -1 }\nx := [1 | some z in input.a; not y with input.z as z]",
    "several walks": "x := count([1 | walk(input, _); walk(input, _); walk(input, _)])",
    "an object's keys": "x := {sprintf(`%d%s`, [i, k]): v | some i in input.a; some k, v in input.m; INTERPRETED}",
    "functions": chain("f0(y) := y if walk(input.m, [_, 1])", lambda n: f"f{n}(y) := f{n - 1}(y) + f{n - 1}(y + 1)")
    + "x := f59(1) if input.m\nx := 1 if not f0(1)",
    "functions, in conditions": chain(
        "f0(y) if walk(input.m, [_, 1])", lambda n: f"f{n}(y) if f{n - 1}(y) == f{n - 1}(y + 1)"
    )
    + "x if f59(1)\nx := 2 if not f0(1)",
    "longer texts": chain("y0 := input.s if INTERPRETED", lambda n: f'y{n} := concat("", [y{n - 1}, y{n - 1}])')
    + "x := count(y59)",
    "longer arrays": chain("y0 := input.a if INTERPRETED", lambda n: f"y{n} := array.concat(y{n - 1}, y{n - 1})")
    + "x := count(y59)",
    "templates": 'x := [strings.render_template("{{range .a}}{{range $.a}}{{.}}{{end}}{{end}}", {"a": input.a}) | some i in input.a]',
}  # fmt: skip


@pytest.mark.parametrize("rules", EXPLOSIVE.values(), ids=EXPLOSIVE)
def test_evaluation_that_explodes_is_cut_off_and_the_next_one_is_not(rules: str) -> None:
    made = loaded_or_refused(rules.replace("INTERPRETED", INTERPRETED))
    if isinstance(made, str):  # some explode over an empty input already
        assert "over an empty input takes" in made
        return
    started = time.thread_time()
    with pytest.raises(DecisionError, match=r"p/x takes (longer|more) than .+ \(policy\.max_eval") as caught:
        made.evaluate(LARGE)
    assert time.thread_time() - started < LATEST
    assert caught.value.reason == "limit"
    if not rules.startswith(("f0", "y0")):
        assert made.evaluate(SMALL) is not None


def test_memory_is_bounded_while_there_is_time() -> None:
    made = program(
        "x := [s | walk(input.m, _); some i in input.a; s := sprintf(`%d%s`, [i, input.s])]",
        Budget(30.0, 20 * 1024 * 1024),
    )
    with pytest.raises(DecisionError, match="takes more than 20971520 bytes of memory") as caught:
        made.evaluate(LARGE)
    assert caught.value.reason == "limit"


AT_ONCE = {
    "numbers.range": "x := count(numbers.range(1, input.n))",
    "numbers.range_step": "x := count(numbers.range_step(1, input.n, 2))",
    "net.cidr_expand": 'x := count(net.cidr_expand(input.c))',
    "graph.reachable_paths": "x := count(graph.reachable_paths({i: [j | some j in input.g] | some i in input.g}, {1}))",
    "json.patch": 'x := json.patch({"a": {}}, [{"op": "copy", "from": "", "path": sprintf("/a%d", [i])} | some i in input.g])',
    "replace": 'x := count(replace(input.t, "a", input.t))',
    "concat": "x := count(concat(input.t, [input.t | some i in input.h]))",
}  # fmt: skip


@pytest.mark.parametrize("name", AT_ONCE)
def test_one_call_that_would_take_everything_is_not_begun(name: str) -> None:
    made = program(AT_ONCE[name])
    document = {
        "n": 10**12,
        "c": "2001:db8::/64",
        "h": list(range(100)),
        "g": list(range(1, 31)),
        "t": "a" * 3_000_000,
    }
    with pytest.raises(
        DecisionError, match=rf"calls {name} for more than|takes (longer|more) than"
    ) as caught:
        made.evaluate(orjson.dumps(document))
    assert caught.value.reason == "limit"


def test_what_those_calls_give_is_as_before() -> None:
    rules = """
x := [numbers.range(1, input.n), numbers.range_step(1, input.n, 2), net.cidr_expand(input.c), y, z, w]
y := graph.reachable_paths(input.g, {"a"})
z := json.patch(input.g, [{"op": "copy", "from": "/a", "path": input.p}])
w := [replace("aba", "a", input.c), concat(input.p, {"b", "a"})]
"""
    document = {"n": 3, "c": "10.0.0.0/31", "g": {"a": ["b"], "b": []}, "p": "/c"}
    found = orjson.loads(program(rules).evaluate(orjson.dumps(document)) or "")
    assert found == [
        *([1, 2, 3], [1, 3], ["10.0.0.0", "10.0.0.1"], [["a", "b"]]),
        {"a": ["b"], "b": [], "c": ["b"]},
        ["10.0.0.0/31b10.0.0.0/31", "a/cb"],
    ]


def test_policy_that_explodes_over_any_input_is_refused_when_it_is_loaded() -> None:
    with pytest.raises(PolicyError, match=r"p\.rego: data\.p\.x over an empty input takes longer than"):
        program("n := numbers.range(1, 3000)\nx := count([1 | walk(n, _); n[_] + n[_] == n[_]])")


def test_policies_without_such_loops_are_left_as_they_are() -> None:
    rules = """package p

allow if { some role in input.roles; role == "admin"; count(input.a) > 0 }

f(x) := concat("/", [x, g(x)])

g(x) := lower(x)

x contains y if { y := f(input.s); not startswith(y, "a") }
"""
    from mixer.policy.program import _parsed

    assert ticked(_parsed([Module("p.rego", rules)])) is None


def test_log_and_record_masks_are_cut_off_too(tmp_path: Path) -> None:
    loop = "count([1 | some i in n; some j in n; some k in n; i + j + k == 0]) == 0"
    data = f"n := {[*range(1, 2000)]} if input\n"
    (tmp_path / "log.rego").write_text(f"package system.log\n\n{data}\ndrop if {loop}\n")
    (tmp_path / "mask.rego").write_text(
        f'package mixer.report\n\n{data}\nmask contains "/url.path" if {loop}\n'
    )
    loaded = sources.load([tmp_path])
    with pytest.raises(DecisionError, match="system/log/drop takes longer than"):
        LogPolicy(loaded, budget=BUDGET).drops('{"labels": 1}')
    metrics = new_metrics()
    mask = RecordMask(loaded, "mixer/report/mask", metrics, budget=BUDGET)
    assert mask(record(http_entry(path="/a"))) is None
    assert value(metrics, "mixer_report_mask_failed_total") == 1


def test_other_threads_are_not_cut_off_by_an_evaluation_of_the_main_thread() -> None:
    answers: list[str | None] = []

    def other() -> None:
        made = program("x := count([1 | some i in input.a; some j in input.a; walk(i, _)]) > 0")
        answers.append(made.evaluate(orjson.dumps({"a": list(range(300))})))
        del made

    thread = threading.Thread(target=other)
    thread.start()
    made = program(EXPLOSIVE["compiled: three loops"])
    with pytest.raises(DecisionError, match="takes longer than"):
        made.evaluate(LARGE)
    thread.join()
    assert answers == ["true"]


def test_settings_say_how_much_an_evaluation_may_take(tmp_path: Path) -> None:
    (tmp_path / "p.rego").write_text("package p\n\n" + EXPLOSIVE["compiled: three loops"])
    engine = EmbeddedEngine(
        config.Policy.model_validate({"paths": [tmp_path], "decision": "p/x", "max_evaluation": "30ms"})
    )
    asyncio.run(engine.start())
    with pytest.raises(DecisionError, match=r"takes longer than 0\.03 s"):
        engine.evaluate(LARGE, None)
    evaluation = engine.evaluate(SMALL, None)
    assert isinstance(evaluation, Evaluation)
    assert evaluation.decision == "0"


NESTED = {
    "deep": f"x := {'[' * 30}{']' * 30}",
    "wide": "x := [" + ", ".join(["[" * 12 + "]" * 12] * 100) + "]",
}


@pytest.mark.parametrize("module", NESTED.values(), ids=NESTED)
def test_brackets_that_take_minutes_to_parse_are_refused_at_once(module: str, tmp_path: Path) -> None:
    started = time.thread_time()
    with pytest.raises(PolicyError, match=r"p\.rego: nests brackets .*(levels deep|to be parsed in seconds)"):
        program(module)
    (tmp_path / "log.rego").write_text(f"package system.log\n\ndrop := true\n{module}\n")
    with pytest.raises(PolicyError, match="nests brackets"):
        LogPolicy(sources.load([tmp_path]))
    assert time.thread_time() - started < LATEST


def test_brackets_in_texts_and_comments_are_not_counted() -> None:
    brackets = "[" * 30
    assert program(f'# {brackets}\nx := ["{brackets}", `{brackets}`]').evaluate(b"{}") is not None


def test_versions_of_thousands_of_digits_are_no_versions() -> None:
    found = supplied("semver.is_valid")
    assert found is not None
    assert found[1](f"1.0.{'9' * 10_000}") is False
    assert found[1](f"1.0.0-{'9' * 10_000}") is True


def test_yaml_that_is_nested_without_end_is_not_valid() -> None:
    found = supplied("yaml.is_valid")
    assert found is not None
    assert found[1]("{" * 100_000) is False
    assert found[1]("[" * 99 + "]" * 99) is True

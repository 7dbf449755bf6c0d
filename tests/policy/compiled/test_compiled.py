"""What is compiled, what is left to the interpreter, and that the two meet."""

import json
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from benchmarks.check import JWT_POLICY, PLAIN_POLICY
from mixer.policy import sources
from mixer.policy.compiled import Compiled, UnsureError
from mixer.policy.program import Program
from mixer.policy.sources import Module, Sources

DATA = {"users": {"ann": "admin"}, "paths": ["/a", "/b"], "limits": {"admin": [10, 20]}}
INPUT = {
    "user": "ann",
    "path": "/b",
    "list": [3, 1, 2],
    "object": {"x": 1, "y": 2},
    "flag": False,
    "ratio": 0.5,
    "text": "[0.1]",
}


def program(rules: str, decision: str = "p/x") -> Program:
    return Program(Sources((Module("p.rego", f"package p\n\n{rules}\n"),), DATA, ""), decision)


def compiled(made: Program) -> Compiled:
    assert made.interpreted is None
    found = made._compiled[made._decision]
    assert isinstance(found, Compiled)
    return found


def evaluated(rules: str) -> Any:
    answer = compiled(program(rules)).evaluate(INPUT)
    return "undefined" if answer is None else json.loads(answer)


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ("x := data.users[input.user]", "admin"),
        ("x := data.limits[data.users[input.user]][1]", 20),
        ("x if input.path in data.paths", True),
        ("x if input.path == data.paths[_]", True),
        ('default x := {"allowed": false}\nx := {"allowed": true} if input.user == "bob"', {"allowed": False}),
        ('x := 1 if input.user == "bob" else := 2 if input.flag else := 3', 3),
        ('x := 1 if input.user == "ann"\nx := 1 if input.path == "/b"', 1),
        ("x contains y if some y in input.list", [1, 2, 3]),
        ("x[k] := v + 1 if some k, v in input.object", {"x": 2, "y": 3}),
        ("f(a, [b, _]) := a + b\nx := f(1, [2, 3])", 3),
        ('f("a") := 1\nf("b") := 2\nx := f("b")', 2),
        ("f(a) := 1 if a > 5\ndefault f(_) := 0\nx := [f(1), f(9)]", [0, 1]),
        ("x := [y | some y in input.list; y > 1]", [3, 2]),
        ('x := {k: [v, input.user] | some k, v in input.object; k != "y"}', {"x": [1, "ann"]}),
        ("x if every y in input.list { y > 0 }", True),
        ("x if every k, v in input.object { v == input.object[k] }", True),
        ("x if not input.absent", True),
        ("x if not input.flag", True),
        ('x if not startswith(input.absent, "a")', "undefined"),
        ("x := [i | some i; input.list[i] == 1]", [1]),
        ("x := y if { [y, _, z] := input.list; z == 2 }", 3),
        ("x := y if { [y, 1, _] = input.list }", 3),
        ("x := n if { count(input.list, n) }", 3),
        ("x := {1, 2} | {y | y := input.list[_]}", [1, 2, 3]),
        ("x if {1, 2} & {2, 3} == {2}", True),
        ("x := input.list[0] - 7 % 4", 0),
        ("x if input.list != [true, 1, 2]", True),
        ("x if true in {1, true}", True),
        ("x if 1 in {true}", "undefined"),
        ('x := glob.match("/*/b", ["/"], "/a/b")', True),
        ('x if regex.match(`^/[a-c]$`, input.path)', True),
        ('x := sprintf("%s:%d", [input.user, 7])', "ann:7"),
        ('x := json.marshal({"b": [1], "a": "<"})', '{"a":"\\u003c","b":[1]}'),
        ('x := object.get(input, ["object", "z"], "none")', "none"),
        ("x := 1 / 0", "undefined"),
        ("x := data.q.y", "undefined"),
    ],
)  # fmt: skip
def test_rules_that_are_compiled(rules: str, expected: Any) -> None:
    assert evaluated(rules) == expected


@pytest.mark.parametrize(
    ("rules", "why"),
    [
        ("x if input.user == 1 with input.user as 1", "p.rego:3: with"),
        ("x := 1.5", "p.rego:3: a number that is no plain integer"),
        ("y := walk(input)\nx := 1 if y", "p.rego:3: walk"),
        ("y.z := 1\nx := y", "data.p.y, which has rules below it"),
        ('x := y if { {"user": y} = input }', "p.rego:3: an object as a pattern"),
        ('x := {1: "a"}', "p.rego:3: a key that is no string"),
        ("x[a].b := 1 if some a in input.list", "a rule's head with several keys"),
        ("x if { y == 1; y = input.list[_] }", "p.rego:3: y before it has a value"),
        ("x := {[i | input.list[i]], [i | input.list[i]]}", "i in two queries without `some`"),
        ("x := rand.intn(input.user, 5)", "p.rego:3: rand.intn"),
    ],
)  # fmt: skip
def test_what_is_not_compiled_is_named(rules: str, why: str) -> None:
    assert program(rules).interpreted == why


@pytest.mark.parametrize(
    "rules",
    [
        "x := input.ratio + 1",
        "x if input.ratio < input.user",
        "x[k] := 1 if some k in input.list",
        "x := {v: 1 | some v in input.list}",
        'x := 1 if input.user == "ann"\nx := 2 if input.path == "/b"',
        "x := y if some y in input.list",
        "x := input.list[input.ratio]",
        "x := input.object[1]",
        "x := 900719925474099 * 10 * input.list[0]",
        "x if every y in input.user { y }",
        "x := json.unmarshal(input.text)",
    ],
)
def test_what_is_not_certain_is_left_to_the_interpreter(rules: str) -> None:
    made = program(rules)
    with pytest.raises(UnsureError):
        compiled(made).evaluate(INPUT)


def test_the_interpreters_answer_is_given_where_it_decides() -> None:
    assert json.loads(program("x := input.ratio + 1").evaluate(json.dumps(INPUT).encode()) or "") == 1.5


def test_rules_that_are_often_left_to_the_interpreter_are_it_for_good() -> None:
    made = program("x := input.ratio + 1")
    document = json.dumps(INPUT).encode()
    with capture_logs() as lines:
        answers = {made.evaluate(document) for _ in range(150)}
    assert answers == {"1.5"}
    assert lines == [
        {
            "event": "policy_interpreted",
            "decision": "p/x",
            "because": "arithmetic on what is no integer",
            "log_level": "info",
        }
    ]
    assert made.interpreted == "arithmetic on what is no integer"


def test_rules_that_are_seldom_left_to_the_interpreter_stay_compiled() -> None:
    made = program("x := input.n + 1")
    for number in range(600):
        answer = made.evaluate(json.dumps({"n": 0.5 if number % 3 == 0 else number}).encode())
        assert answer == ("1.5" if number % 3 == 0 else str(number + 1))
    assert made.interpreted is None


def test_no_evaluation_changes_the_data_or_what_another_sees() -> None:
    before = json.dumps(DATA)
    made = program('x := object.union(data.limits, {"more": array.concat(data.paths, [input.user])})')
    first = compiled(made).evaluate(INPUT)
    second = compiled(made).evaluate({**INPUT, "user": "bob"})
    assert (first or "").replace("ann", "bob") == second
    assert json.dumps(DATA) == before


def test_an_input_that_is_undefined_is_no_null() -> None:
    made = program("x := 1 if input\nelse := 2")
    assert (made.evaluate(None), made.evaluate(b"null"), made.evaluate(b"false")) == ("2", "1", "2")


def test_rules_that_call_each_other_too_deeply_are_left_to_the_interpreter() -> None:
    chain = "\n".join(f"r{n} := r{n + 1} if r{n + 1}" for n in range(400))
    made = program(f"{chain}\nr400 := input.user\nx := r0")
    assert made.interpreted == "rules that lead to each other too deeply"
    assert made.evaluate(json.dumps(INPUT).encode()) == '"ann"'


def test_calls_that_are_too_deep_are_left_to_the_interpreter() -> None:
    calls = "\n".join(f"f{n}(x) := y if y := f{n + 1}(x)" for n in range(90))
    made = program(f"{calls}\nf90(x) := x\nx := f0(input.user)")
    assert made.evaluate(json.dumps(INPUT).encode()) == '"ann"'


@pytest.mark.parametrize("policy", [JWT_POLICY, PLAIN_POLICY])
def test_the_benchmarks_policies_are_compiled(policy: str) -> None:
    loaded = Sources((Module("authz.rego", policy),), {"roles": {}}, "")
    assert Program(loaded, "envoy/authz/allow").interpreted is None


def test_the_example_policy_is_compiled() -> None:
    loaded = sources.load([Path("policies")])
    assert Program(loaded, "envoy/authz/allow").interpreted is None

"""What a decision can read of its input: never less than it does read."""

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixer import config
from mixer.errors import DecisionError, PolicyError
from mixer.policy.deps import IN_OPA
from mixer.policy.engine import Evaluation
from mixer.policy.program import referenced
from mixer.policy.references import dotted
from mixer.policy.regorus import EmbeddedEngine
from mixer.policy.sources import Module


def engine(folder: Path, policy: str) -> EmbeddedEngine:
    (folder / "p.rego").write_text(f"package p\n\n{policy}\n")
    made = EmbeddedEngine(config.Policy(paths=(folder,), decision="p/allow"))
    asyncio.run(made.start())
    return made


def paths(policy: str, **files: str) -> set[str]:
    modules = [Module("p.rego", f"package p\n\n{policy}\n")]
    modules += [Module(f"{name}.rego", text) for name, text in files.items()]
    return {dotted(path) for path in referenced(modules, "p/allow").paths}


@pytest.mark.parametrize(
    ("policy", "read"),
    [
        ("allow := true", set()),
        ("allow := input.a.b", {"input.a.b"}),
        ('allow := input.a["b-c"].d', {"input.a.b-c.d"}),
        ('allow := input["a"]', {"input.a"}),
        ("allow := input", {"input"}),
        ("allow := input[data.k]", {"input"}),
        ("allow := input.a[input.k].b", {"input.a", "input.k"}),
        ("allow := input.a[0].b", {"input.a"}),
        ("allow if input.a[_] == 1", {"input.a"}),
        ("allow if { some x in input.a; x.b }", {"input.a"}),
        ("allow := [y | y := input.a[_].b]", {"input.a"}),
        ("allow := {x: y | some x, y in input.a}", {"input.a"}),
        ("allow if every x in input.a { x == input.b }", {"input.a", "input.b"}),
        ("allow := x.b if x := input.a", {"input.a.b"}),
        ("allow := x.b.c if x := input", {"input.b.c"}),
        ("allow if { x := input.a; y := x.b; y.c; not y.d }", {"input.a.b.c", "input.a.b.d"}),
        ("allow if { x := input.a; x.b; count(x) }", {"input.a"}),
        ("allow if { x := input.a; x.b[input.k] }", {"input.a.b", "input.k"}),
        ("allow if { x := input.a; y := x; y.b }", {"input.a"}),
        ("allow if { x := input.a }", {"input.a"}),
        ("allow if { x := input.a; x.b; [1 | some x in [1]] }", {"input.a"}),
        ("allow if { x = input.a; x.b }", {"input.a"}),
        ("allow if { x := input[data.k]; x.b }", {"input"}),
        ("allow if { x := input.a; [y | y := x.b] }\nelse := x if x := input.z", {"input.a", "input.z"}),
        ("allow := f(input.a)\nf(x) := x.b", {"input.a"}),
        ("allow := f(1)\nf(x) := input.z", {"input.z"}),
        ("allow if not input.a", {"input.a"}),
        ("allow := 1 if input.a\nelse := input.b", {"input.a", "input.b"}),
        ("allow := object.get(input, \"a\", 1)", {"input"}),
        ("allow := count(input.a)", {"input.a"}),
        ("allow := {\"k\": input.a}.k", {"input.a"}),
        ("allow := inner\ninner := input.deep.x\nunused := input.elsewhere", {"input.deep.x"}),
        ("allow contains x if x := input.a", {"input.a"}),
        ("allow[input.k] := input.v", {"input.k", "input.v"}),
        ("default allow := 1\nallow := input.a if input.a > 1", {"input.a"}),
        ("allow if { walk(input.a, [_, 1]) }", {"input.a"}),
        ("allow := x if x := inner with input.a as input.b\ninner := input.c", {"input.a", "input.b", "input.c"}),
        ("import input.a.b as c\n\nallow := c.d", {"input.a.b.d"}),
        ("import input.a.b\n\nallow := b", {"input.a.b"}),
        ("import input as i\n\nallow := i.x", {"input.x"}),
        ("allow := roles.admin\nroles.admin := input.a\nroles.user := input.b", {"input.a"}),
        ("allow := roles[data.k]\nroles.admin := input.a\nroles.user := input.b", {"input.a", "input.b"}),
        ("allow := roles\nroles[x] := input.a if x := input.b", {"input.a", "input.b"}),
        ("allow := roles[data.k].name\nroles.a.name := input.a\nroles.a.rank := input.b", {"input.a", "input.b"}),
        ("allow := roles.a.name\nroles[x].rank := input.a if x := input.b", {"input.a", "input.b"}),
        ("allow := roles.admin\nroles[x].name := input.a if x := input.b", {"input.a", "input.b"}),
        ("allow := data.p.inner\ninner := input.a\nunused := input.b", {"input.a"}),
        ("allow := data[data.k].other\nother := input.a", {"input.a"}),
        ("allow if count(data) > 0\nother := input.a", {"input.a"}),
        ("allow if count([1]) > 0 with count as mine\nmine(x) := input.a", {"input.a"}),
        ("allow if data.z.k with data.z as data.p.inner\ninner := input.a", {"input.a"}),
        ("allow if f(1)\ndefault f(_) := true\nf(x) if input.a == x", {"input.a"}),
        ("allow if every x in [inner] { x }\ninner := input.a", {"input.a"}),
        ("allow if not {inner}\ninner := input.a", {"input.a"}),
        ("default allow := false\nallow if false\nelse := inner\ninner := input.a", {"input.a"}),
    ],
)  # fmt: skip
def test_reads(policy: str, read: set[str]) -> None:
    assert paths(policy) == read


def test_other_modules_are_read_too() -> None:
    library = "package lib\n\nimport input.h\n\nf(x) := h.z\n"
    assert paths("import data.lib\n\nallow := lib.f(1)", lib=library) == {"input.h.z"}


def test_longer_path_is_covered_by_the_shorter() -> None:
    assert paths("allow if { input.a.b; input.a }") == {"input.a"}


@pytest.mark.parametrize("call", ["time.now_ns()", 'rand.intn("x", 5)', 'uuid.rfc4122("x")'])
def test_clock_and_chance_make_a_decision_uncacheable_and_are_named(tmp_path: Path, call: str) -> None:
    [reason] = engine(tmp_path, f"allow := 1 if {call}").references.uncacheable
    assert reason == f"{call.partition('(')[0]} ({tmp_path}/p.rego:3)"


def test_clock_that_the_decision_cannot_reach_does_not_count(tmp_path: Path) -> None:
    policy = (
        "allow := roles[input.a].name\nroles.a.name := 1\nroles.a.since := time.now_ns()\n"
        "fresh(x) := x > time.now_ns()"
    )
    assert engine(tmp_path, policy).references.uncacheable == ()


@pytest.mark.parametrize(
    "policy",
    [
        "allow if inner\ninner if time.now_ns() > 0",
        "allow if fresh(1)\nfresh(x) if x < time.now_ns()",
        "allow if data.p[input.a]\ninner if time.now_ns() > 0",
        "allow if x(1) == 2 with x as rand.intn\nx(_, _) := 1",
        "allow if false\nelse if time.now_ns() > 0",
        "allow := [1 | time.now_ns() > 0]",
    ],
)
def test_clock_and_chance_are_found_wherever_they_are_reached(policy: str) -> None:
    assert referenced([Module("p.rego", f"package p\n\n{policy}\n")], "p/allow").uncacheable


def test_builtin_that_another_is_replaced_by_is_found_too() -> None:
    policy = "allow if f(input.t, {})[0] with f as io.jwt.decode_verify\nf(_, _) := [true]\n"
    unstable = referenced([Module("p.rego", f"package p\n\n{policy}")], "p/allow", IN_OPA).uncacheable
    assert unstable == ("io.jwt.decode_verify (p.rego:3)",)


def test_package_is_the_union_of_its_rules() -> None:
    module = Module("p.rego", "package p.q\n\na := input.a\nb.c := input.b\n")
    other = Module("r.rego", "package r\n\na := input.c\n")
    assert referenced([module, other], "p").paths == {("a",), ("b",)}
    assert referenced([module, other], "p/q/b").paths == {("b",)}


def test_rule_of_another_file_of_the_package_is_reached() -> None:
    modules = [
        Module("a.rego", "package p\n\nallow := inner if f(1)\n"),
        Module("b.rego", "package p\n\ninner := input.a\nf(x) := input.b\n"),
    ]
    assert referenced(modules, "p/allow").paths == {("a",), ("b",)}


# Whatever a decision reads, an input with nothing but the recorded paths gives the same one.

NAMES = ("a", "b", "c")
reference = st.lists(st.sampled_from(NAMES), max_size=3).map(lambda names: ".".join(("input", *names)))
expression = st.one_of(
    reference,
    st.sampled_from(["1", '"a"', "[1]", "x", "data.k"]),
    st.tuples(reference, reference).map(lambda pair: f"object.get({pair[0]}, {pair[1]}, 0)"),
    st.tuples(reference, st.sampled_from(NAMES)).map(lambda pair: f'{pair[0]}["{pair[1]}"]'),
    st.tuples(reference, reference).map(lambda pair: f"{pair[0]}[{pair[1]}]"),
    reference.map(lambda text: f"count([y | y := {text}[_]])"),
    reference.map(lambda text: f"f({text})"),
    st.sampled_from(["inner", "parts", "parts.a", "parts[input.a]", "v.b", "v.c", "v", "count(v)"]),
    st.sampled_from(["w.b", "w.c", "w", "objects[input.a].b", "objects[data.k].c", "objects.a"]),
)
condition = st.one_of(
    st.tuples(expression, st.sampled_from(["==", "!="]), expression).map(" ".join),
    expression.map(lambda text: f"not {text}"),
    reference.map(lambda text: f"some z in {text}"),
    reference.map(lambda text: f"every z in {text} {{ z != input.a }}"),
    st.tuples(reference, expression).map(lambda pair: f"inner with {pair[0]} as {pair[1]}"),
)


def outside(text: str) -> str:
    """An expression where the locals of `allow` are not known, and no rule needs itself."""
    known = {"x": "1", "inner": "1", "parts": "input", "objects": "input", "v": "input.b", "w": "input.c"}
    for name, instead in known.items():
        text = re.sub(rf"(?<![.\w]){name}\b", instead, text)
    return text


policies = st.tuples(
    expression,
    st.lists(condition, min_size=1, max_size=3),
    *[expression] * 4,
    st.sampled_from(["v", "v.b", "input"]),
).map(
    lambda parts: (
        f"default allow := 0\nallow := {parts[0]} if {{\n\tv := input.a\n\tw := {parts[6]}\n\tx := {parts[3]}\n\t"
        + "\n\t".join(parts[1])
        + f'\n}}\ninner := {outside(parts[2])}\nparts[k] := {outside(parts[4])} if some k in ["a", input.c]\n'
        + f"objects.a.b := {outside(parts[5])}\nobjects.a.c := input.b.c\nf(v) := v.a\n"
    )
)
documents = st.recursive(
    st.sampled_from([0, 1, "a", "b", None, True]),
    lambda below: st.dictionaries(st.sampled_from(NAMES), below, max_size=3) | st.lists(below, max_size=2),
    max_leaves=12,
)


def only(document: Any, wanted: set[tuple[str, ...]]) -> Any:
    if () in wanted or not isinstance(document, dict):
        return document
    return {
        key: only(value, {path[1:] for path in wanted if path[0] == key})
        for key, value in document.items()
        if any(path[0] == key for path in wanted)
    }


@settings(max_examples=200)
@given(policies, st.dictionaries(st.sampled_from(NAMES), documents, max_size=3))
def test_input_of_the_read_paths_alone_gives_the_same_decision(
    tmp_path_factory: pytest.TempPathFactory, policy: str, document: dict[str, Any]
) -> None:
    try:
        made = engine(tmp_path_factory.mktemp("policy"), policy)
    except PolicyError:  # one that cannot be compiled decides nothing
        return

    def decide(given_input: object) -> str:
        try:
            answer = made.evaluate(json.dumps(given_input).encode(), None)
        except DecisionError as error:
            return error.reason
        assert isinstance(answer, Evaluation)
        return answer.decision

    assert decide(only(document, set(made.references.paths))) == decide(document)

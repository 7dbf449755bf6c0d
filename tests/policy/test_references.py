"""What a decision can read of its input: never less than it does read."""

import asyncio
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixer import config
from mixer.errors import DecisionError, PolicyError
from mixer.policy.engine import Evaluation
from mixer.policy.regorus import EmbeddedEngine
from tests.components import binaries


def engine(folder: Path, policy: str, **files: str) -> EmbeddedEngine:
    (folder / "p.rego").write_text(f"package p\n\n{policy}\n")
    for name, text in files.items():
        (folder / f"{name}.rego").write_text(text)
    made = EmbeddedEngine(config.Policy(paths=(folder,), decision="p/allow"))
    asyncio.run(made.start())
    return made


def paths(folder: Path, policy: str, **files: str) -> set[str]:
    return {".".join(("input", *path)) for path in engine(folder, policy, **files).references.paths}


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
        ("allow := x.b if x := input.a", {"input.a"}),
        ("allow := x.b.c if x := input", {"input"}),
        ("allow := f(input.a)\nf(x) := x.b", {"input.a"}),
        ("allow := f(1)\nf(x) := input.z", {"input.z"}),
        ("allow if not input.a", {"input.a"}),
        ("allow := 1 if input.a\nelse := input.b", {"input.a", "input.b"}),
        ("allow := object.get(input, \"a\", 1)", {"input"}),
        ("allow := count(input.a)", {"input.a"}),
        ("allow := {\"k\": input.a}.k", {"input.a"}),
        ("allow := inner\ninner := input.deep.x\nunused := input.elsewhere", {"input.deep.x", "input.elsewhere"}),
        ("allow contains x if x := input.a", {"input.a"}),
        ("allow[input.k] := input.v", {"input.k", "input.v"}),
        ("default allow := 1\nallow := input.a if input.a > 1", {"input.a"}),
        ("allow if { walk(input.a, [_, 1]) }", {"input.a"}),
        ("allow := x if x := inner with input.a as input.b\ninner := input.c", {"input.a", "input.b", "input.c"}),
        ("import input.a.b as c\n\nallow := c.d", {"input.a.b.d"}),
        ("import input.a.b\n\nallow := b", {"input.a.b"}),
        ("import input as i\n\nallow := i.x", {"input.x"}),
    ],
)  # fmt: skip
def test_reads(tmp_path: Path, policy: str, read: set[str]) -> None:
    assert paths(tmp_path, policy) == read


def test_other_modules_are_read_too(tmp_path: Path) -> None:
    library = "package lib\n\nimport input.h\n\nf(x) := h.z\n"
    assert paths(tmp_path, "import data.lib\n\nallow := lib.f(1)", lib=library) == {"input.h.z"}


def test_longer_path_is_covered_by_the_shorter(tmp_path: Path) -> None:
    assert paths(tmp_path, "allow if { input.a.b; input.a }") == {"input.a"}


@pytest.mark.parametrize("call", ["time.now_ns()", 'rand.intn("x", 5)', 'uuid.rfc4122("x")'])
def test_clock_and_chance_make_a_decision_uncacheable_and_are_named(tmp_path: Path, call: str) -> None:
    [reason] = engine(tmp_path, f"allow := 1 if {call}").references.uncacheable
    assert reason == f"{call.partition('(')[0]} ({tmp_path}/p.rego:3)"


@pytest.mark.parametrize(
    "policy",
    [
        "allow := input.a.b",
        "allow if { some i; input.a[i].b == input.c }\nelse := input.d",
        "allow := f(input.x)\nf(y) := y.z if input.w",
        "allow := x if x := inner with input.a as 1\ninner := {y | y := input.l[_]}",
        "allow if every x in input.e { x in data.known }",
        "import input.attributes.request.http\n\nallow if { http.method == \"GET\"; startswith(http.path, \"/\") }",
    ],
)  # fmt: skip
def test_covers_what_opa_deps_names(tmp_path: Path, policy: str) -> None:
    ours = paths(tmp_path, policy)
    said = subprocess.run(
        [binaries.opa(), "deps", "-d", tmp_path / "p.rego", "-f", "json", "data.p.allow"],
        capture_output=True,
        check=True,
    )
    for terms in json.loads(said.stdout)["base"]:
        named = [term["value"] if term["type"] in ("var", "string") else None for term in terms]
        if named[0] == "input":
            constant = ".".join(named[: named.index(None)] if None in named else named)
            assert any(f"{constant}.".startswith(f"{path}.") for path in ours), (constant, ours)


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
)
condition = st.one_of(
    st.tuples(expression, st.sampled_from(["==", "!="]), expression).map(" ".join),
    expression.map(lambda text: f"not {text}"),
    reference.map(lambda text: f"some z in {text}"),
    reference.map(lambda text: f"every z in {text} {{ z != input.a }}"),
    st.tuples(reference, expression).map(lambda pair: f"inner with {pair[0]} as {pair[1]}"),
)
policies = st.tuples(expression, st.lists(condition, min_size=1, max_size=3), expression, expression).map(
    lambda parts: (
        f"default allow := 0\nallow := {parts[0]} if {{\n\tx := {parts[3]}\n\t"
        + "\n\t".join(parts[1])
        + f"\n}}\ninner := {parts[2].replace('x', '1')}\nf(v) := v.a\n"
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


@settings(max_examples=300, deadline=None)
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

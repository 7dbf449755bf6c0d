"""Generated policies: what is compiled decides as a real OPA does."""

# ruff: noqa: E501 (lists)

import json
import os
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, event, given, settings
from hypothesis import strategies as st

from mixer.errors import PolicyError
from mixer.policy.compiled import Compiled, UnsureError
from mixer.policy.program import Program
from mixer.policy.sources import Module, Sources
from tests.components import processes
from tests.components.processes import Opa
from tests.contract.test_rego import exact

UNDEFINED = "undefined"

TEXTS = ["", "a", "b", "ab", "a.b", "A/b", "héß", "5", "10.0.0.1", "10.0.0.0/8"]
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(-2, 4), st.sampled_from(TEXTS))
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b", "k"]), inner, max_size=3)
    ),
    max_leaves=6,
)
KEYS = ["a", "b", "s", "n", "l", "o"]
INPUTS = st.fixed_dictionaries(
    {},
    optional={
        "a": VALUES,
        "b": VALUES,
        "s": st.sampled_from(TEXTS),
        "n": st.integers(-2, 4),
        "l": st.lists(VALUES, max_size=4),
        "o": st.dictionaries(st.sampled_from(["a", "b", "k"]), VALUES, max_size=3),
    },
)
DATA = {
    "d": {
        "s": "a",
        "n": 3,
        "l": [1, "a", [2, "b"]],
        "o": {"a": {"b": 1}, "b": ["a"]},
        "yes": True,
        "t": {"a": "b", "b": "a"},
    }
}
# OPA's compiler knows no types of these, so that it refuses few of the modules.
UNTYPED = [
    *(f"input.{key}" for key in KEYS),
    *("input.o.a", "input.l[0]", "input.o.a.b", 'input.o["k"]', "alias.a", "alias", "shared.o"),
    *("shared.t[input.s]", "data.d.s", "data.d.n", "data.d.l", "data.d.o", "data.d.none", "data.d.yes"),
    *("data.p.named", "named", "made", "found"),
]
LITERALS = [
    '"a"',
    '"ab"',
    "0",
    "1",
    "-1",
    "true",
    "null",
    "[]",
    "{}",
    "set()",
    '{"a", "b"}',
    "{1, true}",
    "held",
]
LEAVES = st.sampled_from(UNTYPED * 4 + LITERALS)
LOOPED = st.sampled_from(
    [
        "input.l[_]",
        "input.o[_]",
        "input.a[_]",
        "input.l[_][_]",
        "data.d.l[_]",
        "data.d.o[_]",
        "found[_]",
        "made[_]",
        "named[_]",
    ]
)
ONE = "count lower upper trim_space type_name is_string is_number is_boolean is_array is_object is_set is_null array.reverse strings.reverse to_number object.keys base64.encode base64.decode json.marshal sum max min union intersection json.unmarshal one".split()  # noqa: SIM905
TWO = "startswith endswith contains trim trim_left trim_right trim_prefix trim_suffix split concat indexof array.concat object.union object.remove object.filter strings.any_prefix_match strings.any_suffix_match regex.match net.cidr_contains two pick".split()  # noqa: SIM905
THREE = "replace substring object.get array.slice glob.match".split()  # noqa: SIM905


def _composed(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.one_of(
        st.builds("{}({})".format, st.sampled_from(ONE), inner),
        st.builds("{}({}, {})".format, st.sampled_from(TWO), inner, inner),
        st.builds("{}({}, {}, {})".format, st.sampled_from(THREE), inner, inner, inner),
        st.builds("({} {} {})".format, inner, st.sampled_from(["==", "!=", "<", "<=", ">", ">="]), inner),
        st.builds("({} {} {})".format, inner, st.sampled_from(["+", "-", "*", "/", "%", "|", "&"]), inner),
        st.builds("({} in {})".format, inner, inner),
        st.builds("({}, {} in {})".format, inner, inner, inner),
        st.builds("[{}, {}]".format, inner, inner),
        st.builds('{{"a": {}, "b": {}}}'.format, inner, inner),
        st.builds("{{{}, {}}}".format, inner, inner),
        st.builds("[w | some w in {}; w != {}]".format, inner, inner),
        st.builds("{{w | w := {}[_]}}".format, st.sampled_from(["input.l", "input.o", "made", "found"])),
        st.builds("{{k: w | some k, w in {}; is_string(k)}}".format, inner),
        st.builds('sprintf("%v %d", [{}, {}])'.format, inner, inner),
    )


TERMS = st.recursive(LEAVES | LOOPED, _composed, max_leaves=4)
PLAIN = st.recursive(LEAVES, _composed, max_leaves=3)
STATEMENTS = st.one_of(
    TERMS,
    st.builds("{} == {}".format, TERMS, TERMS),
    st.builds("not {}".format, PLAIN),
    st.builds("not {} == {}".format, PLAIN, PLAIN),
    st.builds("not {} in {}".format, PLAIN, PLAIN),
    st.builds("every e in {} {{ e != {} }}".format, PLAIN, PLAIN),
    st.builds("every k, e in {} {{ e == input.o[k] }}".format, PLAIN),
    st.builds("some i, j in {}; j != {}; i".format, PLAIN, PLAIN),
    st.builds("some [i, _] in {}; i == {}".format, PLAIN, PLAIN),
    st.builds("some m; input.l[m] == {}; m >= 0".format, PLAIN),
    st.builds("input.o[n] == {}; n != {}".format, PLAIN, PLAIN),
    st.builds("[x1, x2] = {}; x1 == x2".format, PLAIN),
    st.builds("[y1, y2] := {}; y1 != y2".format, PLAIN),
    st.builds("z = {}; z != {}".format, PLAIN, PLAIN),
)
BODIES = st.builds("{}; v := {}".format, st.one_of(st.just("true"), STATEMENTS), TERMS)
HEADS = st.sampled_from(
    [
        "x := v if {{ {} }}",
        "x := true if {{ {} }}",
        "x contains v if {{ {} }}",
        'x[k] := v if {{ {}; k := concat("", [input.s]) }}',
    ]
)
HELPERS = """package p

import data.d as shared
import input.o as alias

named := input.n if input.n > 1
else := "b" if input.s
made contains v if some v in input.l
found[k] := v if some k, v in input.o
default held := false
held if input.s == "a"
one(y) := [y, 1] if y != null
two(a, b) := a if a == b
else := b
pick("a", b) := b
pick([a, _], b) := a if b
"""


def _module(head: str, bodies: list[str], default: bool, otherwise: str | None) -> str:
    rules = [head.format(body) for body in bodies]
    if head.startswith("x :="):
        if otherwise is not None:
            rules[-1] += f" else := v if {{ {otherwise} }}"
        if default:
            rules.insert(0, 'default x := {"none": []}')
    return HELPERS + "\n".join(rules) + "\n"


MODULES = st.builds(
    _module, HEADS, st.lists(BODIES, min_size=1, max_size=2), st.booleans(), st.none() | BODIES
)


@pytest.fixture(scope="module")
def server() -> Iterator[Opa]:
    with processes.opa() as started:
        assert started.call("PUT", "/v1/data", DATA)[0] == 204
        yield started


@settings(
    max_examples=int(os.environ.get("EXAMPLES", "250")),
    derandomize="EXAMPLES" not in os.environ,  # CI has the same examples each time
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=set(Phase) - {Phase.explain},
)
@given(module=MODULES, documents=st.lists(INPUTS, min_size=1, max_size=3))
def test_what_is_compiled_decides_as_opa_does(
    server: Opa, module: str, documents: list[dict[str, Any]]
) -> None:
    try:
        program = Program(Sources((Module("p.rego", module),), DATA, ""), "p/x")
    except PolicyError:
        event("refused")
        return
    if program.interpreted is not None:
        event("interpreted: " + program.interpreted.rpartition(": ")[2])
        return
    compiled = program._compiled["p/x"]
    assert isinstance(compiled, Compiled)
    if server.call("PUT", "/v1/policies/p", module)[0] != 200:
        event("OPA refuses it")
        return
    for document in documents:
        try:
            answer = compiled.evaluate(document)
        except UnsureError as error:
            event(f"unsure: {error}")
            continue
        event("decided")
        status, got = server.call("POST", "/v1/data/p/x", {"input": document})
        expected = got.get("result", UNDEFINED) if status == 200 else f"failed: {got}"
        ours = UNDEFINED if answer is None else json.loads(answer)
        assert exact(ours) == exact(expected), (module, document)

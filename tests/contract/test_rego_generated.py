"""Generated rules and inputs, to the embedded engine and to a real OPA: the same answers.

Each example is a module of several rules, `x[n] := …`, over one input; both engines evaluate it whole.
"""

# ruff: noqa: E501, RUF001 (lists; letters of many alphabets)

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mixer.errors import DecisionError, PolicyError
from mixer.policy.program import Program
from mixer.policy.sources import Module, Sources
from tests.components import processes
from tests.components.processes import Opa
from tests.contract.test_rego import exact

# What stands in the input and in data: OPA's compiler knows no types of it, so every operand is worth a try.
TEXTS = [
    "",
    "a",
    "ab",
    "a.b",
    "A/b",
    "10.0.0.1",
    "10.0.0.0/8",
    "1.2.3",
    "YQ==",
    "héß",
    "1K",
    "5",
    "{}",
    "b*",
    "𝒳",
]
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 10),
    st.sampled_from([0.5, 1.5, -0.5, 0.1]),
    st.sampled_from(TEXTS),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b", "k"]), inner, max_size=3)
    ),
    max_leaves=5,
)
KEYS = ["a", "b", "s", "n", "l", "o"]
INPUTS = st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=6)
LEAVES = st.sampled_from(
    [f"input.{key}" for key in KEYS]
    + [
        "input.o.a",
        "input.l[0]",
        "input.o.a.b",
        "data.d.s",
        "data.d.n",
        "data.d.l",
        "data.d.o",
        "data.e.set",
        "data.d.none",
    ]
)
ONE = "abs ceil floor round count lower upper trim_space type_name is_string is_number is_array is_object is_null sum product max min sort array.reverse array.flatten strings.reverse to_number json.marshal json.unmarshal json.is_valid base64.encode base64.decode base64url.decode hex.encode hex.decode urlquery.encode object.keys semver.is_valid units.parse units.parse_bytes regex.is_valid crypto.sha256 glob.quote_meta net.cidr_is_valid".split()  # noqa: SIM905
TWO = "startswith endswith contains trim trim_left trim_right trim_prefix trim_suffix split concat indexof indexof_n array.concat object.remove object.filter object.union object.subset json.filter json.remove regex.match regex.split semver.compare net.cidr_contains strings.any_prefix_match bits.and bits.or format_int strings.count".split()  # noqa: SIM905
THREE = "replace substring object.get array.slice glob.match".split()  # noqa: SIM905


def _calls(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.one_of(
        st.builds("{}({})".format, st.sampled_from(ONE), inner),
        st.builds("{}({}, {})".format, st.sampled_from(TWO), inner, inner),
        st.builds("{}({}, {}, {})".format, st.sampled_from(THREE), inner, inner, inner),
        st.builds("({} {} {})".format, inner, st.sampled_from(["+", "-", "*", "/"]), inner),
        st.builds("({} {} {})".format, inner, st.sampled_from(["==", "!=", "<", ">="]), inner),
        st.builds("({} in {})".format, inner, inner),
        st.builds("[{}, {}]".format, inner, inner),
        st.builds('{{"a": {}}}'.format, inner),
        st.builds("[w | some w in {}]".format, inner),
        st.builds("[[k, w] | some k, w in {}; w != {}]".format, inner, inner),
        st.builds('sprintf("%v %s", [{}, {}])'.format, inner, inner),
    )


EXPRESSIONS = st.recursive(LEAVES, _calls, max_leaves=4)
BODIES = st.one_of(
    EXPRESSIONS.map("v := {}".format),
    st.builds("not {}; v := 1".format, EXPRESSIONS),
    st.builds("{}; v := {}".format, EXPRESSIONS, EXPRESSIONS),
    st.builds('{{"a": v}} = {}'.format, EXPRESSIONS),
    st.builds("some v in {}; not v == {}".format, EXPRESSIONS, EXPRESSIONS),
    st.builds("every e in {} {{ e != {} }}; v := 1".format, EXPRESSIONS, EXPRESSIONS),
    st.builds("v := {} with input.a as {}".format, EXPRESSIONS, EXPRESSIONS),
)
DATA = {"d": {"s": "a", "n": 3, "l": [1, "a", 2.5], "o": {"a": {"b": 1}}}}
RULES = 'package e\n\nset := {1, "a", 2.5}\n'


@pytest.fixture(scope="module")
def server() -> Iterator[Opa]:
    with processes.opa() as started:
        assert started.call("PUT", "/v1/data", DATA)[0] == 204
        assert started.call("PUT", "/v1/policies/e", RULES)[0] == 200
        yield started


def by_opa(server: Opa, module: str, document: Any) -> Any:
    """The answer, or None where OPA's compiler refuses the module."""
    if server.call("PUT", "/v1/policies/p", module)[0] != 200:
        return None
    status, answer = server.call("POST", "/v1/data/p/x", {"input": document})
    return answer.get("result", {}) if status == 200 else "failed"


def by_embedded(module: str, document: Any) -> Any:
    loaded = Sources((Module("e.rego", RULES), Module("p.rego", module)), DATA, "")
    try:
        answer = Program(loaded, "p/x").evaluate(json.dumps(document).encode())
    except (PolicyError, DecisionError):
        return "failed"
    return {} if answer is None else json.loads(answer)


@settings(max_examples=300, suppress_health_check=list(HealthCheck))
@given(bodies=st.lists(BODIES, min_size=1, max_size=2), document=INPUTS)
def test_generated_rules_have_opas_answer(server: Opa, bodies: list[str], document: dict[str, Any]) -> None:
    rules = [f'x["{index}"] contains v if {{ {body} }}' for index, body in enumerate(bodies)]
    module = "package p\n\n" + "\n".join(rules) + "\n"
    answer = by_opa(server, module, document)
    if answer is not None and (ours := by_embedded(module, document)) != "failed":
        assert exact(ours) == exact(answer), module

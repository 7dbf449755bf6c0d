"""`rego.metadata.rule` and `rego.metadata.chain` in the embedded engine and in a real OPA."""

import json
from collections.abc import Iterator

import pytest

from mixer.errors import PolicyError
from mixer.policy.program import Program
from mixer.policy.sources import Module, Sources
from tests.components import processes
from tests.components.processes import Opa

OUTER = """# METADATA
# scope: subpackages
# title: everything
# custom: {a: [1, 2.5, yes, null, x], b: {c: "1"}}
package p

# METADATA
# title: elsewhere
y := 1
"""
MODULES = [
    """# METADATA
# title: the package
# authors: [A B <a@b.c>, "<a@b.c>", A, {name: N, email: e}]
# organizations: [o1, o2]
# related_resources: [https://a.test/b, {ref: "https://c.test", description: d}]
package p.q

# METADATA
# title: the document
# scope: document
# labels: {team: red}

# METADATA
# description: |
#   two
#   lines
x["own"] := rego.metadata.rule() if true

# METADATA
# entrypoint: true
z := 1

# no annotations
x["chain"] := [rego.metadata.chain(), rego.metadata.rule()]

# METADATA
# title: with brackets
x[k] := v if {
	k := "deep"
	v := [m | m := rego.metadata.chain()[_].annotations.title]
}

# METADATA
# title: a function
f(a) := object.get(rego.metadata.rule(), "title", 0) if a == 1
else := rego.metadata.chain() if a == 2

x["function"] := f(1)
x["else"] := f(2)

# METADATA
# title: not this one
x["other"] := `
# METADATA
# title: within a text
` if object.get(rego.metadata.rule(), "title", 0) == "not this one"
	# METADATA
	# title: indented
x["indented"] := rego.metadata.rule()

# METADATA
# title: first
# METADATA
# title: second
x["two"] := [rego.metadata.rule(), rego.metadata.chain()]

#METADATA   and more
#title: tight
x["tight"] := rego.metadata.rule()

# METADATA
# title: of a set
s contains rego.metadata.rule()
x["set"] := s
x["negated"] := 1 if not object.get(rego.metadata.rule(), "title", 1) == 2
""",
]
REFUSED = {
    "a list": "# METADATA\n# - a\nx := rego.metadata.rule()",
    "no YAML": "# METADATA\n# a: [\nx := rego.metadata.rule()",
    "a scope that does not fit": "# METADATA\n# scope: package\nx := rego.metadata.rule()",
    "twice": "# METADATA\n# scope: document\nx := rego.metadata.rule()\n\n# METADATA\n# scope: document\nx := 1",
    "nothing below": "x := rego.metadata.rule()\n\n# METADATA\n# title: x",
    "an author without a name": "# METADATA\n# authors: [{}]\nx := rego.metadata.rule()",
}


@pytest.fixture(scope="module")
def opa() -> Iterator[Opa]:
    with processes.opa() as server:
        yield server


@pytest.mark.parametrize("module", MODULES)
def test_metadata_are_opas(opa: Opa, module: str) -> None:
    for name, text in {"outer": OUTER, "inner": module}.items():
        status, problem = opa.call("PUT", f"/v1/policies/{name}", text)
        assert status == 200, problem
    expected = opa.call("POST", "/v1/data/p/q/x", {"input": {}})[1]["result"]
    modules = Module("outer.rego", OUTER), Module("inner.rego", module)
    answer = Program(Sources(modules, {}, ""), "p/q/x").evaluate(b"{}")
    assert answer is not None
    ours = json.loads(answer)
    assert {name: ours.get(name) for name in expected} == expected


@pytest.mark.parametrize("rules", REFUSED.values(), ids=REFUSED)
def test_annotations_that_opa_refuses_are_refused(opa: Opa, rules: str) -> None:
    module = f"package p.r\n\n{rules}\n"
    assert opa.call("PUT", "/v1/policies/refused", module)[0] == 400
    with pytest.raises(PolicyError, match="annotations"):
        Program(Sources((Module("p.rego", module),), {}, ""), "p/r/x")

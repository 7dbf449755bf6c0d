"""Generated modules and inputs, to the embedded engine and to a real OPA: the same answers.

The examples are the same in each run, so that a run says something of the change; `MIXER_EXAMPLES=5000` looks further,
at others each time. What it found is in `test_rego`.
"""

import json
import os
import re
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mixer.errors import DecisionError, PolicyError
from mixer.policy.budget import Budget
from mixer.policy.program import Program
from mixer.policy.sources import Module, Sources
from tests.components import processes
from tests.components.processes import Opa
from tests.contract.generated import DATA, INPUTS, LIBRARY, modules
from tests.contract.test_rego import FAILED, UNDEFINED, exact

EXAMPLES = int(os.environ.get("MIXER_EXAMPLES", "0"))


@pytest.fixture(scope="module")
def server() -> Iterator[Opa]:
    with processes.opa() as started:
        assert started.call("PUT", "/v1/data", DATA)[0] == 204
        assert started.call("PUT", "/v1/policies/e", LIBRARY)[0] == 200
        yield started


def last_rule(module: str) -> str:
    """The name of the module's last rule, which may use all others."""
    heads = [line for line in module.splitlines() if line.startswith("r")]
    return re.split(r"[ .\[]", heads[-1])[0]


def by_opa(server: Opa, rule: str, document: Any) -> Any:
    status, answer = server.call("POST", f"/v1/data/p/{rule}", {"input": document})
    return answer.get("result", UNDEFINED) if status == 200 else FAILED


def by_embedded(program: Program, document: Any) -> Any:
    try:
        answer = program.evaluate(json.dumps(document).encode())
    except DecisionError:
        return FAILED
    return UNDEFINED if answer is None else json.loads(answer)


@settings(
    max_examples=EXAMPLES or 100,
    derandomize=not EXAMPLES,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
@given(module=modules(), documents=st.lists(INPUTS, min_size=3, max_size=3))
def test_generated_modules_have_opas_answer(
    server: Opa, module: str, documents: list[dict[str, Any]]
) -> None:
    if server.call("PUT", "/v1/policies/p", module)[0] != 200:
        return  # OPA's compiler refuses it
    rule = last_rule(module)
    loaded = Sources((Module("e.rego", LIBRARY), Module("p.rego", module)), DATA, "")
    try:
        program = Program(loaded, f"p/{rule}", budget=Budget(5.0, 2**30))
    except PolicyError:
        return
    for document in documents:
        if (ours := by_embedded(program, document)) != FAILED:
            theirs = by_opa(server, rule, document)
            assert exact(ours) == exact(theirs), module

"""What a decision can read, beside what the real OPA names for it (`opa deps`): ours covers OPA's."""

import json
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings

from mixer.errors import PolicyError
from mixer.policy.engine import Path as InputPath
from mixer.policy.program import referenced
from mixer.policy.sources import Module
from tests.components import binaries
from tests.conformance.cases import load
from tests.policy.test_references import policies

_RULE = re.compile(r"data((?:\.[A-Za-z_]\w*)+) = \w+")
_EACH = 6  # of OPA's cases that speak of input, this one of so many; each takes 0.15 s

Subject = tuple[tuple[str, ...], str]  # modules and a decision


def named_by_opa(folder: Path, subject: Subject) -> set[InputPath] | None:
    """Input paths up to what varies in them; None where OPA does not take the modules."""
    modules, decision = subject
    folder.mkdir(exist_ok=True)
    for index, text in enumerate(modules):
        (folder / f"{index}.rego").write_text(text)
    query = "data." + decision.replace("/", ".")
    command = [binaries.opa(), "deps", "-d", folder, "-f", "json", query]
    said = subprocess.run(command, capture_output=True, timeout=60, check=False)
    if said.returncode:
        return None
    found = set()
    for terms in json.loads(said.stdout).get("base", []):
        parts = [term["value"] if term["type"] in ("var", "string") else None for term in terms]
        if parts[0] == "input":
            found.add(tuple(parts[1 : parts.index(None)] if None in parts else parts[1:]))
    return found


def not_covered(subject: Subject, named: set[InputPath]) -> set[InputPath]:
    modules, decision = subject
    ours = referenced([Module(f"{index}.rego", text) for index, text in enumerate(modules)], decision).paths
    return {path for path in named if not any(path[: len(our)] == our for our in ours)}


def is_parsed(subject: Subject) -> bool:
    try:
        not_covered(subject, set())
    except PolicyError:
        return False
    return True


def test_covers_what_opa_deps_names_over_opas_own_cases(tmp_path: Path) -> None:
    subjects: dict[Subject, None] = {}
    for case in load():
        match = _RULE.fullmatch(case.query)
        if match and any("input" in module for module in case.modules):
            subjects[case.modules, match[1].removeprefix(".").replace(".", "/")] = None
    sample = [subject for subject in subjects if is_parsed(subject)][::_EACH]
    folders = [tmp_path / str(index) for index in range(len(sample))]
    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(named_by_opa, folders, sample))
    missed = {
        subject: paths
        for subject, named in zip(sample, answers, strict=True)
        if named is not None and (paths := not_covered(subject, named))
    }
    assert not missed
    assert sum(1 for named in answers if named) > 30, "the sample says something"


@settings(max_examples=50)
@given(policies)
def test_covers_what_opa_deps_names_over_generated_policies(
    tmp_path_factory: pytest.TempPathFactory, policy: str
) -> None:
    subject = (f"package p\n\n{policy}\n",), "p/allow"
    if is_parsed(subject):
        named = named_by_opa(tmp_path_factory.mktemp("policy"), subject)
        assert named is None or not not_covered(subject, named)

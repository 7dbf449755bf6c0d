"""OPA's own cases in the embedded engine: each passes, is refused at load, or is listed here with its reason."""

from collections import Counter
from functools import cache

from tests.conformance.cases import load
from tests.conformance.runner import Outcome, run

CASES = 2400
FEWEST_PASSES = 2204

_BIG = "whole numbers of regorus have 64 bits"
_STRICT = "both sides are evaluated, which shows with strict errors alone"
# Cases whose evaluation fails: neither OPA's answer nor another one, but an error to Envoy.
ERRORS = {
    "aggregates/sum integer fast-path overflow (elements fit int64, sum does not)": _BIG,
    "arithmetic/int32 window edges (results crossing into wider integers)": _BIG,
    "jsonbuiltins/unmarshal number with large exponent within limits": "regorus' floats have 11 bits of exponent",
    "logic_op/and/short-circuit: lhs fails, rhs builtin not evaluated": _STRICT,
    "logic_op/or/short-circuit: lhs succeeds, rhs builtin not evaluated": _STRICT,
    "netcidrcontainsmatches/sets of tuples": "regorus hands over no set of arrays",
    "withkeyword/builtin: nested, mock function calls original": "a replacement is replaced in itself too",
}


@cache
def outcomes() -> dict[str, Outcome]:
    return {case.name: run(case) for case in load()}


def test_every_case_is_there() -> None:
    assert len(outcomes()) == CASES


def test_no_case_is_decided_otherwise() -> None:
    different = {name: outcome.detail for name, outcome in outcomes().items() if outcome.kind == "different"}
    assert different == {}


def test_cases_that_fail_are_those_listed() -> None:
    failed = {name: outcome.detail for name, outcome in outcomes().items() if outcome.kind == "error"}
    assert {name: failed[name] for name in failed.keys() - ERRORS.keys()} == {}
    assert ERRORS.keys() - failed.keys() == set()


def test_refusals_say_where_and_what() -> None:
    refused = {name: outcome.detail for name, outcome in outcomes().items() if outcome.kind == "refused"}
    vague = {name: detail for name, detail in refused.items() if ".rego: " not in detail}
    assert vague == {}


def test_enough_cases_pass() -> None:
    assert Counter(outcome.kind for outcome in outcomes().values())["pass"] >= FEWEST_PASSES

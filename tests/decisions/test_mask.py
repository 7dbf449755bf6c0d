"""`system.log.mask` and `system.log.drop`, held to what a real OPA logs for the same policy and input."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixer.errors import PolicyError
from tests.decisions.decided import NONE, Log, decided
from tests.decisions.opa import Logging, logging_opa

DECISION = """package p

allow := input.decision
"""

FROM_INPUT = """package system.log

mask := input.input.mask

drop := input.input.drop
"""


def written(folder: Path, rules: str) -> Path:
    policies = folder / "policies"
    policies.mkdir()
    (policies / "p.rego").write_text(DECISION)
    (policies / "log.rego").write_text(rules)
    return policies


@pytest.fixture(scope="module")
def policies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Policies that take the masks from the input."""
    return written(tmp_path_factory.mktemp("mask"), FROM_INPUT)


@pytest.fixture(scope="module")
def peer(policies: Path) -> Iterator[Logging]:
    with logging_opa(policies) as opa:
        yield opa


def both(log: Log, opa: Logging, document: dict[str, Any]) -> tuple[Any, Any]:
    """What we log and what OPA logs, as far as masks and drops decide it; None where nothing is logged."""

    def seen(event: dict[str, Any] | None) -> dict[str, Any] | None:
        names = ("input", "result", "erased", "masked")
        return None if event is None else {name: event[name] for name in names if name in event}

    log.written.records.clear()
    events = log(decided(document, document.get("decision", NONE)))
    return seen(events[0] if events else None), seen(opa.event(document))


@pytest.mark.parametrize(
    "mask",
    [
        ["/input/secret"],
        ["/input/secret", "/input/headers/authorization"],
        ["/input"],
        ["/result"],
        ["/result/body"],
        ["/input", "/input/secret"],
        ["/input/list/0"],
        ["/input/list/1/a", "/input/list/01"],
        ["/input/list/9", "/input/list/-1", "/input/list/x"],
        ["/input/nope", "/input/secret/deeper"],
        ["/nd_builtin_cache", "/nd_builtin_cache/x"],
        ["/input/"],
        [{"op": "remove", "path": "/input/secret"}],
        [{"op": "remove", "path": "/input/secret", "value": 5}],
        [{"op": "upsert", "path": "/input/secret", "value": "***"}],
        [{"op": "upsert", "path": "/input/secret"}],
        [{"op": "upsert", "path": "/input/new/deep/er", "value": {"a": [1]}}],
        [{"op": "upsert", "path": "/input/secret/deeper", "value": 1}],
        [{"op": "upsert", "path": "/input/secret/deeper/still", "value": 1}],
        [{"op": "upsert", "path": "/input/list/0", "value": 1}],
        [{"op": "upsert", "path": "/input/list/7", "value": 1}],
        [{"op": "upsert", "path": "/input/list/7/a", "value": 1}],
        [{"op": "upsert", "path": "/input/list/1/new", "value": 1}],
        [{"op": "upsert", "path": "/input", "value": {"only": 1}}, "/input/only"],
        [{"op": "upsert", "path": "/input", "value": None}, {"op": "upsert", "path": "/input/a", "value": 1}],
        [{"op": "upsert", "path": "/result", "value": "hidden"}],
        [{"op": "upsert", "path": "/result/headers/x", "value": "hidden"}, "/result/headers/y"],
        ["/result", {"op": "upsert", "path": "/result", "value": "back"}],
        ["/input/secret", {"op": "upsert", "path": "/input/secret", "value": "back"}, "/input/secret"],
        # What OPA refuses is not logged.
        "/input/secret",
        {"op": "remove", "path": "/input/secret"},
        True,
        None,
        [5],
        [None],
        [["/input/secret"]],
        [""],
        ["input/secret"],
        ["/"],
        ["/other/secret"],
        ["/labels/id"],
        ["/input/a%zz"],
        [{"path": "/input/secret"}],
        [{"op": "", "path": "/input/secret"}],
        [{"op": 5, "path": "/input/secret"}],
        [{"op": "replace", "path": "/input/secret"}],
        [{"op": "remove"}],
        [{"op": "remove", "path": ""}],
        [{"op": "remove", "path": ["input"]}],
        ["/input/secret", 5],
        [],
    ],
    ids=json.dumps,
)
def test_masks_as_opa_masks(policies: Path, peer: Logging, mask: object) -> None:
    document = {
        "mask": mask,
        "secret": "s",
        "headers": {"authorization": "t", "a": "b"},
        "list": [{"a": 1}, {"a": 2, "b": 3}],
        "decision": {"allowed": True, "body": "b", "headers": {"y": "z"}},
    }
    ours, opas = both(Log(policies, secret_headers=[]), peer, document)
    assert ours == opas


@pytest.mark.parametrize("drop", [True, False, None, 1, "true", [True], {"drop": True}])
def test_drops_as_opa_drops(policies: Path, peer: Logging, drop: object) -> None:
    log = Log(policies)
    ours, opas = both(log, peer, {"drop": drop, "decision": True})
    assert ours == opas
    assert log.dropped("policy") == (drop is True)


KEYS = st.sampled_from(["a", "b", "0", "1", "c-d", "x.y", ":d", "e_f~", "$"])
DOCUMENTS = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text("abc", max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)
PATHS = st.builds(
    lambda root, parts: "/" + "/".join((root, *parts)),
    st.sampled_from(["input", "input/doc", "input/doc", "result", "result", "nd_builtin_cache"]),
    st.lists(KEYS, max_size=4),
)
MASKS = st.lists(
    PATHS
    | st.fixed_dictionaries({"op": st.just("remove"), "path": PATHS})
    | st.fixed_dictionaries({"op": st.just("upsert"), "path": PATHS, "value": DOCUMENTS}),
    max_size=5,
)


@settings(max_examples=150)
@given(document=DOCUMENTS, decision=DOCUMENTS, mask=MASKS)
def test_generated_masks_as_opa_masks(
    policies: Path, peer: Logging, document: object, decision: object, mask: object
) -> None:
    log = Log(policies, secret_headers=[])
    ours, opas = both(log, peer, {"doc": document, "decision": decision, "mask": mask})
    assert ours == opas


SET = """package system.log

mask contains "/input/b"

mask contains {"op": "upsert", "path": "/input/c", "value": count(input.input.list)}

mask contains "/input/a" if input.input.list[_] == 2

mask contains {"op": "remove", "path": sprintf("/input/list/%d", [i])} if {
	some i
	input.input.list[i] == 2
}

mask contains {"op": "upsert", "path": "/input/who", "value": who} if who := data.lib.who(input.input.a)

mask contains x if x := to_number(input.input.a)

drop if input.input.a == "drop"
"""
LIB = """package lib

who(name) := upper(name) if data.known[name]
"""


def test_set_of_masks_as_opa_masks(tmp_path: Path) -> None:
    policies = written(tmp_path, SET)
    (policies / "lib.rego").write_text(LIB)
    (policies / "data.json").write_text('{"known": {"x": true}}')
    with logging_opa(policies) as opa:
        for document in (
            {"a": "x", "b": 1, "list": [1, 2, 3], "decision": True},
            {"a": "y", "list": [2], "decision": False},
            {"decision": {"allowed": True}},
            {"a": "drop", "decision": True},
            {"a": "7", "list": [], "decision": True},  # a number is no mask: not logged
        ):
            ours, opas = both(Log(policies), opa, document)
            assert ours == opas, document


@pytest.mark.parametrize(
    ("rules", "reason"),
    [
        ("mask := 1 if input.input.a\n\nmask := 2 if input.input.b\n", "mask_failed"),
        ("drop := true if input.input.a\n\ndrop := false if input.input.b\n", "drop_failed"),
    ],
)
def test_event_is_not_logged_where_a_rule_fails(tmp_path: Path, rules: str, reason: str) -> None:
    policies = written(tmp_path, f"package system.log\n\n{rules}")
    log = Log(policies)
    with logging_opa(policies) as opa:
        ours, opas = both(log, opa, {"a": 1, "b": 2, "decision": True})
    assert ours is None
    assert opas is None
    assert log.dropped(reason) == 1


def test_keys_that_opa_passes_over_are_masked_too(policies: Path) -> None:
    document = {
        "a b": 1,
        "c/d": 2,
        "e": {"ü": 3},
        "f%2Fg": 4,
        "mask": ["/input/a b", "/input/c%2Fd", "/input/e/ü"],
    }
    [event] = Log(policies)(decided(document))
    assert event["input"] == {"e": {}, "f%2Fg": 4, "mask": document["mask"]}
    assert event["erased"] == ["/input/a%20b", "/input/c%252Fd", "/input/e/%C3%BC"]


def test_only_what_the_rules_can_reach_is_loaded(tmp_path: Path) -> None:
    policies = written(tmp_path, "package system.log\n\nmask := []\n")
    (policies / "other.rego").write_text("package other\n\nx := http.send({})\n")
    assert Log(policies).policy is not None
    (policies / "log.rego").write_text("package system.log\n\nmask := [data.other.x]\n")
    with pytest.raises(PolicyError, match=r"other\.rego: line 3"):
        Log(policies)


@pytest.mark.parametrize(
    "rules",
    ["package system.log.other\n\nmask := 5\n", "package system.log\n", "package system.log\n\nmasks := 5\n"],
)
def test_policies_without_rules_of_the_log_mask_nothing(tmp_path: Path, rules: str) -> None:
    policies = written(tmp_path, rules)
    log = Log(policies)
    assert log.policy is not None
    assert log.policy.rules == ()
    assert len(log(decided({}))) == 1

"""Which limit a descriptor meets, and under which name it is counted."""

import json
import re
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixer.ratelimit.tree import Wildcard
from tests.ratelimit.files import Entry, limits_of

LIMITS = """\
domain: d
descriptors:
- {key: a, rate_limit: {unit: day, name: a}}
- {key: a, value: x, rate_limit: {unit: day, name: a-x}}
- {key: a, value: x*, rate_limit: {unit: day, name: a-x*}}
- {key: a, value: '*y', rate_limit: {unit: day, name: a-*y}, share_threshold: true}
- {key: a, value: p*q*r, rate_limit: {unit: day, name: a-p*q*r}}
- key: b
  value: x
  descriptors:
  - {key: c, value: z, rate_limit: {unit: day, name: b-x-c-z}}
- key: b
  rate_limit: {unit: day, name: b}
  descriptors:
  - {key: c, rate_limit: {unit: day, name: b-c}}
- key: w
  value: '*'
  share_threshold: true
  descriptors:
  - {key: v, rate_limit: {unit: day, name: w-*-v}}
- {key: k*, rate_limit: {unit: day, name: k*}}
- {key: k1, value: x, rate_limit: {unit: day, name: k1-x}}
- {key: k1, value: y*, rate_limit: {unit: day, name: k1-y*}}
- {key: k1, rate_limit: {unit: day, name: k1}}
- {key: e_f, rate_limit: {unit: day, name: e_f}}
"""
DOMAIN = limits_of(LIMITS).domains["d"]


def name_of(*entries: tuple[str, str]) -> str | None:
    match = DOMAIN.match([Entry(*entry) for entry in entries])
    return match and match[0].name


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ("x", "a-x"),  # exactly
        ("xx", "a-x*"),  # wildcards before the key alone
        ("xy", "a-x*"),  # the first wildcard listed
        ("zy", "a-*y"),
        ("y", "a-*y"),  # a * may stand for nothing
        ("pqr", "a-p*q*r"),
        ("p1q2r", "a-p*q*r"),
        ("pr", "a"),  # the key alone
        ("", "a"),
        ("x*", "a-x*"),
    ],
)
def test_the_most_specific_descriptor_wins(value: str, name: str) -> None:
    assert name_of(("a", value)) == name


def test_depth_must_be_the_descriptor_s() -> None:
    assert name_of(("b", "x")) is None
    assert name_of(("b", "y")) == "b"
    assert name_of(("a", "x"), ("a", "x")) is None
    assert name_of(("b", "y"), ("c", "z"), ("c", "z")) is None
    assert name_of() is None


def test_matching_does_not_go_back_to_a_less_specific_descriptor() -> None:
    assert name_of(("b", "x"), ("c", "z")) == "b-x-c-z"
    assert name_of(("b", "x"), ("c", "other")) is None  # b-c would take it
    assert name_of(("b", "y"), ("c", "other")) == "b-c"


def test_wildcard_in_a_key_stands_in_line_with_those_in_values() -> None:
    assert name_of(("k2", "anything")) == "k*"
    assert name_of(("k1", "x")) == "k1-x"
    assert name_of(("k1", "yes")) == "k*"  # listed before y*
    assert name_of(("k1", "other")) == "k*"


def test_key_and_value_are_not_joined() -> None:
    assert name_of(("e_f", "x")) == "e_f"
    assert name_of(("e", "f")) is None


def counter(*entries: tuple[str, str]) -> str:
    match = DOMAIN.match([Entry(*entry) for entry in entries])
    assert match is not None
    return match[1]


def test_each_value_has_its_counter() -> None:
    names = [counter(("a", value)) for value in ("", "x", "xx", "xy", "b|c", "b%7Cc")]
    assert len(set(names)) == len(names)
    assert counter(("a", "xx")) == "d|a=xx|"


def test_values_of_a_shared_wildcard_have_one_counter() -> None:
    assert counter(("a", "1y")) == counter(("a", "2y")) == "d|a=*y|"
    assert counter(("w", "1"), ("v", "x")) == counter(("w", "2"), ("v", "x")) == "d|w=*|v=x|"
    assert counter(("w", "1"), ("v", "x")) != counter(("w", "1"), ("v", "y"))


def test_values_of_a_shared_wildcard_in_a_key_have_one_counter_for_each_key() -> None:
    limits = limits_of(
        "domain: d\ndescriptors: [{key: s*, share_threshold: true, rate_limit: {unit: day}}]\n"
    )
    matches = [limits.domains["d"].match([Entry(*pair)]) for pair in (("s1", "x"), ("s1", "y"), ("s2", "x"))]
    assert [match and match[1] for match in matches] == ["d|s1=%*s*|", "d|s1=%*s*|", "d|s2=%*s*|"]


def test_no_value_of_a_client_is_counted_where_values_of_a_wildcard_in_a_key_are() -> None:
    limits = limits_of(
        "domain: d\ndescriptors: [{key: s*, value: x*, share_threshold: true, rate_limit: {unit: day}}, "
        "{key: s1, rate_limit: {unit: day}}]\n"
    )
    shared, *others = (
        limits.domains["d"].match([Entry("s1", value)]) for value in ("xyz", "s*_x*", "*s*_x*", "%*s*_x*")
    )
    assert shared is not None
    assert shared[1] == "d|s1=%*s*_x*|"
    assert all(other is not None and other[1] != shared[1] for other in others)


def test_override_is_counted_where_the_limit_of_the_file_is() -> None:
    entries = [Entry("a", "xx")]
    limit, name = DOMAIN.override(entries, 7, 2)
    assert name == counter(("a", "xx"))
    assert (limit.requests_per_unit, limit.unit, limit.name, limit.label) == (7, 2, "", "d.a_xx")


PATTERN = st.text(st.sampled_from("ab*"), max_size=8)


@settings(deadline=None)  # a busy machine is no mistake
@given(PATTERN, PATTERN, st.text(st.sampled_from("ab"), max_size=10))
def test_wildcard_matches_as_a_regular_expression_would(begin: str, end: str, text: str) -> None:
    pattern = f"{begin}*{end}"
    expression = ".*".join(map(re.escape, pattern.split("*")))
    assert Wildcard(pattern).matches(text) == (re.fullmatch(expression, text) is not None)


# A model: the rules in their plainest form, over the descriptors as they stand in the file.

KEYS, VALUES = ("a", "b"), ("", "x", "y", "xy", "x*", "*y", "*", "x*y")


def descriptors(depth: int) -> st.SearchStrategy[list[dict[str, Any]]]:
    below = descriptors(depth - 1) if depth else st.just([])
    one = st.fixed_dictionaries(
        {
            "key": st.sampled_from(KEYS),
            "value": st.sampled_from(VALUES),
            "limited": st.booleans(),
            "descriptors": below,
        }
    )
    return st.lists(one, max_size=5, unique_by=lambda descriptor: (descriptor["key"], descriptor["value"]))


def expected(tree: Sequence[dict[str, Any]], entries: Sequence[Entry]) -> dict[str, Any] | None:
    """The descriptor that is met, or None."""
    if not entries:
        return None
    key, value = entries[0]
    same_key = [descriptor for descriptor in tree if descriptor["key"] == key]

    def matches(pattern: str) -> bool:
        return "*" in pattern and re.fullmatch(pattern.replace("*", ".*"), value) is not None

    candidates = [
        *(descriptor for descriptor in same_key if descriptor["value"] == value != ""),
        *(descriptor for descriptor in same_key if matches(descriptor["value"])),
        *(descriptor for descriptor in same_key if descriptor["value"] == ""),
    ]
    if not candidates:
        return None
    if len(entries) == 1:
        return candidates[0] if candidates[0]["limited"] else None
    return expected(candidates[0]["descriptors"], entries[1:])


def as_file(tree: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The tree in YAML's terms; each limit is named by the identity of its descriptor."""
    nodes = []
    for descriptor in tree:
        node: dict[str, Any] = {"key": descriptor["key"], "value": descriptor["value"]}
        node["descriptors"] = as_file(descriptor["descriptors"])
        if descriptor["limited"]:
            node["rate_limit"] = {"unit": "day", "name": str(id(descriptor))}
        nodes.append(node)
    return nodes


ENTRIES = st.lists(
    st.builds(Entry, st.sampled_from(KEYS), st.sampled_from(("", "x", "y", "xy", "xzy", "z"))), max_size=3
)


@settings(deadline=None)  # a busy machine is no mistake
@given(descriptors(2), st.lists(ENTRIES, min_size=1, max_size=10))
def test_matching_agrees_with_its_rules(tree: list[dict[str, Any]], requests: list[list[Entry]]) -> None:
    domain = limits_of(json.dumps({"domain": "d", "descriptors": as_file(tree)})).domains["d"]
    for entries in requests:
        match, model = domain.match(entries), expected(tree, entries)
        assert (match and match[0].name) == (model and str(id(model)))

"""Limits files and requests, made by chance, of what both Mixer and envoyproxy/ratelimit (January 2026) know.

Left out is what they are known to take differently: `test_ratelimit_peer` names each such thing, with its reason.
"""

from dataclasses import dataclass
from typing import Any

import yaml
from envoy.service.ratelimit.v3.rls_pb2 import RateLimitRequest
from hypothesis import strategies as st

from mixer.ratelimit.tree import UNITS

RUN = "@"  # in a domain's name: stands for the number of the run, so that no run meets another's counters

Tree = dict[str, Any]
Files = dict[str, bytes]

KEYS = st.sampled_from(("a", "b", "ab", "user"))
KEY_PATTERNS = st.sampled_from(("a*", "*"))
VALUES = st.sampled_from(("x", "xy", "é", "x y", "5", "on"))
PATTERNS = st.sampled_from(("x*", "*", "xy*"))
OTHER_VALUES = st.sampled_from(("", "x", "xy", "xyz", "z", "x*", "éa", "127.0.0.1", "a:b|c"))
SMALL_RATES, SMALL_ADDENDS = st.one_of(st.integers(0, 6), st.just(100)), st.integers(0, 7)
RATES = st.one_of(SMALL_RATES, st.sampled_from((2**31, 2**32 - 2)))
ADDENDS = st.one_of(SMALL_ADDENDS, st.sampled_from((100, 2**31, 2**32 - 1)))
DOMAINS = (f"d{RUN}", f"e.{RUN}")


@dataclass(frozen=True)
class Terms:
    """What kinds of things are made."""

    names: bool = True  # of limits, which also makes room for `replaces`
    quotas: bool = True
    overrides: bool = True
    key_patterns: bool = True
    merged: bool = False  # several files of one domain
    large: bool = True  # numbers

    @property
    def rates(self) -> st.SearchStrategy[int]:
        return RATES if self.large else SMALL_RATES

    @property
    def addends(self) -> st.SearchStrategy[int]:
        return ADDENDS if self.large else SMALL_ADDENDS


ALL = Terms()


@st.composite
def rate_limits(draw: st.DrawFn, terms: Terms, names: list[str], is_quota: bool) -> Tree:
    limit: Tree = {}
    if draw(st.integers(0, 7)) == 7:
        limit["unlimited"] = True
    else:
        unit = draw(st.sampled_from(tuple(UNITS)))
        limit["unit"] = draw(st.sampled_from((unit, unit.upper(), unit.title())))
    if "unlimited" not in limit or draw(st.booleans()):
        limit["requests_per_unit"] = draw(terms.rates)
    if is_quota or (terms.names and draw(st.booleans())):
        # A name tells a quota from an ordinary limit, in the answers too.
        limit["name"] = f"{'q' if is_quota else 'n'}{len(names)}"
        names.append(limit["name"])
    if terms.names and draw(st.integers(0, 4)) == 4:
        others = [name for name in (*names, "nobody") if name != limit.get("name")]
        chosen = draw(st.lists(st.sampled_from(others), max_size=2))
        limit["replaces"] = [{"name": name} for name in chosen]
    return limit


@st.composite
def descriptors(draw: st.DrawFn, terms: Terms, names: list[str], depth: int = 1) -> list[Tree]:
    found: dict[tuple[str, str], Tree] = {}
    for _ in range(draw(st.integers(1, 5 if depth == 1 else 2))):
        one: Tree = {"key": draw(KEYS)}
        shape = draw(st.integers(0, 9))
        if shape == 9 and terms.key_patterns:
            one["key"] = draw(KEY_PATTERNS)
        elif shape >= 3:
            one["value"] = draw(VALUES if shape < 7 else PATTERNS)
        if (one["key"] + one.get("value", "")).endswith("*") and draw(st.booleans()):
            one["share_threshold"] = True
        for flag in ("shadow_mode", "detailed_metric", "value_to_metric"):
            if draw(st.integers(0, 6)) == 6:
                one[flag] = draw(st.sampled_from((True, True, False)))
        is_quota = terms.quotas and draw(st.integers(0, 4)) == 4
        has_nested = depth < 3 and draw(st.integers(0, 2)) == 2
        if not has_nested or draw(st.booleans()):
            one["rate_limit"] = draw(rate_limits(terms, names, is_quota))
            if is_quota:
                one["quota_mode"] = True
        if has_nested:
            one["descriptors"] = draw(descriptors(terms, names, depth + 1))
        found.setdefault((one["key"], one.get("value", "")), one)
    return list(found.values())


@st.composite
def trees(draw: st.DrawFn, terms: Terms = ALL) -> dict[str, Tree]:
    """The content of limits files by name."""
    names: list[str] = []
    if terms.merged:
        # Whose wildcards are first is not defined over several files of a domain there.
        parts = draw(
            descriptors(Terms(terms.names, terms.quotas, terms.overrides, key_patterns=False), names)
        )
        plain = [one for one in parts if "*" not in one.get("value", "")]
        at = draw(st.integers(0, len(plain)))
        halves = (plain[:at], [*plain[at:], *(one for one in parts if one not in plain)])
        return {
            f"{name}.yaml": {"domain": DOMAINS[0], "descriptors": half}
            for name, half in zip("ab", halves, strict=True)
        }
    return {
        f"{domain[0]}.yaml": {"domain": domain, "descriptors": draw(descriptors(terms, names))}
        for domain in DOMAINS[: draw(st.integers(1, 2))]
    }


def files_of(trees: dict[str, Tree]) -> Files:
    return {
        name: yaml.safe_dump(tree, sort_keys=False, allow_unicode=True).encode()
        for name, tree in trees.items()
    }


@st.composite
def entries(draw: st.DrawFn, tree: Tree) -> list[tuple[str, str]]:
    """Entries of a descriptor, most of which meet something in the file."""
    found: list[tuple[str, str]] = []
    level: list[Tree] = tree["descriptors"]
    while level and len(found) < 4:
        one = draw(st.sampled_from(level))
        key, value = one["key"], one.get("value", "")
        if key.endswith("*"):
            key = key[:-1] + draw(st.sampled_from(("", "b", "zz")))
        if value.endswith("*"):
            value = value[:-1] + draw(OTHER_VALUES)
        if not value or draw(st.integers(0, 5)) == 5:
            value = draw(OTHER_VALUES)
        found.append((key, value))
        level = one.get("descriptors", [])
        if "rate_limit" in one and draw(st.booleans()):
            break
    change = draw(st.integers(0, 11))
    if change == 0:
        found.append((draw(KEYS), draw(OTHER_VALUES)))
    elif change == 1:
        found.pop()
    elif change == 2:
        found.append(("", draw(OTHER_VALUES)))
    return found


@st.composite
def requests(draw: st.DrawFn, trees: dict[str, Tree], terms: Terms = ALL) -> list[RateLimitRequest]:
    """Requests one after the other, of few descriptors, so that they reach the limits."""
    of_domain: dict[str, list[list[tuple[str, str]]]] = {}
    for tree in trees.values():
        if tree["descriptors"]:
            of_domain[tree["domain"]] = draw(st.lists(entries(tree), min_size=1, max_size=4))
    found = []
    for _ in range(draw(st.integers(1, 10))):
        domain = draw(st.sampled_from([*of_domain, *of_domain, "elsewhere"]))
        known = of_domain.get(domain) or next(iter(of_domain.values()))
        request = RateLimitRequest(domain=domain, hits_addend=draw(st.one_of(st.just(0), terms.addends)))
        for one in draw(st.lists(st.sampled_from(known), min_size=1, max_size=4)):
            descriptor = request.descriptors.add()
            for key, value in one:
                descriptor.entries.add(key=key, value=value)
            if draw(st.integers(0, 3)) == 3:
                descriptor.hits_addend.value = draw(terms.addends)
            if terms.overrides and draw(st.integers(0, 7)) == 7:
                descriptor.limit.requests_per_unit = draw(terms.rates)
                descriptor.limit.unit = draw(st.integers(1, 7))
        if draw(st.integers(0, 30)) == 30:
            request.ClearField(draw(st.sampled_from(("domain", "descriptors"))))
        found.append(request)
    return found


# Files that are wrong, or look so. Scalars are as they stand in the text.

Pairs = list[tuple[str, Any]]  # a mapping, whose keys may be given twice

SCALARS = (
    *("a", "''", '"x"', "'5'", "5", "0", "-1", "0x10", "0o7", "010", "0b11", "1_000", "+3", "4294967295"),
    *("4294967296", "9223372036854775808", "18446744073709551616", "5.0", "1e3", ".5", ".inf", "_1"),
    *("yes", "y", "N", "on", "true", "'true'", "false", "~", "null", "''", "2001-01-01", "1:30", "!!str 5"),
    *("!!timestamp 2001-01-01", "!!timestamp 2001-13-01", "!!timestamp x"),
    *("!!str yes", "!!int '5'", "!!int x", "!!float 5", "!!bool yes", "!!null ''", "!!binary aGk=", "!x a"),
    *("[]", "{}", "[a]", "[~]", "[{}]", "[{key: a}]", "{key: a}", "{5: a}", "{~: a}", "{name: a}", "[[]]"),
    *("minute", "MINUTE", "fortnight", "unknown", "\u017fecond", "minute ", '"\\u212aey"'),
)
WORDS = (
    *(
        "domain",
        "descriptors",
        "key",
        "value",
        "rate_limit",
        "unit",
        "requests_per_unit",
        "unlimited",
        "name",
    ),
    *("replaces", "shadow_mode", "quota_mode", "detailed_metric", "value_to_metric", "share_threshold"),
)
STRANGE_WORDS = ("Key", "keys", "rate-limit", "yes", "'key'", "!!str key", "5", "~", "[a]", "''")


def _pairs(tree: Any) -> Any:
    if isinstance(tree, dict):
        return [(key, _pairs(value)) for key, value in tree.items()]
    if isinstance(tree, list):
        return ("list", [_pairs(one) for one in tree])
    if isinstance(tree, bool):
        return str(tree).lower()
    return str(tree) if isinstance(tree, int) else f'"{tree}"'


def _text(node: Any) -> str:
    if isinstance(node, list):
        return "{" + ", ".join(f"? {key} : {_text(value)}" for key, value in node) + "}"
    if isinstance(node, tuple):
        return "[" + ", ".join(map(_text, node[1])) + "]"
    return str(node)


def _mappings(node: Any) -> list[Pairs]:
    if isinstance(node, list):
        return [node, *(below for _, value in node for below in _mappings(value))]
    if isinstance(node, tuple):
        return [below for one in node[1] for below in _mappings(one)]
    return []


@st.composite
def odd_files(draw: st.DrawFn) -> Files:
    """Files with up to three oddities each, as text."""
    terms = Terms(key_patterns=False)
    files = {}
    for name, tree in draw(trees(terms)).items():
        root = _pairs(tree)
        for _ in range(draw(st.integers(0, 3))):
            mapping = draw(st.sampled_from(_mappings(root)))
            at = draw(st.integers(0, len(mapping)))
            what = draw(st.integers(0, 4))
            if what == 0 and at < len(mapping):
                mapping[at] = (mapping[at][0], draw(st.sampled_from(SCALARS)))
            elif what == 1 and at < len(mapping):
                del mapping[at]
            elif what == 2:
                word = draw(st.sampled_from(WORDS))
                mapping.insert(at, (word, draw(st.sampled_from(SCALARS))))
            elif what == 3:
                mapping.insert(at, (draw(st.sampled_from(STRANGE_WORDS)), draw(st.sampled_from(SCALARS))))
            elif at < len(mapping) and isinstance(mapping[at][1], tuple) and mapping[at][1][1]:
                items = mapping[at][1][1]
                items.append(draw(st.sampled_from(items)))
        files[name] = _text(root).encode()
    if len(files) == 2 and draw(st.integers(0, 4)) == 4:
        files["f.yaml"] = files["d.yaml"]
    return files

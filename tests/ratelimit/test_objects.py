"""Limits as a policy writes them: what each field means, and what each mistake is told."""

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies
from prometheus_client import CollectorRegistry

from mixer.metrics import Metrics
from mixer.ratelimit.claims import Claim, Claims
from mixer.ratelimit.counters import MAX_HITS, SECOND, Rule
from mixer.ratelimit.limiter import IllegalLimitError
from mixer.ratelimit.objects import MAX_KEY, MAX_LIMITS, Objects
from mixer.ratelimit.tree import OverLimit
from tests.ratelimit.files import limits_of

LIMITS = """\
domain: shop
descriptors:
- {key: user, rate_limit: {unit: minute, requests_per_unit: 2, name: per-user}}
- {key: user, value: admin, rate_limit: {unlimited: true}}
"""


def objects(**options: Any) -> Objects:
    metrics = Metrics(CollectorRegistry())
    claims = Claims(limits_of(LIMITS).domains, metrics)
    return Objects(claims, metrics, counts_over=True, **options)


def limit(**fields: Any) -> dict[str, Any]:
    """A legal limit with these fields; None takes one away."""
    given = {"key": ["user", "alice"], "requests_per_unit": 5, "unit": "minute", **fields}
    return {name: value for name, value in given.items() if value is not None}


def one(reader: Objects, asked: object) -> Claim:
    (claim,) = reader.read([asked], "limits").claims
    assert claim is not None
    return claim


def rule(**fields: Any) -> Rule:
    hit = one(objects(), limit(**fields)).hit
    assert hit is not None
    return hit.rule


def test_limit_counts_as_one_of_a_file() -> None:
    assert rule() == Rule(5, 60 * SECOND)
    assert rule(unit="HOUR") == Rule(5, 3600 * SECOND)
    assert rule(unit=None, window="90s") == Rule(5, 90 * SECOND)
    assert rule(requests_per_unit=5.0) == Rule(5, 60 * SECOND)
    assert rule(algorithm="sliding_window") == Rule(5, 60 * SECOND, "sliding_window", counts_over=False)
    assert rule(algorithm="token_bucket", burst=9) == Rule(
        5, 60 * SECOND, "token_bucket", 9, counts_over=False
    )
    assert rule(count_over_limit=False) == Rule(5, 60 * SECOND, counts_over=False)
    assert rule(lot=3) == Rule(5, 60 * SECOND, lot=3)
    slots = rule(algorithm="concurrency", unit=None, lease="5m")
    assert slots == Rule(5, 300 * SECOND, "concurrency", counts_over=False)


def test_its_key_and_window_name_its_counter_and_nothing_else_does() -> None:
    reader = objects()

    def name(**fields: Any) -> str:
        hit = one(reader, limit(**fields)).hit
        assert hit is not None
        return hit.name

    assert name() == "|60|user|alice|"
    assert name(name="other", requests_per_unit=7) == name()
    assert name(key="everybody") == name(key=["everybody"])
    assert name(key=["user", 7]) == "|60|user|7|"
    names = [
        name(),
        name(unit="hour"),
        name(key=["user|alice"]),
        name(key=["user", "alice|"]),
        name(key=["user|", "alice"]),
        name(key=["user%7C", "alice"]),
        name(key=["user", "alice", "x" * 1000]),
        name(key=["user", "alice", "x" * 1001]),
    ]
    assert len(set(names)) == len(names)
    assert max(map(len, names)) < 100


def test_its_name_is_what_people_see_else_the_first_part_of_its_key() -> None:
    assert one(objects(), limit(name="per-user")).limit.label == "per-user"
    assert one(objects(), limit()).limit.label == "user"


def test_hits_are_one_unless_it_says_so() -> None:
    def hits(**fields: Any) -> tuple[int, bool]:
        claim = one(objects(), limit(**fields))
        assert claim.hit is not None
        return claim.hit.hits, claim.has_hits

    assert hits() == (1, False)
    assert hits(hits=0) == (0, True)
    assert hits(hits=12) == (12, True)
    assert hits(hits=-12) == (-12, True)


def test_flags() -> None:
    claim = one(objects(), limit(shadow_mode=True, quota_mode=True))
    assert claim.limit.shadow_mode
    assert claim.limit.quota_mode
    assert one(objects(), {"key": "vip", "unlimited": True}).hit is None


def test_what_a_client_gets_over_the_limit() -> None:
    given = {"http_status": 503, "headers": {"x-why": "busy"}, "body": {"error": "busy"}}
    assert one(objects(), limit(over_limit=given)).limit.over_limit == OverLimit(
        503, (("x-why", "busy"), ("content-type", "application/json")), '{"error":"busy"}'
    )
    text = {"body": "busy", "headers": {}}
    assert one(objects(), limit(over_limit=text)).limit.over_limit == OverLimit(429, (), "busy")
    own = {"headers": {"Content-Type": "application/problem+json"}, "body": []}
    over_limit = one(objects(), limit(over_limit=own)).limit.over_limit
    assert over_limit is not None
    assert over_limit.headers == (("Content-Type", "application/problem+json"),)


def test_descriptors_ask_for_the_limits_of_files() -> None:
    def found(*values: str, **fields: Any) -> list[tuple[str, int] | None]:
        descriptors = [[{"key": "user", "value": value}] for value in values]
        asked = [{"domain": "shop", "descriptors": descriptors, **fields}]
        return [
            claim and (claim.hit.name, claim.hit.hits) if claim is None or claim.hit else ("", 0)
            for claim in objects().read(asked, "limits").claims
        ]

    assert found("alice") == [("shop|user=alice|", 1)]
    assert found("alice", "bob", hits_addend=3) == [("shop|user=alice|", 3), ("shop|user=bob|", 3)]
    assert found("alice", hits_addend=0) == [("shop|user=alice|", 0)]
    assert found("admin") == [("", 0)]
    assert found("alice", domain="elsewhere") == [None]


def test_what_was_read_before_is_not_read_again() -> None:
    reader = objects()
    one_user, other_user = one(reader, limit()), one(reader, limit(key=["user", "bob"]))
    assert one_user.limit is other_user.limit
    assert one_user.hit is not None
    assert other_user.hit is not None
    assert one_user.hit.rule is other_user.hit.rule
    assert one(reader, limit(requests_per_unit=6)).limit is not one_user.limit


def test_what_is_remembered_is_bounded() -> None:
    reader = objects()
    for number in range(2500):
        one(reader, limit(requests_per_unit=number))
    assert len(reader._templates) <= 1000


MISTAKES: list[tuple[object, str]] = [
    ({"key": "a"}, "limits: expected an array or a set of objects, got an object"),
    ("secret", "limits: expected an array or a set of objects, got a string"),
    ([limit()] * (MAX_LIMITS + 1), "limits: expected at most 64 limits, got 65"),
    ([limit(), 7], "limits[1]: expected an object, got the number 7"),
    ([limit(key=None)], "limits[0].key: expected text or a whole number, or an array of these, got nothing"),
    ([limit(key=[])], "limits[0].key: expected 1 to 16 parts, got 0"),
    (
        [limit(key=["a", True])],
        "limits[0].key[1]: expected text or a whole number, or an array of these, got a boolean",
    ),
    (
        [limit(key=["a", ""])],
        "limits[0].key[1]: expected text or a whole number, or an array of these, got a string",
    ),
    ([limit(key=["a" * (MAX_KEY + 1)])], "limits[0].key: expected at most 2048 characters, got 2049"),
    ([limit(requests_per_unit=None)], "limits[0].requests_per_unit: expected a number, got nothing"),
    (
        [limit(requests_per_unit="5")],
        "limits[0].requests_per_unit: expected a whole number from 0 to 4294967295, got a string",
    ),
    (
        [limit(requests_per_unit=-1)],
        "limits[0].requests_per_unit: expected a whole number from 0 to 4294967295, got -1",
    ),
    (
        [limit(requests_per_unit=1.5)],
        "limits[0].requests_per_unit: expected a whole number from 0 to 4294967295, got 1.5",
    ),
    (
        [limit(unit="fortnight")],
        "limits[0].unit: expected second, minute, hour, day, week, month or year, got a string",
    ),
    (
        [limit(unit=None)],
        "limits[0].unit: expected second, minute, hour, day, week, month or year, got nothing",
    ),
    ([limit(window="1m")], "limits[0].window: expected either unit or window, got both"),
    (
        [limit(unit=None, window=60)],
        'limits[0].window: expected a duration such as "30s", "5m", "1h" or "7d", up to 366 days, got 60',
    ),
    (
        [limit(algorithm="leaky")],
        "limits[0].algorithm: expected fixed_window, sliding_window, token_bucket or concurrency, got a string",
    ),
    ([limit(burst=3)], "limits[0].burst: expected no burst beside algorithm: fixed_window, got 3"),
    (
        [limit(algorithm="concurrency", unit=None)],
        "limits[0].lease: expected how long a slot is held at most, got nothing",
    ),
    ([limit(unlimited=True)], "limits[0].unit: expected no unit beside unlimited: true, got a string"),
    ([limit(shadow_mode="yes")], "limits[0].shadow_mode: expected true or false, got a string"),
    ([limit(name="x" * 201)], "limits[0].name: expected at most 200 characters, got 201"),
    ([limit(name=["secret"])], "limits[0].name: expected text, got a list"),
    (
        [limit(requests_per_minute=5)],
        'limits[0].requests_per_minute: unknown field; did you mean "requests_per_unit"?',
    ),
    ([limit(value="x")], "limits[0].value: unknown field; known here: "),
    ([limit(replaces=[])], "limits[0].replaces: has its place in a file; leave the limit out"),
    (
        [limit(hits=1.5)],
        f"limits[0].hits: expected a whole number from -{MAX_HITS} to {MAX_HITS}, got the number 1.5",
    ),
    (
        [limit(algorithm="concurrency", unit=None, lease="1m", hits=2)],
        "limits[0].hits: expected a whole number from 0 to 1, got the number 2",
    ),
    ([limit(over_limit="no")], "limits[0].over_limit: expected an object, got a string"),
    (
        [limit(over_limit={"status": 1})],
        "limits[0].over_limit.status: unknown field; known here: body, headers, http_status",
    ),
    (
        [limit(over_limit={"http_status": 200})],
        "limits[0].over_limit.http_status: expected a status from 400 on that Envoy knows, got the number 200",
    ),
    (
        [limit(over_limit={"headers": {"a b": "c"}})],
        "limits[0].over_limit.headers: expected names of HTTP headers",
    ),
    (
        [limit(over_limit={"headers": {"a": "b\r\nc"}})],
        "limits[0].over_limit.headers['a']: expected text of one line, at most 4096 characters, got a string",
    ),
    (
        [limit(over_limit={"body": "x" * 65537})],
        "limits[0].over_limit.body: expected at most 65536 characters, got 65537",
    ),
    ([{"descriptors": []}], "limits[0].domain: expected text, got nothing"),
    ([{"domain": "shop", "descriptors": []}], "limits[0]: descriptors: expected 1 to 1000, got 0"),
    (
        [{"domain": "shop", "descriptors": [{"key": "a", "value": "b"}]}],
        "limits[0].descriptors[0]: expected an array, got an object",
    ),
    (
        [{"domain": "shop", "descriptors": [[{"key": "a"}]]}],
        "limits[0].descriptors[0][0]: expected an object with key and value, got an object",
    ),
    (
        [{"domain": "shop", "descriptors": [[{"key": "a", "value": 1}]]}],
        "limits[0].descriptors[0][0].value: expected text, got the number 1",
    ),
    (
        [{"domain": "shop", "descriptors": [[{"key": "a", "value": "b"}]], "hits": 1}],
        "limits[0].hits: has no meaning beside descriptors; known here: descriptors, domain, hits_addend",
    ),
    (
        [{"domain": "shop", "descriptors": [[{"key": "a", "value": "b"}]], "hits_addend": -1}],
        f"limits[0].hits_addend: expected a whole number from 0 to {MAX_HITS}, got the number -1",
    ),
]


@pytest.mark.parametrize(("asked", "mistake"), MISTAKES, ids=[mistake[:50] for _, mistake in MISTAKES])
def test_mistake_names_the_rule_the_field_and_no_secret(asked: object, mistake: str) -> None:
    with pytest.raises(IllegalLimitError) as raised:
        objects().read(asked, "limits")
    assert str(raised.value).startswith(f"illegal limit: {mistake}")
    assert raised.value.reason == "illegal"
    assert "secret" not in str(raised.value)


JSON = strategies.recursive(
    strategies.none()
    | strategies.booleans()
    | strategies.integers(-(2**63), 2**64 - 1)
    | strategies.floats(allow_nan=False, allow_infinity=False)
    | strategies.text(max_size=20),
    lambda inner: (
        strategies.lists(inner, max_size=3)
        | strategies.dictionaries(strategies.text(max_size=10), inner, max_size=3)
    ),
    max_leaves=6,
)
FIELDS = strategies.sampled_from(
    ["key", "requests_per_unit", "unit", "window", "name", "algorithm", "burst", "lease", "lot", "count_over_limit",
     "unlimited", "hits", "shadow_mode", "quota_mode", "over_limit", "replaces", "domain", "descriptors", "hits_addend",
     "value", "metadata", "<<"]
)  # fmt: skip


@given(strategies.dictionaries(FIELDS, JSON, max_size=4), strategies.booleans())
def test_whatever_a_policy_says_is_a_limit_or_a_clear_mistake(fields: dict[str, Any], legal: bool) -> None:
    asked = {**limit(), **fields} if legal else fields
    mistake = ""
    found: tuple[Claim | None, ...] = ()
    try:
        found = objects().read([asked], "limits").claims
    except IllegalLimitError as error:
        mistake = str(error)
    assert bool(found) is not mistake.startswith("illegal limit: limits[0]")
    assert len(mistake) < 400
    assert "YAML" not in mistake
    assert all(claim is None or claim.limit.rule is None or claim.hit for claim in found)


def test_each_field_is_told_beside_the_example_policies() -> None:
    readme = Path(__file__).parents[2].joinpath("policies", "README.md").read_text("utf-8")
    first_cells = re.findall(r"^\| (`[^|]+) \|", readme.partition("## Limits")[2], re.MULTILINE)
    with pytest.raises(IllegalLimitError) as caught:
        objects().read([limit(xyz=1)], "limits")
    _, _, known = str(caught.value).partition("known here: ")
    assert sorted(re.findall(r"`(\w+)`", "".join(first_cells))) == sorted(known.split(", "))


def test_slots_are_refused_where_nothing_gives_them_back() -> None:
    with pytest.raises(IllegalLimitError, match=r"limits\[0\].algorithm: use redis"):
        objects(slots="use redis").read([limit(algorithm="concurrency", unit=None, lease="5m")], "limits")
